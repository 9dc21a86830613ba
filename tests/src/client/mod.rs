//! Clients that see everything: one connection each, the bytes as they came, and how it ended.

mod ask;
mod raw;
mod socket;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_runtime::tasks;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub use self::ask::{Ask, CHAT, COMPLETIONS, EMBEDDINGS, MODELS};
pub use self::raw::RawConnection;
pub use self::socket::Socket;
pub use self::stream::{EventStream, Transcript};
use crate::wait::soon;

/// One connection of a client. Dropped with an answer that is not read to its end, it is cut.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    /// The certificate that the server showed, in DER.
    certificate: Option<Bytes>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An answer that was read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Connection ===

impl Connection {
    /// Opens a connection that speaks HTTP/1.1.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::over(connect(address).await?).await
    }

    /// Speaks HTTP/1.1 over a stream that is there.
    ///
    /// # Errors
    /// When it is broken.
    pub async fn over(stream: TcpStream) -> anyhow::Result<Self> {
        Self::http1(stream).await
    }

    /// Speaks HTTP/2 over a stream that is there.
    ///
    /// # Errors
    /// When it is broken.
    pub async fn over_http2(stream: TcpStream) -> anyhow::Result<Self> {
        Self::http2(stream).await
    }

    /// Opens a connection that speaks HTTP/2 from its first byte.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open_http2(address: SocketAddr) -> anyhow::Result<Self> {
        Self::http2(connect(address).await?).await
    }

    /// The same, with so many bytes of window for each stream until it is read.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open_http2_narrow(address: SocketAddr, window: u32) -> anyhow::Result<Self> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        Self::http2_as(builder, connect(address).await?).await
    }

    /// Opens a TLS connection to the server `name`; it speaks what both sides agree on.
    ///
    /// # Errors
    /// When nobody listens there, or the handshake fails.
    pub async fn open_tls(address: SocketAddr, tls: Arc<ClientConfig>, name: &str) -> anyhow::Result<Self> {
        let name = ServerName::try_from(name.to_owned())?;
        let shaking = TlsConnector::from(tls).connect(name, connect(address).await?);
        let stream = soon("the TLS handshake", shaking).await?.context("the TLS handshake failed")?;
        let session = stream.get_ref().1;
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|certificate| Bytes::copy_from_slice(certificate));
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        let connection = if is_http2 { Self::http2(stream).await? } else { Self::http1(stream).await? };
        Ok(Self { certificate, ..connection })
    }

    async fn http1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        // How the connection ends shows in the answers.
        tasks::spawn("test-client", async move { drop(connection.await) });
        Ok(Self { sender: Sender::Http1(sender), certificate: None })
    }

    async fn http2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Self> {
        Self::http2_as(http2::Builder::new(TokioExecutor::new()), io).await
    }

    async fn http2_as(
        builder: http2::Builder<TokioExecutor>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        tasks::spawn("test-client", async move { drop(connection.await) });
        Ok(Self { sender: Sender::Http2(sender), certificate: None })
    }

    /// The certificate that the server showed, in DER.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the connection breaks, or no head comes.
    pub async fn send(&mut self, ask: Ask) -> anyhow::Result<Response<Incoming>> {
        let sent = async {
            match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(ask.for_http1()?).await.map_err(anyhow::Error::from)
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    let request: Request<_> = ask.for_http2()?;
                    Ok(sender.send_request(request).await?)
                }
            }
        };
        soon("the head of the answer", sent).await?
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks before the answer is whole.
    pub async fn ask(&mut self, ask: Ask) -> anyhow::Result<Answer> {
        let (head, body) = self.send(ask).await?.into_parts();
        let body = soon("the body of the answer", body.collect()).await??.to_bytes();
        Ok(Answer { status: head.status, version: head.version, headers: head.headers, body })
    }

    /// Sends a request whose answer is read event by event.
    ///
    /// # Errors
    /// When the connection breaks before the head of the answer.
    pub async fn stream(&mut self, ask: Ask) -> anyhow::Result<EventStream> {
        Ok(EventStream::new(self.send(ask).await?))
    }

    /// Sends a request and reads all of its stream, to whatever end.
    ///
    /// # Errors
    /// When the connection breaks before the head of the answer.
    pub async fn transcript(&mut self, ask: Ask) -> anyhow::Result<Transcript> {
        self.stream(ask).await?.rest().await
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

// === impl Answer ===

impl Answer {
    /// The status as a number.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The version of HTTP that it came by.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header; "" when it is not there.
    pub fn header(&self, name: &str) -> &str {
        text_of(&self.headers, name)
    }

    /// The bytes of the body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as text.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `code` of the error object; "" when there is none.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
