//! Asks over the WebSocket protocol `ntonix.v1`: all streams on one socket.

use std::{cell::RefCell, collections::HashMap};

use anyhow::{Context, anyhow};
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{ClientRequestBuilder, Error, Message},
};

use super::{
    Question,
    answer::{Answer, Chunk, Problem},
    screen::Screen,
};
use crate::connect::{Wire, dial};

const PROTOCOL: &str = "ntonix.v1";

/// What the gateway sends, as far as it is needed here.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum Frame {
    Delta {
        id: String,
        d: Chunk,
    },
    Done {
        id: String,
    },
    Error {
        id: Option<String>,
        #[serde(default)]
        error: Problem,
    },
    #[serde(other)]
    Other,
}

/// The streams that are not over, by the number that is their id.
struct Session<'a, 'b> {
    live: HashMap<String, (usize, Answer)>,
    failures: Vec<String>,
    screen: &'a RefCell<Screen<'b>>,
}

/// Asks as often as was wished, all at once; why each of those that failed has failed.
pub(super) async fn ask(question: &Question<'_>, screen: &RefCell<Screen<'_>>) -> anyhow::Result<Vec<String>> {
    let mut socket = open(question).await?;
    let mut session = Session { live: HashMap::new(), failures: Vec::new(), screen };
    for stream in 0..usize::from(question.args.streams) {
        let id = (stream + 1).to_string();
        let create = json!({ "t": "create", "id": id, "op": "chat.completions", "body": question.body() });
        socket.feed(Message::text(create.to_string())).await?;
        session.live.insert(id, (stream, Answer::default()));
    }
    socket.flush().await?;
    while !session.live.is_empty() {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => session.hear(&text)?,
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                session.fail_all("the connection closed before the answer was complete")?
            }
            Some(Ok(_)) => {}
        }
    }
    // The answers are complete; how the socket ends is of no interest any more.
    _ = socket.close(None).await;
    Ok(session.failures)
}

async fn open(question: &Question<'_>) -> anyhow::Result<WebSocketStream<Box<dyn Wire>>> {
    let wire = dial(&question.args.url, question.tls, &[b"http/1.1"]).await?;
    // "http://host/…" becomes "ws://host/…", and "https" becomes "wss".
    let uri: Uri = question.url("/v1/ws").replacen("http", "ws", 1).parse()?;
    let mut request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
    if let Some(authorization) = question.authorization() {
        request = request.with_header("Authorization", authorization);
    }
    match client_async(request, wire).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(anyhow!("{}: {}", response.status(), Problem::in_body(body)))
        }
        Err(error) => Err(error).with_context(|| format!("{} does not open a WebSocket", question.args.url)),
    }
}

// === impl Session ===

impl Session<'_, '_> {
    fn hear(&mut self, text: &str) -> anyhow::Result<()> {
        let frame: Frame = serde_json::from_str(text).context("a frame is not as it should be")?;
        match frame {
            Frame::Delta { id, d } => {
                let Some((stream, answer)) = self.live.get_mut(&id) else { return Ok(()) };
                match answer.take(d) {
                    Ok(text) => Ok(self.screen.borrow_mut().show(*stream, &text)?),
                    Err(reason) => self.fail(&id, reason),
                }
            }
            Frame::Done { id } => {
                if let Some((stream, _)) = self.live.remove(&id) {
                    self.screen.borrow_mut().end(stream)?;
                }
                Ok(())
            }
            Frame::Error { id: Some(id), error } => self.fail(&id, error.describe()),
            Frame::Error { id: None, error } => self.fail_all(&error.describe()),
            Frame::Other => Ok(()),
        }
    }

    fn fail(&mut self, id: &str, reason: String) -> anyhow::Result<()> {
        if let Some((stream, _)) = self.live.remove(id) {
            self.screen.borrow_mut().fail(stream, &reason)?;
            self.failures.push(reason);
        }
        Ok(())
    }

    fn fail_all(&mut self, reason: &str) -> anyhow::Result<()> {
        let mut ids: Vec<(usize, String)> = self.live.iter().map(|(id, (stream, _))| (*stream, id.clone())).collect();
        ids.sort();
        ids.into_iter().try_for_each(|(_, id)| self.fail(&id, reason.to_owned()))
    }
}
