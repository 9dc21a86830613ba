//! The sockets of both gRPC listeners: accepted, bounded, shaken hands with, and named by their certificate.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ntonix_runtime::drain::Drain;
use ntonix_runtime::tasks;
use ntonix_runtime::tls::{ServerTls, peer_name};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to say its first words, after the handshake if there is one.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are those words: the preface of HTTP/2, which is shorter than any request of HTTP/1.1.
const GREETING: usize = 24;
/// Connections that are accepted but not served yet.
const WAITING_MAX: usize = 16;
/// Pause after a failed accept, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The name in its verified certificate.
    pub name: Option<String>,
    /// Where it comes from.
    pub address: SocketAddr,
}

impl Peer {
    /// What is written down as the author of a change.
    pub fn author(&self) -> &str {
        self.name.as_deref().unwrap_or("local")
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: Peer,
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

/// The first words of a connection, until they have come: a socket that says nothing holds a place that others need.
#[derive(Debug)]
struct Greeting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts connections, at most `max` at once, until the drain begins.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub fn open(
    listener: std::net::TcpListener,
    tls: Option<ServerTls>,
    max: usize,
    drain: Drain,
) -> io::Result<ReceiverStream<io::Result<Connection>>> {
    let listener = TcpListener::from_std(listener)?;
    // It closes when the server no longer serves: then nobody is let in any more.
    let (accepted, waiting) = mpsc::channel(WAITING_MAX);
    let door = Door { listener, tls, places: Arc::new(Semaphore::new(max)), accepted };
    tasks::spawn("accept", async move {
        tokio::select! {
            () = door.accept_all() => {}
            () = drain.draining() => {}
        }
    });
    Ok(ReceiverStream::new(waiting))
}

struct Door {
    listener: TcpListener,
    tls: Option<ServerTls>,
    places: Arc<Semaphore>,
    accepted: mpsc::Sender<io::Result<Connection>>,
}

impl Door {
    async fn accept_all(self) {
        while !self.accepted.is_closed() {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((socket, address)) => {
                    let greeting = greet(socket, address, self.tls.clone(), place);
                    let accepted = self.accepted.clone();
                    tasks::spawn("handshake", async move {
                        if let Some(connection) = greeting.await {
                            // Nobody serves any more: the connection is dropped.
                            let _ = accepted.send(Ok(connection)).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "Accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn greet(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<ServerTls>,
    place: OwnedSemaphorePermit,
) -> Option<Connection> {
    // Frames are small and each matters at once; where the system refuses, they are only late.
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else {
        let peer = Peer { name: None, address };
        return Some(Connection {
            stream: Stream::Plain(socket),
            peer,
            greeting: Some(Greeting::new()),
            _place: place,
        });
    };
    let shaken = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls.config()).accept(socket)).await;
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(client.addr = %address, %error, "TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(client.addr = %address, "TLS handshake took too long");
            return None;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.map(|leaf| peer_name(leaf).unwrap_or_else(|| "unnamed certificate".to_owned()));
    let (stream, peer) = (Stream::Tls(Box::new(stream)), Peer { name, address });
    Some(Connection { stream, peer, greeting: Some(Greeting::new()), _place: place })
}

// === impl Greeting ===

impl Greeting {
    fn new() -> Self {
        Self { missing: GREETING, until: Box::pin(sleep(GREETING_TIMEOUT)) }
    }
}

// === impl Connection ===

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let Some(greeting) = &mut self.greeting else { return read };
        match read {
            Poll::Pending if greeting.until.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was asked")))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => {
                greeting.missing = greeting.missing.saturating_sub(buf.filled().len() - before);
                if greeting.missing == 0 {
                    self.greeting = None;
                }
                Poll::Ready(outcome)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
