//! The protocols of clients: which one a request speaks, and what is done with it.
//!
//! Only this folder knows how a client speaks; behind it there are [`Exchange`](crate::exchange::Exchange)s.

mod body;
mod cors;
mod credential;
mod http;
mod models;
pub(crate) mod respond;
mod stopping;
mod websocket;

use std::{sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use ntonix_llm::call::Op;
use ntonix_runtime::drain::Drain;
use tower::util::BoxCloneSyncService;

pub(crate) use self::{body::EdgeBody, cors::Origins, stopping::Stopping};
use crate::{
    exchange::{Client, ClientAddress, Exchange, Leave, Reply, Transport},
    listener::{Tenure, guard::Activity, streams},
    live::{self, Live},
    refusal::{Kind, Refusal},
    upstream::headers::X_REQUEST_ID,
    usage::Books,
};

/// The stack, as an edge calls it.
pub(crate) type Stack = BoxCloneSyncService<Exchange, Reply, Refusal>;

/// Takes the requests of one thread's connections.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Where exchanges go.
    pub(crate) stack: Stack,
    /// What runs.
    pub(crate) cell: Arc<live::Cell>,
    /// Pages that may talk to us from a browser.
    pub(crate) origins: Origins,
    /// Where it is written down what became of exchanges.
    pub(crate) books: Books,
    /// How long a client may read nothing while there is something to read.
    pub(crate) stall: Duration,
    /// Whether this worker is going away.
    pub(crate) drain: Drain,
}

/// The connection that a request came by.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: Arc<ClientAddress>,
    /// The listener serves configurations without keys.
    pub(crate) anonymous: bool,
    /// The gateway goes away now.
    pub(crate) stopping: Arc<Stopping>,
    /// Its requests under way.
    pub(crate) activity: Arc<Activity>,
    /// Its place; given back when the last one who uses the connection is gone.
    pub(crate) _tenure: Tenure,
}

/// A request with what every path needs.
struct Visit {
    peer: Arc<Peer>,
    id: Arc<str>,
    live: Arc<Live>,
    request: Request<Incoming>,
}

// === impl Peer ===

impl Peer {
    /// Why an exchange of this connection may be dropped; asked in the task that serves it.
    fn leave(&self) -> Leave {
        Leave { activity: Arc::clone(&self.activity), stream: streams::current(), stopping: Arc::clone(&self.stopping) }
    }
}

// === impl Edge ===

impl Edge {
    /// Answers one request.
    pub(crate) async fn serve(self: Arc<Self>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<EdgeBody> {
        let id = request_id(request.headers());
        let origin = request.headers().get(header::ORIGIN).cloned();
        let address = Arc::clone(&peer.address);
        if let Some(preflight) = self.origins.preflight(&request) {
            return preflight;
        }
        let mut response = match self.cell.load() {
            Some(live) => Arc::clone(&self).dispatch(Visit { peer, id: Arc::clone(&id), live, request }).await,
            None => Err(Refusal::new(Kind::NotConfigured, "this gateway has no configuration yet")
                .retry_after(Duration::from_secs(1))),
        }
        .unwrap_or_else(|refusal| self.refuse(&refusal, &address, &id));
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        self.origins.allow(origin.as_ref(), response.headers_mut());
        response
    }

    /// Answers a request that is no exchange: no access line tells of it.
    fn refuse(&self, refusal: &Refusal, address: &ClientAddress, id: &str) -> Response<EdgeBody> {
        self.books.metrics.refused_request(refusal.kind());
        tracing::debug!(client.addr = %address, code = refusal.kind().as_label(), "Request refused");
        respond::response(refusal, id)
    }

    async fn dispatch(self: Arc<Self>, visit: Visit) -> Result<Response<EdgeBody>, Refusal> {
        let path = visit.request.uri().path();
        let method = visit.request.method();
        if let Some(op) = Op::from_path(path) {
            return match *method {
                Method::POST => Ok(self.ask(visit, op).await),
                _ => Err(not_allowed("POST")),
            };
        }
        if path == "/v1/models" || path.starts_with("/v1/models/") {
            return match *method {
                Method::GET | Method::HEAD => self.models(&visit),
                _ => Err(not_allowed("GET, HEAD")),
            };
        }
        match (path, method) {
            ("/v1/ws", &Method::GET) => self.upgrade(visit),
            ("/v1/ws", _) => Err(not_allowed("GET")),
            _ => Err(Refusal::new(Kind::NotFound, not_here(path))),
        }
    }
}

fn not_allowed(allowed: &'static str) -> Refusal {
    Refusal::new(Kind::MethodNotAllowed, format!("this path takes {allowed} only")).allowing(allowed)
}

fn not_here(path: &str) -> String {
    const SERVED: &str = "/v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models and /v1/ws";
    match path {
        "/v1/responses" | "/v1/messages" => format!("{path} is not served by this gateway yet; it serves {SERVED}"),
        _ => format!("there is nothing at this path; this gateway serves {SERVED}"),
    }
}

/// The client's own id when it is a sensible one, or a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let sensible = |id: &str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    match headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()) {
        Some(id) if sensible(id) => id.into(),
        _ => new_request_id(),
    }
}

/// 128 random bits in hex. It names an exchange; it protects nothing.
fn new_request_id() -> Arc<str> {
    const PREFIX: &[u8] = b"req_";
    let mut id = [0; PREFIX.len() + 32];
    let (prefix, digits) = id.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(fastrand::u128(..).to_be_bytes()) {
        for (digit, value) in pair.iter_mut().zip([byte >> 4, byte & 0xf]) {
            *digit = b"0123456789abcdef"[usize::from(value)];
        }
    }
    str::from_utf8(&id).unwrap_or_default().into()
}

impl Visit {
    fn client(&self) -> Arc<Client> {
        let transport = match self.request.version() {
            ::http::Version::HTTP_2 => Transport::Http2,
            _ => Transport::Http1,
        };
        Arc::new(Client { address: Arc::clone(&self.peer.address), transport, leave: self.peer.leave() })
    }
}
