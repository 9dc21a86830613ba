//! One attempt: asks the backend that was picked and judges its head, up to the first event.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use ntonix_llm::{BackendError, estimate, openai, reply};
use tokio::time::{Instant, timeout_at};

use crate::{
    balance::Picked,
    exchange::{Exchange, Reply, Source},
    refusal::{Blame, Kind, Refusal},
    relay::{Passage, Relay, Tally, nesting::Nesting},
    routing::Route,
    upstream::{self, Answer, Body, IfLost, headers},
};

/// A body that is not a stream is gathered up to here, so that a cut before it is complete can still be retried; a
/// larger one is passed on as it comes.
const GATHERED_MOST: usize = 1024 * 1024;
/// What is read of the body of an error.
const ERROR_MOST: usize = 64 * 1024;

/// Asks `picked` and returns once the first event, the whole body or an error is here. `model` is the name that the
/// backend knows.
pub(crate) async fn attempt(exchange: &Exchange, mut picked: Picked, model: Option<&str>) -> Result<Reply, Refusal> {
    let route = Arc::clone(exchange.route()?);
    let first_token_at = (exchange.started + route.spec.deadlines.first_token).min(exchange.over_at);
    let attempt = Attempt { exchange, route, first_token_at };
    let outcome = match timeout_at(first_token_at, attempt.run(&picked, model)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(attempt.too_late()),
    };
    // A client that leaves drops this future before here: then nothing was learned of the backend.
    match &outcome {
        Ok(Opened::Full(status, ..)) if status.is_server_error() => picked.failed(&answered(*status)),
        Ok(Opened::Full(..)) => picked.succeeded(),
        Ok(Opened::Stream(..) | Opened::Passage(..)) => picked.begun(),
        Err(refusal) if refusal.kind().blame() == Blame::Backend => picked.failed(refusal),
        Err(_) => {}
    }
    outcome.map(|opened| opened.into_reply(picked))
}

struct Attempt<'a> {
    exchange: &'a Exchange,
    route: Arc<Route>,
    first_token_at: Instant,
}

/// An answer as far as it must be known before the client hears of it.
enum Opened {
    Full(StatusCode, HeaderMap, Bytes, Tally),
    Stream(HeaderMap, Box<Relay>),
    Passage(HeaderMap, Box<Passage>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Complete {
    Yes,
    No,
}

// === impl Attempt ===

impl Attempt<'_> {
    async fn run(&self, picked: &Picked, model: Option<&str>) -> Result<Opened, Refusal> {
        let call = &self.exchange.call;
        // Usage is asked for behind the client's back and taken out again: what was streamed is always counted.
        let ask_usage = call.stream && !call.include_usage;
        let body = call.body_for(model, ask_usage);
        let mut asked = 0;
        // Who allows no retries wants no generation to be paid for twice.
        let if_lost = if self.route.spec.retries > 0 { IfLost::AskAgain } else { IfLost::Tell };
        let connect_within = self.route.spec.deadlines.connect;
        let answer = upstream::ask(&picked.backend.connector, connect_within, if_lost, || {
            asked += 1;
            if asked > 1 {
                // The first was written to a connection that had been closed; the backend may have seen it all the same.
                picked.backend.metrics.attempts.inc();
                self.exchange.record.facts().attempts += 1;
            }
            request(self.exchange, picked, body.clone())
        })
        .await?;
        if is_framed_twice(&answer.headers) {
            return Err(Refusal::new(Kind::UpstreamProtocol, "the backend's answer has two lengths"));
        }
        if answer.status != StatusCode::OK {
            self.refused(answer).await
        } else if call.stream {
            self.open_stream(answer, ask_usage).await
        } else {
            self.gather(answer).await
        }
    }

    async fn open_stream(&self, mut answer: Answer, ask_usage: bool) -> Result<Opened, Refusal> {
        let seen = headers::downstream(&answer.headers);
        if !has_type(&answer.headers, "text/event-stream") {
            return Err(not_a_stream(&gather(&mut answer.body, ERROR_MOST).await?.0));
        }
        // Identity was asked for: what is compressed cannot be watched, and half of it cannot be told from the whole.
        if answer.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Refusal::new(Kind::UpstreamProtocol, "the backend compressed an event stream"));
        }
        let mut relay = Relay::new(self.exchange, &self.route, answer.body, ask_usage);
        relay.open().await?;
        Ok(Opened::Stream(seen, Box::new(relay)))
    }

    async fn gather(&self, mut answer: Answer) -> Result<Opened, Refusal> {
        let seen = headers::downstream(&answer.headers);
        if !has_type(&answer.headers, "application/json") {
            return Err(Refusal::new(Kind::UpstreamProtocol, "the backend's answer is not JSON"));
        }
        match gather(&mut answer.body, GATHERED_MOST).await? {
            (all, Complete::Yes) if is_unframed(&answer.headers) && !is_json(&all) => {
                let public = format!("the backend's answer ended after {} bytes, before it was finished", all.len());
                Err(Refusal::new(Kind::UpstreamReset, public))
            }
            (all, Complete::Yes) => {
                let usage = reply::usage_of(&all);
                let generated = || estimate::tokens(reply::text_bytes(&all));
                let generated = usage.map_or_else(generated, |usage| usage.completion_tokens);
                let tally = Tally { generated, usage, ..Tally::default() };
                Ok(Opened::Full(StatusCode::OK, seen, all, tally))
            }
            (start, Complete::No) => {
                let nesting = is_unframed(&answer.headers).then(Nesting::default);
                let passage = Passage::new(self.exchange, &self.route, start, answer.body, nesting);
                Ok(Opened::Passage(seen, Box::new(passage)))
            }
        }
    }

    /// The backend answered something else than 200.
    async fn refused(&self, mut answer: Answer) -> Result<Opened, Refusal> {
        let status = answer.status;
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(Refusal::new(Kind::UpstreamProtocol, "the backend refused the gateway's credential"));
        }
        if !status.is_client_error() && !status.is_server_error() {
            let public = format!("the backend answered {} instead of 200", status.as_u16());
            return Err(Refusal::new(Kind::UpstreamProtocol, public));
        }
        let (body, _) = gather(&mut answer.body, ERROR_MOST).await?;
        let error = match reply::backend_error(&body) {
            Some(error) => error,
            // Whatever its form, it blames the request: to count it against the backend would let one client take a
            // backend from all others.
            None if status.is_client_error() => without_words(status),
            None => {
                let public =
                    format!("the backend answered {} with something that is no error in JSON", status.as_u16());
                return Err(Refusal::new(Kind::UpstreamProtocol, public));
            }
        };
        let mut seen = headers::downstream(&answer.headers);
        seen.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Opened::Full(status, seen, openai_form(body, &error, &self.exchange.id), Tally::default()))
    }

    fn too_late(&self) -> Refusal {
        if self.first_token_at < self.exchange.over_at {
            let missing = if self.exchange.call.stream { "no first token" } else { "no whole answer" };
            let public = format!("{missing} within {:?}", self.route.spec.deadlines.first_token);
            return Refusal::new(Kind::UpstreamTimeout, public);
        }
        Refusal::new(Kind::DeadlineExceeded, format!("not finished within {:?}", self.route.spec.deadlines.total))
    }
}

