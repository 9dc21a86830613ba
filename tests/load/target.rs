//! The cheapest client that can be had: one HTTP/1.1 connection, polled by the task that uses it.

use std::future::Future;
use std::pin::pin;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    authority: String,
    prefix: String,
    bearer: Option<HeaderValue>,
}

/// One open connection.
pub(crate) struct Connection {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
}

// === impl Target ===

impl Target {
    pub(crate) fn new(url: &str, key: Option<&str>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
            bail!("{url:?} must begin with http:// and name a host");
        };
        let port = authority.port_u16().unwrap_or(80);
        let bearer =
            key.map(|key| format!("Bearer {key}").parse()).transpose().context("the key is no header value")?;
        let authority = format!("{}:{port}", authority.host());
        Ok(Self { authority, prefix: uri.path().trim_end_matches('/').to_owned(), bearer })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The path under the URL's own.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The `authorization` header, when there is a key.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        self.bearer.clone()
    }

    pub(crate) async fn tcp(&self) -> anyhow::Result<TcpStream> {
        let tcp = TcpStream::connect(&self.authority).await.context("cannot connect")?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Opens a connection and runs `work` on it, both in this task, until `work` is done.
    pub(crate) async fn with_connection<F, W>(&self, work: F) -> anyhow::Result<W::Output>
    where
        F: FnOnce(Connection) -> W,
        W: Future,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(self.tcp().await?)).await?;
        let work = pin!(work(Connection { target: self.clone(), sender }));
        Ok(match select(pin!(connection), work).await {
            // The work learns from its own request that the connection is gone.
            Either::Left((_, work)) => work.await,
            Either::Right((output, _)) => output,
        })
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

// === impl Connection ===

impl Connection {
    /// Sends a chat request.
    pub(crate) async fn chat(&mut self, body: Bytes) -> hyper::Result<Response<Incoming>> {
        self.send(Method::POST, "/v1/chat/completions", body).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // A target that parsed gives a path that parses; were it not so, the server would answer for `/`.
        *request.uri_mut() = self.target.path(path).parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(host) = HeaderValue::from_str(&self.target.authority) {
            headers.insert(HOST, host);
        }
        if let Some(bearer) = &self.target.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        self.sender.send_request(request).await
    }
}
