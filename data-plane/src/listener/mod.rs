//! Client sockets: accepts, does the TLS handshake, speaks HTTP/1.1 or HTTP/2, and lets go when the worker drains.

pub(crate) mod guard;
mod occupied;
mod outlet;
mod patience;
pub(crate) mod streams;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use ntonix_runtime::{chain::Chain, drain::Held, silence::end_when_silent, tasks, tls::ServerTls};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::{
    guard::{Activity, Guarded},
    occupied::Occupied,
    outlet::Outlet,
    patience::{PONG_WITHIN, Patience},
    streams::Streams,
};
use crate::{
    edge::{Edge, EdgeBody, Peer},
    metrics::Metrics,
};

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// The largest head of a request.
const HEAD_MOST: usize = 64 * 1024;
/// After a failed accept (no descriptors, say), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Streams on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 256;
/// What one HTTP/2 stream buffers.
const HTTP2_WINDOW: u32 = 64 * 1024;
/// How long an idle connection of HTTP/1.1 is kept when the worker drains. Closing it at once would fail the request that
/// its client is just sending; one that comes in this time is answered with `connection: close`.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// What a connection that is cut may still take to say so to its streams.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One listening socket of one thread.
pub(crate) struct Listener {
    /// The socket.
    pub(crate) socket: TcpListener,
    /// Speak TLS on it.
    pub(crate) tls: Option<ServerTls>,
    /// It serves configurations without keys.
    pub(crate) anonymous: bool,
    /// Places for connections, shared by all threads: fewer than there are descriptors.
    pub(crate) places: Arc<Semaphore>,
    /// Where requests go.
    pub(crate) edge: Arc<Edge>,
}

/// A connection's hold on the worker, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Tenure {
    _place: OwnedSemaphorePermit,
    _held: Held,
    metrics: Metrics,
}

// === impl Listener ===

impl Listener {
    /// Accepts connections until the worker drains.
    pub(crate) async fn run(self) {
        let drain = self.edge.drain.clone();
        // Whatever loses is an accept that has not happened.
        tokio::select! {
            () = self.accept() => {}
            () = drain.draining() => {}
        }
    }

    async fn accept(self) {
        loop {
            // Without a place the backlog of the system holds whoever comes: nobody is accepted to be thrown out.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((stream, address)) => self.welcome(stream, address, place),
                Err(error) => {
                    tracing::warn!(%error, "Accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn welcome(&self, stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) {
        // A token is one small packet: it must not wait for an acknowledgement of the one before.
        // And one that vanishes says nothing. Not the listener is told, which has accepted before it is: some come while it
        // is being set up, or are left by a process with another limit.
        let told = stream.set_nodelay(true).and_then(|()| end_when_silent(&stream, self.edge.stall));
        if let Err(error) = told {
            tracing::debug!(%error, "The client was gone before it was served");
            return;
        }
        let edge = Arc::clone(&self.edge);
        let peer = Arc::new(Peer {
            address: Arc::new(address.into()),
            anonymous: self.anonymous,
            stopping: Arc::default(),
            activity: Arc::default(),
            _tenure: Tenure::new(place, &edge),
        });
        let stream = Outlet::new(stream, Arc::clone(&peer.activity), edge.stall);
        match &self.tls {
            None => drop(tasks::spawn("connection", serve(stream, peer, edge))),
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls.config());
                tasks::spawn("connection", async move {
                    match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => serve(stream, peer, edge).await,
                        Ok(Err(error)) => tracing::debug!(client.addr = %peer.address, %error, "TLS handshake failed"),
                        Err(_) => tracing::debug!(client.addr = %peer.address, "TLS handshake took too long"),
                    }
                });
            }
        }
    }
}

// === impl Tenure ===

impl Tenure {
    fn new(place: OwnedSemaphorePermit, edge: &Arc<Edge>) -> Self {
        edge.books.metrics.connections.inc();
        Self { _place: place, _held: edge.drain.hold(), metrics: edge.books.metrics.clone() }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Speaks HTTP on one connection until it ends or the worker does.
async fn serve<T>(stream: T, peer: Arc<Peer>, edge: Arc<Edge>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&peer.activity)));
    let service = {
        let (edge, peer) = (Arc::clone(&edge), Arc::clone(&peer));
        service_fn(move |request: Request<Incoming>| {
            let busy = peer.activity.begin();
            let is_http1 = request.version() < Version::HTTP_2;
            if !is_http1 {
                peer.activity.speaks_http2();
            }
            let (edge, peer) = (Arc::clone(&edge), Arc::clone(&peer));
            async move {
                let mut response = Arc::clone(&edge).serve(peer, request).await;
                if is_http1 && edge.drain.is_draining() {
                    close_after(&mut response);
                }
                let progress = streams::current();
                // From here on it is the client that is waited for, until the body says otherwise.
                progress.iter().for_each(|progress| progress.note(&Poll::Ready(())));
                Ok::<_, Infallible>(response.map(|body| Occupied::new(body, progress, busy)))
            }
        })
    };
    let builder = builder(&peer.activity, edge.stall);
    let connection = builder.serve_connection_with_upgrades(io, service);
    tokio::pin!(connection);
    let drain = edge.drain.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.draining() => {
            // Over HTTP/1.1 each answer from now on says that it is the last one. Who was not told so yet, for its answer
            // had begun before or it has none, may just be asking again.
            tokio::select! {
                () = peer.activity.rested(LAST_REQUEST) => {}
                () = drain.stopping() => {}
                ended = connection.as_mut() => return note_end(&peer, ended),
            }
            // HTTP/1.1: the end of an idle connection; HTTP/2: GOAWAY. What runs, runs on.
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = drain.stopping() => {
                    peer.stopping.begin();
                    match timeout(LAST_WORDS, connection.as_mut()).await {
                        Ok(ended) => ended,
                        Err(_) => Ok(()),
                    }
                }
            }
        }
    };
    note_end(&peer, ended);
}

/// Tells an HTTP/1.1 client that this is the last answer on its connection. hyper says so by itself, but not of an answer
/// that is there in the moment in which its request is read. Over HTTP/2 a GOAWAY says it, and the header is not allowed.
fn close_after(response: &mut Response<EdgeBody>) {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

fn note_end(peer: &Peer, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(client.addr = %peer.address, error = %Chain(&*error), "Connection ended early");
    }
}

fn builder(activity: &Arc<Activity>, stall: Duration) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams { stall });
    builder
        .http1()
        .timer(TokioTimer::new())
        // The head and idle clocks are `guard`'s.
        .header_read_timeout(None)
        .max_buf_size(HEAD_MOST)
        .pipeline_flush(false);
    builder
        .http2()
        .timer(Patience(Arc::clone(activity)))
        .max_concurrent_streams(HTTP2_STREAMS)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(16 * HTTP2_WINDOW)
        .max_send_buf_size(HTTP2_WINDOW as usize)
        .max_header_list_size(HEAD_MOST as u32)
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// Fewer connections than descriptors: each may need a second one for its backend, and some are ours.
pub(crate) fn most_connections(descriptors: u64) -> usize {
    const OURS: u64 = 128;
    usize::try_from(descriptors.saturating_sub(OURS) / 2).unwrap_or(usize::MAX).clamp(16, Semaphore::MAX_PERMITS)
}
