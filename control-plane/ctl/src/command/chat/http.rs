//! Asks over HTTP: one connection for each stream, server-sent events back.

use std::cell::RefCell;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use ntonix_llm::Decoder;
use ntonix_runtime::tasks;

use super::{
    Question,
    answer::{Answer, Problem},
    screen::Screen,
};
use crate::connect::dial;

/// The largest event of an answer, in bytes.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Asks as often as was wished, all at once; why each of those that failed has failed.
pub(super) async fn ask(question: &Question<'_>, screen: &RefCell<Screen<'_>>) -> anyhow::Result<Vec<String>> {
    let streams = usize::from(question.args.streams);
    let failures = try_join_all((0..streams).map(|stream| one(question, stream, screen))).await?;
    Ok(failures.into_iter().flatten().collect())
}

async fn one(question: &Question<'_>, stream: usize, screen: &RefCell<Screen<'_>>) -> anyhow::Result<Option<String>> {
    match exchange(question, stream, screen).await? {
        Ok(()) => {
            screen.borrow_mut().end(stream)?;
            Ok(None)
        }
        Err(reason) => {
            screen.borrow_mut().fail(stream, &reason)?;
            Ok(Some(reason))
        }
    }
}

/// The outer error is ours (nobody there, nowhere to write), the inner one the answer's.
async fn exchange(
    question: &Question<'_>,
    stream: usize,
    screen: &RefCell<Screen<'_>>,
) -> anyhow::Result<Result<(), String>> {
    let response = send(question).await?;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        return Ok(Err(format!("{status}: {}", Problem::in_body(&body))));
    }
    let (mut body, mut decoder, mut answer) = (response.into_body(), Decoder::new(EVENT_BYTES_MAX), Answer::default());
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            // After the last event it does not matter how the connection ends.
            Err(error) => return Ok(answer.end().map_err(|_| format!("the connection broke: {error}"))),
        };
        if let Err(error) = decoder.feed(frame.data_ref().map_or(&[], |data| data.as_ref())) {
            return Ok(Err(error.to_string()));
        }
        for event in decoder.by_ref() {
            match answer.read(&event.data) {
                Ok(text) => screen.borrow_mut().show(stream, &text)?,
                Err(reason) => return Ok(Err(reason)),
            }
        }
    }
    Ok(answer.end())
}

async fn send(question: &Question<'_>) -> anyhow::Result<Response<Incoming>> {
    let url = &question.args.url;
    let wire = dial(url, question.tls, &[b"http/1.1"]).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
    // It ends with the response; what breaks it shows there.
    tasks::spawn("connection", connection);
    let authority = url.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let path = question.url("/v1/chat/completions");
    let mut request = Request::post(path_of(&path, authority))
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream");
    if let Some(authorization) = question.authorization() {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = request.body(Full::new(Bytes::from(question.body().to_string())))?;
    sender.send_request(request).await.with_context(|| format!("{url} does not answer"))
}

/// What comes after the authority in a URL.
fn path_of<'a>(url: &'a str, authority: &str) -> &'a str {
    url.split_once(authority).map_or("/", |(_, path)| path)
}
