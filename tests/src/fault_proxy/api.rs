//! The proxy's API: small JSON over HTTP, for people with curl and for programs.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Faults, How, ProxyState, from_json};

/// The longest body of a request, in bytes.
const BODY_MAX: usize = 64 * 1024;

type Answer = Response<Full<Bytes>>;

/// What to end, and how.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CutBody {
    how: How,
    connection: Option<u64>,
}

impl Default for CutBody {
    fn default() -> Self {
        Self { how: How::Cut, connection: None }
    }
}

/// Serves the API until the future is dropped.
///
/// # Errors
/// When the listener is not non-blocking or does not belong to a runtime's reactor.
pub async fn serve_api(listener: TcpListener, state: Arc<ProxyState>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Losing either branch loses nothing: both can be polled again.
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => drop(connections.spawn(serve_connection(tcp, state.clone()))),
                // Out of descriptors: wait for some to come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(tcp: TcpStream, state: Arc<ProxyState>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    // A caller that leaves early has its reasons.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(tcp), service).await;
}

async fn answer(request: Request<Incoming>, state: &ProxyState) -> Answer {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return fault(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or did not come");
    };
    let body = body.to_bytes();
    match (head.uri.path(), head.method) {
        ("/faults", Method::GET) => json_of(&state.faults()),
        ("/faults", Method::PUT) => match from_json::<Faults>(&body) {
            Ok(faults) => {
                state.set(faults);
                json_of(&state.faults())
            }
            Err(error) => fault(StatusCode::BAD_REQUEST, &error.to_string()),
        },
        ("/faults", Method::DELETE) => {
            state.set(Faults::default());
            json_of(&state.faults())
        }
        ("/faults", _) => not_allowed("GET, PUT, DELETE"),
        ("/connections", Method::GET) => json_of(&state.connections()),
        ("/connections", _) => not_allowed("GET"),
        ("/cut", Method::POST) => cut(&body, state),
        ("/cut", _) => not_allowed("POST"),
        _ => fault(StatusCode::NOT_FOUND, "there are /faults, /connections and /cut"),
    }
}

fn cut(body: &[u8], state: &ProxyState) -> Answer {
    let wanted = if body.is_empty() { Ok(CutBody::default()) } else { from_json(body) };
    match wanted {
        Ok(CutBody { how: How::Stall | How::HalfClose, .. }) => fault(
            StatusCode::BAD_REQUEST,
            "live connections can be ended by cut or reset; stalls and half-closes are faults",
        ),
        Ok(CutBody { how, connection }) => json_of(&json!({ "cut": state.cut(how, connection) })),
        Err(error) => fault(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn json_of(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => reply(StatusCode::OK, body),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn fault(status: StatusCode, message: &str) -> Answer {
    reply(status, json!({ "error": message }).to_string().into_bytes())
}

fn not_allowed(methods: &'static str) -> Answer {
    let mut answer = fault(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {methods}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn reply(status: StatusCode, mut body: Vec<u8>) -> Answer {
    body.push(b'\n');
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
