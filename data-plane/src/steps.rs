//! Single steps of the way of a request, and all of it on the caller's thread: for benches that count instructions.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ntonix_config::{Config, Faults};
use ntonix_llm::call::Call;
use ntonix_runtime::{
    drain,
    lines::{Destination, LinesGuard},
    tls,
};
use tokio::{sync::Semaphore, time::Instant};
use tower::{ServiceExt as _, service_fn, util::BoxCloneSyncService};

use crate::{
    edge::{Edge, Origins, Stack},
    exchange::{Client, Exchange, Leave, Reply, Transport},
    listener::Listener,
    live::{Cell, Identity, Live, Origin, OriginSource},
    metrics::Metrics,
    policy::{self, admit::Admission},
    relay::Tally,
    upstream::connect::enter_thread,
    usage::{Books, UsageLog},
};

/// A configuration that is ready to run, and what a worker has beside it.
#[derive(Debug)]
pub struct Steps {
    cell: Arc<Cell>,
    live: Arc<Live>,
    books: Books,
    admission: Arc<Admission>,
    /// The layers around a stand-in for backends that answers at once.
    stack: Stack,
    _usage: Option<LinesGuard>,
}

/// What the stand-in for backends answers.
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","choices":[]}"#;
/// As the worker has it when nobody says otherwise.
const STALL: Duration = Duration::from_secs(60);
/// Connections that are served at the same time.
const CONNECTIONS: usize = 16;

// === impl Steps ===

impl Steps {
    /// Makes `config` ready for one thread.
    ///
    /// # Errors
    /// What a worker would refuse it for.
    pub fn new(config: &Config) -> Result<Self, Faults> {
        tls::install_provider();
        let metrics = Metrics::new();
        let cell = Arc::new(Cell::new(metrics.clone(), 1));
        let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
        let live = cell.swap(cell.prepare(config, origin)?);
        let books = Books { metrics: metrics.clone(), usage: UsageLog::default() };
        let admission = Arc::new(Admission::new(metrics));
        let innermost = service_fn(|_: Exchange| async {
            let tally = Tally { generated: 1, ..Tally::default() };
            Ok(Reply::whole(StatusCode::OK, HeaderMap::new(), Bytes::from_static(ANSWER), tally))
        });
        let stack = BoxCloneSyncService::new(policy::stack(&books, Arc::clone(&admission), innermost));
        Ok(Self { cell, live, books, admission, stack, _usage: None })
    }

    /// Keeps records of usage, as with `--usage-log`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn with_usage_log(mut self, destination: &Destination) -> anyhow::Result<Self> {
        (self.books.usage, self._usage) = UsageLog::begin(Some(destination))?;
        Ok(self)
    }

    /// Is `key` one that is known?
    pub fn knows(&self, key: &str) -> bool {
        matches!(self.identify(key), Identity::Known(_))
    }

    /// Does a route lead to `model`?
    pub fn finds(&self, model: &str) -> bool {
        self.live.routes().find(model).is_some()
    }

    /// Picks a backend for `model` and gives it back. Is there one?
    pub fn picks(&self, model: &str) -> bool {
        self.live.routes().find(model).is_some_and(|route| route.pick(model, &[]).is_ok())
    }

    /// Takes a call through the layers of the stack, around a stand-in for backends, to the end of its answer, and says
    /// whether it was answered.
    pub async fn passes(&self, call: Call, key: &str) -> bool {
        let exchange = self.exchange(call, key);
        let Ok(mut reply) = self.stack.clone().oneshot(exchange).await else { return false };
        while let Some(Ok(_)) = poll_fn(|cx| reply.body.poll_next(cx)).await {}
        reply.status == StatusCode::OK
    }

    /// Serves the clients of `socket` on the thread that this runs on, as a worker's thread does; never ends.
    ///
    /// # Errors
    /// When `socket` cannot be used.
    pub async fn serve(self, socket: TcpListener) -> io::Result<()> {
        enter_thread(0);
        // Held to the end: nobody drains it.
        let (_trigger, drain) = drain::channel();
        let edge = Edge {
            stack: BoxCloneSyncService::new(policy::worker_stack(&self.books, Arc::clone(&self.admission))),
            cell: Arc::clone(&self.cell),
            origins: Origins::default(),
            books: self.books.clone(),
            stall: STALL,
            drain,
        };
        socket.set_nonblocking(true)?;
        let listener = Listener {
            socket: tokio::net::TcpListener::from_std(socket)?,
            tls: None,
            anonymous: true,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            edge: Arc::new(edge),
        };
        listener.run().await;
        Ok(())
    }

    fn identify(&self, key: &str) -> Identity {
        self.live.identify(Ok(Some(key)), false)
    }

    fn exchange(&self, call: Call, key: &str) -> Exchange {
        let started = Instant::now();
        let client = Client {
            address: Arc::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)).into()),
            transport: Transport::Http1,
            leave: Leave::default(),
        };
        Exchange::new(
            "req_0".into(),
            Arc::clone(&self.live),
            call,
            Arc::new(client),
            Arc::default(),
            self.identify(key),
            started,
        )
    }
}
