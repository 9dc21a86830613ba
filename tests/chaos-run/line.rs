//! A client's connection that can be reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_runtime::tasks;
use ntonix_tests::ledger::Transport;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::field::Doors;

/// How long a client waits for a connection, handshakes included.
const OPENING: Duration = Duration::from_secs(5);

/// Asks on a connection.
pub(crate) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The connection itself. Dropped, it is closed.
pub(crate) struct Line {
    /// The same socket once more, to set its options.
    socket: std::net::TcpStream,
    driver: JoinHandle<()>,
}

// === impl Line ===

impl Line {
    /// Opens a connection to a worker.
    pub(crate) async fn open(doors: &Doors, transport: Transport, worker: usize) -> anyhow::Result<(Sender, Self)> {
        let (plain, tls) = (doors.plain[worker], doors.tls[worker]);
        let opening = async {
            match transport {
                Transport::Http1Tls => Self::open_tls(tls, &doors.http1, false).await,
                Transport::Http2Tls => Self::open_tls(tls, &doors.http2, true).await,
                Transport::Http2 => {
                    let (stream, socket) = dial(plain).await?;
                    Self::http2(stream, socket).await
                }
                Transport::Http1 | Transport::SocketAuto | Transport::SocketCredit => {
                    let (stream, socket) = dial(plain).await?;
                    Self::http1(stream, socket).await
                }
            }
        };
        timeout(OPENING, opening).await.context("no connection in time")?
    }

    async fn open_tls(door: SocketAddr, tls: &Arc<ClientConfig>, is_http2: bool) -> anyhow::Result<(Sender, Self)> {
        let (stream, socket) = dial(door).await?;
        let stream = TlsConnector::from(tls.clone()).connect(ServerName::try_from("localhost")?, stream).await?;
        if is_http2 { Self::http2(stream, socket).await } else { Self::http1(stream, socket).await }
    }

    async fn http1<S>(stream: S, socket: std::net::TcpStream) -> anyhow::Result<(Sender, Self)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How the connection ends shows in the answers.
        let driver = tasks::spawn("client", async move { drop(connection.await) });
        Ok((Sender::Http1(sender), Self { socket, driver }))
    }

    async fn http2<S>(stream: S, socket: std::net::TcpStream) -> anyhow::Result<(Sender, Self)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let driver = tasks::spawn("client", async move { drop(connection.await) });
        Ok((Sender::Http2(sender), Self { socket, driver }))
    }

    /// Makes the end of the connection a reset, and ends it.
    pub(crate) fn reset(&self) {
        linger_not(&self.socket);
        self.driver.abort();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A connection, and the same socket once more.
pub(crate) async fn dial(door: SocketAddr) -> anyhow::Result<(TcpStream, std::net::TcpStream)> {
    let stream = TcpStream::connect(door).await?;
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, socket))
}

/// Makes the end of a socket a reset.
pub(crate) fn linger_not(socket: &std::net::TcpStream) {
    // A socket that refuses is closed instead, which is a fault of its own.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

// === impl Sender ===

impl Sender {
    /// Another one for the same connection; `None` where there can be only one.
    pub(crate) fn another(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Waits until the connection takes a request; false when it never will.
    pub(crate) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}
