//! Health and metrics for machines, over HTTP/1.1 on a port of their own.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{metrics, tasks};

/// Connections at once: probes and scrapers are few, and a flood must not take the descriptors of traffic.
const CONNECTIONS_MAX: usize = 64;
/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages say. Called for each request: it must not block.
pub trait Probes: Send + Sync + 'static {
    /// Whether the process can take work.
    fn ready(&self) -> Readiness;
    /// The metrics as text.
    fn metrics(&self) -> String;
}

/// Whether a process can take work, and what it has to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can: 200.
    Ready(String),
    /// It cannot: 503.
    NotReady(String),
}

/// Serves `/livez`, `/readyz`, `/healthz`, `/health` (the last two as `/readyz`) and `/metrics` for as long as it is polled.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub async fn serve(listener: std::net::TcpListener, probes: Arc<dyn Probes>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                tasks::spawn("probe", converse(stream, probes.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "Accept failed on the operations port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, probes: Arc<dyn Probes>, _place: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), probes.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "Operations connection ended");
    }
}

fn answer(method: &Method, path: &str, probes: &dyn Probes) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is served here\n".to_owned());
    }
    match path {
        "/livez" => page(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" | "/healthz" | "/health" => match probes.ready() {
            Readiness::Ready(text) => page(StatusCode::OK, TEXT, text + "\n"),
            Readiness::NotReady(text) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text + "\n"),
        },
        "/metrics" => page(StatusCode::OK, metrics::CONTENT_TYPE, probes.metrics()),
        _ => page(StatusCode::NOT_FOUND, TEXT, "here are /livez /readyz /healthz /health /metrics\n".to_owned()),
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::{ReusePort, bind};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    struct Fixed(Readiness);

    impl Probes for Fixed {
        fn ready(&self) -> Readiness {
            self.0.clone()
        }

        fn metrics(&self) -> String {
            "up 1\n# EOF\n".to_owned()
        }
    }

    async fn ask(readiness: Readiness, request: &str) -> String {
        let listener = bind("127.0.0.1:0".parse().unwrap(), ReusePort::No).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tasks::spawn("server", serve(listener, Arc::new(Fixed(readiness))));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        server.abort();
        reply
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_says_503_and_why() {
        let reply = ask(Readiness::NotReady("no configuration yet".to_owned()), "GET /readyz").await;
        assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
        assert!(reply.ends_with("\r\n\r\nno configuration yet\n"), "{reply}");
    }

    #[tokio::test]
    async fn it_lives_even_when_it_is_not_ready() {
        let reply = ask(Readiness::NotReady(String::new()), "GET /livez").await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }

    #[tokio::test]
    async fn all_names_of_readiness_agree() {
        for path in ["/readyz", "/healthz", "/health"] {
            let reply = ask(Readiness::Ready("revision 3".to_owned()), &format!("GET {path}")).await;
            assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("revision 3\n"), "{reply}");
        }
    }

    #[tokio::test]
    async fn metrics_name_their_format() {
        let reply = ask(Readiness::Ready(String::new()), "GET /metrics").await;
        assert!(reply.contains("content-type: application/openmetrics-text"), "{reply}");
        assert!(reply.ends_with("up 1\n# EOF\n"), "{reply}");
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let ready = Readiness::Ready(String::new());
        assert!(ask(ready.clone(), "GET /secrets").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(ready, "POST /livez").await.starts_with("HTTP/1.1 405 "));
    }
}
