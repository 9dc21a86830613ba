//! Opens connections to one backend and keeps the idle ones, for each thread apart: a stream never changes thread.

use std::{
    cell::Cell,
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use ntonix_config::{Backend as Spec, BackendUrl};
use ntonix_llm::call::Op;
use ntonix_runtime::{silence::end_when_silent, tasks};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, sync::oneshot, time::Instant};
use tokio_rustls::TlsConnector;

use crate::upstream::{http1::Connection, io::Io};

/// How to reach one backend.
pub(crate) struct Connector {
    url: BackendUrl,
    http2: bool,
    /// The value of `host`, over HTTP/1.1.
    host: Option<HeaderValue>,
    /// The targets of all operations by their paths, made once.
    targets: [(&'static str, Uri); Op::ALL.len()],
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// One set for each thread of the worker, and one for the checks beside the traffic; only that thread takes from it.
    shelves: Vec<Mutex<Shelf>>,
}

/// The connections of one thread to one backend.
#[derive(Default)]
struct Shelf {
    idle: VecDeque<Idle>,
    shared: Vec<Shared>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// An HTTP/2 connection, driven by a task of its own.
struct Shared {
    sender: http2::SendRequest<Full<Bytes>>,
    places: Arc<Places>,
    /// The streams that the backend allows.
    allowed: Arc<AtomicUsize>,
}

/// How many streams are on a shared connection, and since when there is one less. Dropped when neither the shelf nor a
/// stream has the connection any more.
#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    freed: Mutex<Instant>,
    /// Its other end hears that this is dropped.
    _had: oneshot::Sender<Infallible>,
}

/// A place on a shared connection, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No address, refused, no route.
    #[error("cannot connect")]
    Tcp(#[source] io::Error),
    /// The handshake failed.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The HTTP preface failed.
    #[error("HTTP handshake failed")]
    Http(#[source] hyper::Error),
    /// The backend does not speak HTTP/2.
    #[error("the backend did not agree on HTTP/2")]
    NotHttp2,
    /// No descriptors are left, or no ports.
    #[error("this worker has no sockets left")]
    Exhausted(#[source] io::Error),
    /// It took longer than the route allows.
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
}

/// Idle connections that a thread keeps for one backend.
const IDLE_MOST: usize = 256;
/// How long it keeps them.
const IDLE_AT_MOST: Duration = Duration::from_secs(60);
/// How long a backend's system may acknowledge nothing; over HTTP/2 the backend itself must answer in that time. A backend
/// that vanishes says nothing, and the deadlines of a route that lets its models think for minutes say it too late.
pub(super) const SILENT_AT_MOST: Duration = Duration::from_secs(15);
/// How often a backend is asked for a sign of life over HTTP/2.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Streams on one HTTP/2 connection. `h2` closes a whole connection when too many small frames of stalled streams are
/// unread; with 8 streams of 64 KiB in a window of 16 MiB no mix of frames of 20 bytes or more gets there.
const STREAMS_PER_CONNECTION: usize = 8;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

thread_local! {
    /// The place of this thread among the threads of the worker; what is none of them comes last.
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Says which thread of the worker this is, from 0; called once, before it serves.
pub(crate) fn enter_thread(index: usize) {
    THREAD.set(index);
}

// === impl Connector ===

impl Connector {
    /// A connector for `threads` threads. With `https` it needs the client side of TLS.
    ///
    /// # Errors
    /// When the host of the URL cannot be a TLS server name.
    pub(crate) fn new(
        spec: &Spec,
        tls: Option<Arc<rustls::ClientConfig>>,
        threads: usize,
    ) -> Result<Self, rustls::pki_types::InvalidDnsNameError> {
        let tls = match tls {
            None => None,
            Some(config) => {
                Some((TlsConnector::from(config), ServerName::try_from(spec.url.host.as_str())?.to_owned()))
            }
        };
        let shelves = (0..=threads).map(|_| Mutex::default()).collect();
        let (url, http2) = (spec.url.clone(), spec.http2);
        let host = if http2 { None } else { HeaderValue::try_from(url.authority()).ok() };
        let targets = Op::ALL.map(|op| (op.path(), target(&url, http2, op.path())));
        Ok(Self { url, http2, host, targets, tls, shelves })
    }

    /// What a request for `path` ("/v1/models") has as its target.
    pub(crate) fn uri(&self, path: &str) -> Uri {
        let known = self.targets.iter().find(|(known, _)| *known == path);
        known.map_or_else(|| target(&self.url, self.http2, path), |(_, target)| target.clone())
    }

    /// HTTP/1.1 names the host in a header, HTTP/2 in the target.
    pub(crate) fn set_host(&self, headers: &mut HeaderMap) {
        if let Some(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
    }

    /// Does it take many streams on each connection?
    pub(crate) fn speaks_http2(&self) -> bool {
        self.http2
    }

    /// An HTTP/1.1 connection of this thread that served before: the backend may have closed it in the meantime, although
    /// nothing was heard of that.
    pub(crate) fn idle(&self, now: Instant) -> Option<Box<Connection>> {
        let mut shelf = self.shelf();
        // The youngest first: the least likely to have been closed by the backend. Below one that is too old are older
        // ones, which the next prune drops.
        while let Some(mut idle) = shelf.idle.pop_back_if(|idle| !idle.is_too_old(now)) {
            if idle.connection.is_free() {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Takes an HTTP/1.1 connection back whose exchange ended cleanly, if another one can follow.
    pub(crate) fn keep(&self, mut connection: Box<Connection>) {
        if !connection.is_free() {
            return;
        }
        let mut shelf = self.shelf();
        if shelf.idle.len() < IDLE_MOST {
            shelf.idle.push_back(Idle { connection, since: Instant::now() });
        }
    }

    /// A place on an HTTP/2 connection that is there.
    pub(crate) fn shared(&self) -> Option<(http2::SendRequest<Full<Bytes>>, Place)> {
        let mut shelf = self.shelf();
        shelf.shared.retain(Shared::is_of_use);
        let shared = shelf.shared.iter().find(|shared| shared.has_room())?;
        Some((shared.sender.clone(), Place::take(&shared.places)))
    }

    /// Takes a shared connection out of use for new streams; those that are on it go on.
    pub(crate) fn retire(&self, place: &Place) {
        self.shelf().shared.retain(|shared| !Arc::ptr_eq(&shared.places, &place.0));
    }

    /// Drops the connections that nobody used for a while; called from time to time.
    pub(crate) fn prune(&self, now: Instant) {
        for shelf in &self.shelves {
            let mut shelf = lock(shelf);
            while shelf.idle.pop_front_if(|idle| idle.is_too_old(now)).is_some() {}
            shelf.shared.retain(|shared| shared.is_of_use() && !shared.places.are_unused(now));
        }
    }

    /// A new HTTP/1.1 connection within `within`.
    pub(crate) async fn open_http1(&self, within: Duration) -> Result<Box<Connection>, ConnectError> {
        Ok(Box::new(Connection::new(soon(within, self.connect()).await?)))
    }

    /// A place on a new HTTP/2 connection within `within`.
    pub(crate) async fn open_http2(
        &self,
        within: Duration,
    ) -> Result<(http2::SendRequest<Full<Bytes>>, Place), ConnectError> {
        soon(within, async { self.share(self.connect().await?).await }).await
    }

    async fn connect(&self) -> Result<Io, ConnectError> {
        let stream =
            TcpStream::connect((self.url.host.as_str(), self.url.port)).await.map_err(ConnectError::from_tcp)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        end_when_silent(&stream, SILENT_AT_MOST).map_err(ConnectError::Tcp)?;
        match &self.tls {
            None => Ok(Io::Plain(stream)),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(ConnectError::Tls)?;
                Ok(Io::Tls(Box::new(stream)))
            }
        }
    }

    /// Begins to speak HTTP/2, and puts the connection on the shelf.
    async fn share(&self, io: Io) -> Result<(http2::SendRequest<Full<Bytes>>, Place), ConnectError> {
        if self.tls.is_some() && !io.negotiated_h2() {
            return Err(ConnectError::NotHttp2);
        }
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(SILENT_AT_MOST - PING_EVERY)
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectError::Http)?;
        // The connection ends when neither the shelf nor a stream has it, or the backend closes it; the streams on it
        // learn of a failure themselves.
        let allowed = Arc::new(AtomicUsize::new(STREAMS_PER_CONNECTION));
        let seen = Arc::clone(&allowed);
        let driven = poll_fn(move |cx| {
            let ended = connection.poll_unpin(cx);
            // The backend says it first in its SETTINGS, and may say otherwise later.
            seen.store(connection.current_max_send_streams(), Ordering::Relaxed);
            ended
        });
        let (had, left) = oneshot::channel();
        tasks::spawn("backend-http2", async move {
            // hyper does not see that it is left while a request waits for a stream that the backend does not allow.
            tokio::select! {
                _ended = driven => {}
                _nobody_has_it = left => {}
            }
        });
        let freed = Mutex::new(Instant::now());
        let places = Arc::new(Places { taken: AtomicUsize::new(0), freed, _had: had });
        let place = Place::take(&places);
        self.shelf().shared.push(Shared { sender: sender.clone(), places, allowed });
        Ok((sender, place))
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        lock(&self.shelves[THREAD.get().min(self.shelves.len() - 1)])
    }
}

fn target(url: &BackendUrl, http2: bool, path: &str) -> Uri {
    let prefix = &url.prefix;
    let target = if http2 {
        let scheme = if url.tls { "https" } else { "http" };
        format!("{scheme}://{}{prefix}{path}", url.authority())
    } else {
        format!("{prefix}{path}")
    };
    // The validator has seen to it that URL and path are made of what a target may have.
    target.parse().unwrap_or_default()
}

async fn soon<T>(within: Duration, opened: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    tokio::time::timeout(within, opened).await.unwrap_or(Err(ConnectError::TimedOut(within)))
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Idle ===

impl Idle {
    fn is_too_old(&self, now: Instant) -> bool {
        now.duration_since(self.since) > IDLE_AT_MOST
    }
}

// === impl Shared ===

impl Shared {
    /// Can streams go there, now or later? One that allows none would only be joined by the next that is opened.
    fn is_of_use(&self) -> bool {
        !self.sender.is_closed() && self.allowed.load(Ordering::Relaxed) > 0
    }

    /// Can one more stream go there at once? More than the backend allows would wait for others to end.
    fn has_room(&self) -> bool {
        let most = self.allowed.load(Ordering::Relaxed).min(STREAMS_PER_CONNECTION);
        self.places.taken.load(Ordering::Relaxed) < most
    }
}

// === impl Places ===

impl Places {
    /// Was there no stream for so long that the connection is not kept?
    fn are_unused(&self, now: Instant) -> bool {
        self.taken.load(Ordering::Acquire) == 0 && now.duration_since(*self.freed()) > IDLE_AT_MOST
    }

    fn freed(&self) -> MutexGuard<'_, Instant> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    fn take(places: &Arc<Places>) -> Self {
        places.taken.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(places))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // First the time: once the place is free, it is looked at.
        *self.0.freed() = Instant::now();
        self.0.taken.fetch_sub(1, Ordering::Release);
    }
}

// === impl ConnectError ===

impl ConnectError {
    fn from_tcp(error: io::Error) -> Self {
        // EMFILE, ENFILE, EADDRNOTAVAIL: ours, not the backend's.
        match error.raw_os_error() {
            Some(code) if cfg!(unix) && (code == 24 || code == 23) => Self::Exhausted(error),
            _ if error.kind() == io::ErrorKind::AddrNotAvailable => Self::Exhausted(error),
            _ => Self::Tcp(error),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("url", &self.url).field("http2", &self.http2).finish_non_exhaustive()
    }
}
