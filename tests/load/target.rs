//! The cheapest client that can be had: a connection of HTTP/1.1 or HTTP/2, polled by the task that uses it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_runtime::tls;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either;

use crate::settings::{Load, Over};

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    authority: String,
    prefix: String,
    bearer: Option<HeaderValue>,
    over: Over,
    tls: Option<Tls>,
}

/// Whom to expect behind TLS.
#[derive(Debug, Clone)]
struct Tls {
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
}

/// What requests go over, below HTTP.
pub(crate) type Socket = either::Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// One open connection; of HTTP/2, a handle of it.
pub(crate) struct Connection {
    target: Target,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

// === impl Target ===

impl Target {
    /// What is at `url`, spoken to as `load` says.
    pub(crate) fn new(url: &str, load: &Load) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        let (Some(authority), Some(scheme @ ("http" | "https"))) = (uri.authority(), uri.scheme_str()) else {
            bail!("{url:?} must begin with http:// or https:// and name a host");
        };
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let bearer = load
            .key
            .as_ref()
            .map(|key| format!("Bearer {key}").parse())
            .transpose()
            .context("the key is no header value")?;
        let tls = (scheme == "https").then(|| Tls::new(authority.host(), load)).transpose()?;
        let authority = format!("{}:{port}", authority.host());
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority, prefix, bearer, over: load.over, tls })
    }

    /// The URL of a path under the URL's own; `scheme` is without its `s`.
    pub(crate) fn url(&self, scheme: &str, path: &str) -> String {
        let secure = if self.tls.is_some() { "s" } else { "" };
        format!("{scheme}{secure}://{}{}{path}", self.authority, self.prefix)
    }

    /// The `authorization` header, when there is a key.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        self.bearer.clone()
    }

    pub(crate) async fn socket(&self) -> anyhow::Result<Socket> {
        let tcp = TcpStream::connect(&self.authority).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Socket::Left(tcp)) };
        let connector = TlsConnector::from(tls.config.clone());
        let stream = connector.connect(tls.name.clone(), tcp).await.context("the TLS handshake fails")?;
        Ok(Socket::Right(Box::new(stream)))
    }

    /// Opens a connection and runs `work` on it, both in this task, until `work` is done.
    pub(crate) async fn with_connection<F, W>(&self, work: F) -> anyhow::Result<W::Output>
    where
        F: FnOnce(Connection) -> W,
        W: Future,
    {
        if self.over == Over::Http2 {
            let (connection, driver) = self.http2().await?;
            return Ok(beside(driver, work(connection)).await);
        }
        let (sender, driver) = http1::handshake(TokioIo::new(self.socket().await?)).await?;
        let connection = Connection { target: self.clone(), sender: Sender::Http1(sender) };
        Ok(beside(driver, work(connection)).await)
    }

    /// Opens a connection of HTTP/2; what comes with it has to be polled.
    pub(crate) async fn http2(&self) -> anyhow::Result<(Connection, impl Future<Output = ()> + use<>)> {
        let io = TokioIo::new(self.socket().await?);
        let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
        // How it ends shows in the requests.
        let driver = async { drop(driver.await) };
        Ok((Connection { target: self.clone(), sender: Sender::Http2(sender) }, driver))
    }

    /// Reads a small body by GET on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let get = async |mut connection: Connection| -> anyhow::Result<Bytes> {
            let response = connection.send(Method::GET, path, Bytes::new()).await?;
            if !response.status().is_success() {
                bail!("{path} answers {}", response.status());
            }
            Ok(response.into_body().collect().await?.to_bytes())
        };
        self.with_connection(get).await?
    }
}

/// Runs a connection in the task of the work that uses it.
async fn beside<D: Future, W: Future>(driver: D, work: W) -> W::Output {
    match select(pin!(driver), pin!(work)).await {
        // The work learns from its own request that the connection is gone.
        Either::Left((_, work)) => work.await,
        Either::Right((output, _)) => output,
    }
}

// === impl Tls ===

impl Tls {
    fn new(host: &str, load: &Load) -> anyhow::Result<Self> {
        let protocol: &[u8] = if load.over == Over::Http2 { b"h2" } else { b"http/1.1" };
        let config = tls::client_config(load.ca.as_deref(), None, &[protocol])?;
        let name = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { config, name: name.try_into().context("the URL's host is no name for TLS")? })
    }
}

// === impl Connection ===

impl Connection {
    /// Handles of this connection for so many requests at once; HTTP/1.1 has one.
    pub(crate) fn lanes(self, count: u32) -> Vec<Self> {
        let Sender::Http2(sender) = &self.sender else { return vec![self] };
        let lane = |_| Self { target: self.target.clone(), sender: Sender::Http2(sender.clone()) };
        (0..count).map(lane).collect()
    }

    /// Whether it can have several requests at once.
    pub(crate) fn has_lanes(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends a chat request.
    pub(crate) async fn chat(&mut self, body: Bytes) -> hyper::Result<Response<Incoming>> {
        self.send(Method::POST, "/v1/chat/completions", body).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let is_http2 = self.has_lanes();
        // A target that parsed gives a URL that parses; were it not so, the server would answer for `/`.
        let uri = if is_http2 { self.target.url("http", path) } else { format!("{}{path}", self.target.prefix) };
        *request.uri_mut() = uri.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !is_http2 && let Ok(host) = HeaderValue::from_str(&self.target.authority) {
            headers.insert(HOST, host);
        }
        if let Some(bearer) = &self.target.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}