// === impl Opened ===

impl Opened {
    fn into_reply(self, picked: Picked) -> Reply {
        match self {
            Opened::Full(status, headers, body, tally) => Reply::whole(status, headers, body, tally),
            Opened::Stream(headers, mut relay) => {
                relay.hold(picked);
                Reply::stream(headers, Source::Relay(relay))
            }
            Opened::Passage(headers, mut passage) => {
                passage.hold(picked);
                Reply::stream(headers, Source::Passage(passage))
            }
        }
    }
}

fn request(exchange: &Exchange, picked: &Picked, body: Bytes) -> Request<Bytes> {
    let connector = &picked.backend.connector;
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = connector.uri(exchange.call.op.path());
    *request.headers_mut() = headers::upstream(&exchange.headers, exchange.client.address.hop(), &exchange.id);
    connector.set_host(request.headers_mut());
    if let Some(credential) = &picked.pool.credential {
        request.headers_mut().insert(header::AUTHORIZATION, credential.clone());
    }
    request
}

/// Reads a body up to `most` bytes; says whether that was all of it.
async fn gather(body: &mut Body, most: usize) -> Result<(Bytes, Complete), Refusal> {
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        match whole.take() {
            // Most bodies come in one piece, which is passed on as it is.
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(first.as_deref().unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
        if joined.len() > most {
            return Ok((joined.freeze(), Complete::No));
        }
    }
    Ok((whole.unwrap_or_else(|| joined.freeze()), Complete::Yes))
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case(wanted)
}

/// Is the close of its connection all that ends the body? A backend that dies closes it too. What is compressed cannot
/// be looked into.
fn is_unframed(headers: &HeaderMap) -> bool {
    let framing = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONTENT_ENCODING];
    !framing.iter().any(|name| headers.contains_key(name))
}

/// A length beside chunks. RFC 9112 §6.3: such a message may be an attempt at smuggling and ought to be handled as an error.
fn is_framed_twice(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING)
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// The body of an error as OpenAI clients read it: as it came when it has that form, told anew when it has another.
fn openai_form(body: Bytes, error: &BackendError, id: &str) -> Bytes {
    #[derive(serde::Deserialize)]
    struct Form {
        #[serde(rename = "error")]
        _error: serde_json::Map<String, serde_json::Value>,
    }
    if serde_json::from_slice::<Form>(&body).is_ok() {
        return body;
    }
    let kind = error.kind.as_deref().unwrap_or("server_error");
    let code = error.code.as_deref().unwrap_or("upstream_error");
    openai::error_body(&error.message, kind, code, None, id, false)
}

/// What an error of a backend is called that says nothing else, or whose words are not told.
pub(crate) fn answered(status: StatusCode) -> String {
    format!("the backend answered {}", status.as_u16())
}

/// A refusal of the request whose body says nothing that can be read.
fn without_words(status: StatusCode) -> BackendError {
    let kind = if status == StatusCode::TOO_MANY_REQUESTS { "rate_limit_error" } else { "invalid_request_error" };
    BackendError { message: answered(status), kind: Some(kind.to_owned()), code: None }
}

/// A 200 without a stream where one was asked for: an error in JSON, or nonsense.
fn not_a_stream(body: &[u8]) -> Refusal {
    match reply::backend_error(body) {
        Some(error) => Refusal::from_backend(error),
        None => Refusal::new(Kind::UpstreamProtocol, "the backend answered with something else than an event stream"),
    }
}
