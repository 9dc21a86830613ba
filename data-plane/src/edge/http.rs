//! Chat, completions and embeddings over HTTP: reads the body, asks the stack, streams the answer.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ntonix_llm::call::{Call, CallFault, Op};
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use super::{Edge, Visit, body::EdgeBody, credential, respond, stopping::Notice};
use crate::{
    exchange::{Client, Exchange, Reply},
    policy::{authenticate, observe::Observer},
    refusal::{Kind, Refusal},
};

/// How long the body of a request may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);

// === impl Edge ===

impl Edge {
    /// Answers a question. Refusals are answered here too: each is one exchange in the log.
    pub(super) async fn ask(&self, visit: Visit, op: Op) -> Response<EdgeBody> {
        let (id, stopping) = (Arc::clone(&visit.id), visit.peer.stopping.notice());
        let answered = tokio::select! {
            biased;
            // On the heap: hyper keeps room for what this future has for as long as the connection lives.
            answered = Box::pin(self.answer(visit, op)) => answered,
            // Dropped wherever it is: whoever watches it records why, and its backend is cut.
            () = stopping.come() => Err(Refusal::stopped()),
        };
        match answered {
            Ok((reply, true)) if reply.status == StatusCode::OK => events(reply, id, stopping),
            Ok((reply, _)) => bytes(reply),
            Err(refusal) => respond::response(&refusal, &id),
        }
    }

    /// The answer, and whether it was asked for as a stream.
    async fn answer(&self, visit: Visit, op: Op) -> Result<(Reply, bool), Refusal> {
        let (started, client) = (Instant::now(), visit.client());
        let door = Observer::at_the_door(self.books.clone(), &visit.id, op, &client, started);
        let exchange = match self.read(visit, op, &client, started).await {
            Ok(exchange) => exchange,
            Err(refusal) => {
                door.refused(&refusal);
                return Err(refusal);
            }
        };
        let (streams, stack) = (exchange.call.stream, self.stack.clone());
        // The stack is polled at once, and has an observer of its own from then on.
        door.pass();
        Ok((stack.oneshot(exchange).await?, streams))
    }

    /// Makes an exchange of a request. No body is read for someone without a key.
    async fn read(&self, visit: Visit, op: Op, client: &Arc<Client>, started: Instant) -> Result<Exchange, Refusal> {
        let Visit { peer, id, live, mut request } = visit;
        let shown = credential::of_headers(request.headers());
        let identity = live.identify(shown.as_ref().map(Option::as_deref).map_err(|why| *why), peer.anonymous);
        authenticate::check(&identity)?;
        check_headers(request.headers())?;
        let headers = Arc::new(credential::taken_out(std::mem::take(request.headers_mut())));
        let body = timeout(BODY_WITHIN, read_body(request.into_body(), live.limits().body));
        let body = body.await.map_err(|_| {
            Refusal::new(Kind::RequestTimeout, format!("the request body took longer than {BODY_WITHIN:?}"))
        })??;
        let call = Call::parse(op, body)?;
        Ok(Exchange::new(id, live, call, Arc::clone(client), headers, identity, started))
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    if let Some(media_type) = headers.get(header::CONTENT_TYPE) {
        let media_type = media_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let public = "the content type must be application/json";
            return Err(Refusal::new(Kind::UnsupportedMediaType, public));
        }
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(Refusal::new(Kind::UnsupportedEncoding, "compressed request bodies are not taken"))
        }
        _ => Ok(()),
    }
}

/// Reads a body of `most` bytes at most. One that comes in one piece is not copied.
async fn read_body(mut body: Incoming, most: u64) -> Result<Bytes, Refusal> {
    if body.size_hint().lower() > most {
        return Err(too_large(most));
    }
    let mut whole: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(Kind::BadRequest, "the request body was cut off or is not framed as HTTP").because(error)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        match whole.take() {
            None if joined.is_empty() => whole = Some(data),
            first => {
                joined.extend_from_slice(first.as_deref().unwrap_or_default());
                joined.extend_from_slice(&data);
            }
        }
        let length = whole.as_ref().map_or(joined.len(), Bytes::len);
        if length as u64 > most {
            return Err(too_large(most));
        }
    }
    Ok(whole.unwrap_or_else(|| joined.freeze()))
}

/// The body of a request is larger than `most` bytes.
pub(super) fn too_large(most: u64) -> Refusal {
    Refusal::new(Kind::RequestTooLarge, format!("the request body is larger than {most} bytes"))
}

fn events(reply: Reply, id: Arc<str>, stopping: Notice) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::events(reply.body, id, stopping));
    *response.headers_mut() = reply.headers;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    // Proxies in between must neither store nor gather the events.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Authorization"));
    response
}

fn bytes(reply: Reply) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::Bytes(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

impl From<CallFault> for Refusal {
    fn from(fault: CallFault) -> Self {
        let kind = if fault.code == "invalid_json" { Kind::InvalidJson } else { Kind::BadRequest };
        Refusal::new(kind, fault.message).about(fault.param)
    }
}
