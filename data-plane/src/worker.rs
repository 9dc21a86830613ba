//! A running worker: its threads, each with its own runtime and sockets, and the tasks beside them.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use ntonix_proto::sync::v1::Hello;
use ntonix_runtime::{
    drain::{Drain, Trigger},
    handover::{self, Named},
    lines::LinesGuard,
    listen,
    probe::{self, Probes},
    reload::FileWatch,
    reload::hangups,
    settings, tasks, tls,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tower::util::BoxCloneSyncService;

use crate::{
    access::announce,
    balance::health,
    edge::{Edge, Origins},
    file,
    listener::{Listener, most_connections},
    live::Cell,
    metrics::{Metrics, OBSERVED},
    ops::Pages,
    policy::{self, admit::Admission},
    settings::{ConfigOrigin, Settings, TrafficArgs},
    sockets::{Sockets, ThreadSockets},
    succession::Office,
    sync::Follower,
    upstream::connect::enter_thread,
    usage::{Books, UsageLog},
};

/// A data-plane process, or the data-plane half of one.
#[derive(Debug)]
pub struct Worker {
    addresses: Addresses,
    pages: Arc<Pages>,
    changes: Changes,
    trigger: Trigger,
    drain: Drain,
    /// What the worker cannot do without; the first one to end ends the worker.
    needed: JoinSet<anyhow::Result<()>>,
    /// What its threads will need, until it is open.
    closed: Option<(Sockets, Shared)>,
    threads: FuturesUnordered<JoinHandle<io::Result<()>>>,
    /// Its sockets once more, for a process that takes its place.
    estate: Vec<Named>,
    /// Tasks that only one of two processes can do: they end when another one has taken its place.
    retiring: Vec<AbortHandle>,
    /// Writes the last records when the worker has ended.
    usage: Option<LinesGuard>,
}

/// Where a worker listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Clients, in plain text.
    pub client: SocketAddr,
    /// Clients, over TLS.
    pub client_tls: Option<SocketAddr>,
    /// Probes and metrics.
    pub ops: Option<SocketAddr>,
}

/// Tells the tasks beside the traffic that the configuration has changed.
#[derive(Clone, Debug)]
pub(crate) struct Changes(watch::Sender<u64>);

/// How long a thread still runs after the drain's deadline, for the last words of its connections.
const LAST_WORDS: Duration = Duration::from_millis(1500);

// === impl Changes ===

impl Changes {
    fn new() -> Self {
        Self(watch::channel(0).0)
    }

    /// It has changed.
    pub(crate) fn note(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

// === impl Worker ===

impl Worker {
    /// Binds, takes the first configuration when it is a file's, and serves until `trigger` ends it.
    ///
    /// # Errors
    /// An address that is taken, a certificate or a configuration file that is no good, a state directory that cannot
    /// be written.
    pub async fn start(settings: Settings, trigger: Trigger, drain: Drain) -> anyhow::Result<Self> {
        let mut worker = Self::prepare(None, settings, trigger, drain).await?;
        worker.open()?;
        Ok(worker)
    }

    /// Does all of that up to the first connection, on `inherited` sockets when there are some: whoever comes waits in
    /// them until [`open`](Self::open).
    ///
    /// # Errors
    /// The same, and sockets that are not those of these settings.
    pub async fn prepare(
        inherited: Option<Vec<Named>>,
        settings: Settings,
        trigger: Trigger,
        drain: Drain,
    ) -> anyhow::Result<Self> {
        tls::install_provider();
        let descriptors = listen::raise_open_files();
        let threads = settings.traffic.thread_count();
        if !OBSERVED {
            tracing::warn!("Built to be counted (`unobserved`): no access lines, usage records, counts of exchanges");
        }
        let metrics = Metrics::new();
        let (usage, usage_guard) = UsageLog::begin(settings.traffic.usage_log.as_ref())?;
        let books = Books { metrics: metrics.clone(), usage };
        let cell = Arc::new(Cell::new(metrics.clone(), threads));
        let changes = Changes::new();

        let sockets = match inherited {
            Some(sockets) => Sockets::inherit(&settings, threads, sockets)?,
            None => Sockets::bind(&settings, threads)?,
        };
        let addresses = sockets.addresses();
        let estate = sockets.estate()?;
        let pages = Arc::new(Pages { cell: Arc::clone(&cell), books: books.clone(), drain: drain.clone() });
        let mut needed = JoinSet::new();
        let retiring = vec![follow_config(&mut needed, &settings, &cell, &changes, &metrics, addresses)?];
        needed.spawn(follow_health(&cell, &changes, &metrics));
        if usage_guard.is_some() {
            needed.spawn(books.usage.clone().follow_rotations()?);
        }
        if let Some(tls) = sockets.tls() {
            let following = tls::follow(tls).context("cannot listen for SIGHUP")?;
            needed.spawn(following.map(Ok));
        }
        let shared = Shared {
            admission: Arc::new(Admission::new(metrics)),
            places: Arc::new(Semaphore::new(most_connections(descriptors))),
            origins: Origins::new(settings.traffic.allow_origin.clone()),
            cell,
            books,
            stall: settings.traffic.client_stall,
            allow_anonymous: settings.traffic.allow_anonymous,
            drain: drain.clone(),
            trigger: trigger.clone(),
        };
        let (threads, closed) = (FuturesUnordered::new(), Some((sockets, shared)));
        Ok(Self {
            addresses,
            pages,
            changes,
            trigger,
            drain,
            needed,
            closed,
            threads,
            estate,
            retiring,
            usage: usage_guard,
        })
    }

    /// Takes connections from now on, of clients and on the operations port.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn open(&mut self) -> io::Result<()> {
        let Some((mut sockets, shared)) = self.closed.take() else { return Ok(()) };
        if let Some(socket) = sockets.take_ops() {
            let pages = Arc::clone(&self.pages);
            self.retiring.push(self.needed.spawn(async move { Ok(probe::serve(socket, pages).await?) }));
        }
        for sockets in sockets.for_threads() {
            self.threads.push(spawn_thread(sockets, shared.clone())?);
        }
        Ok(())
    }

    /// Hands its sockets to a new process each time that `requests` says so, until one has taken its place: then this
    /// one drains. An attempt that fails changes nothing.
    pub fn hand_over_on(&mut self, requests: handover::Requests, drain_within: Duration) {
        let estate = std::mem::take(&mut self.estate);
        let office = Office {
            retiring: self.retiring.clone(),
            trigger: self.trigger.clone(),
            drain: self.drain.clone(),
            drain_within,
        };
        tasks::spawn("succession", office.hand_over_on(requests, estate));
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What its operations port says, for a caller that serves it.
    pub fn probes(&self) -> Arc<dyn Probes> {
        Arc::clone(&self.pages) as Arc<dyn Probes>
    }

    /// Waits until there is a configuration.
    pub async fn ready(&self) {
        let mut changed = self.changes.0.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        while self.pages.cell.load().is_none() && changed.changed().await.is_ok() {}
    }

    /// Waits until this revision runs, or a newer one.
    pub async fn runs(&self, revision: u64) {
        let mut changed = self.changes.0.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        while self.revision() < revision && changed.changed().await.is_ok() {}
    }

    fn revision(&self) -> u64 {
        let live = self.pages.cell.load();
        live.and_then(|live| Some(live.origin().snapshot.as_ref()?.revision)).unwrap_or_default()
    }

    /// Is everyone served who reaches a loopback listener? Also before there is a configuration.
    pub fn is_open(&self) -> bool {
        self.pages.cell.load().is_none_or(|live| live.is_open())
    }

    /// A tenant of what runs, when there is one.
    pub fn any_tenant(&self) -> Option<String> {
        self.pages.cell.load().and_then(|live| live.tenants().min().map(str::to_owned))
    }

    /// The models that clients may ask for, as far as they are known.
    pub fn models(&self) -> Vec<String> {
        self.pages.cell.load().map(|live| live.routes().models()).unwrap_or_default()
    }

    /// Waits until the drain is over and all threads have ended. When something that the worker needs ends before, it
    /// drains within `drain_within`.
    ///
    /// # Errors
    /// What ended too early.
    pub async fn finished(mut self, drain_within: Duration) -> anyhow::Result<()> {
        // The losing branch is only a wait: what it waits for goes on.
        let failed = tokio::select! {
            // First, because the threads end by themselves once the drain has begun.
            biased;
            () = self.drain.draining() => None,
            // A thread whose sockets nobody serves any more is not missed by anyone else.
            Some(ended) = self.threads.next() => Some(match ended {
                Ok(Ok(())) => anyhow::anyhow!("a thread of the worker ended"),
                Ok(Err(error)) => error.into(),
                Err(died) => anyhow::Error::new(died).context("a thread of the worker died"),
            }),
            Some(ended) = self.needed.join_next() => Some(match ended {
                Ok(Ok(())) => anyhow::anyhow!("a task that the worker needs ended"),
                Ok(Err(error)) => error,
                Err(died) => anyhow::Error::new(died).context("a task that the worker needs died"),
            }),
        };
        // With its sockets closed for good, nobody may connect to what nobody accepts.
        self.estate.clear();
        if let Some(error) = &failed {
            tracing::error!(error = %format!("{error:#}"), "The worker cannot go on and drains");
            self.trigger.start(drain_within);
        }
        while let Some(thread) = self.threads.next().await {
            thread.context("a thread of the worker died")??;
        }
        // It writes what waits, and may say that it could not: that comes before the last word.
        drop(self.usage.take());
        match (failed, self.drain.left()) {
            (Some(error), _) => return Err(error),
            (None, 0) => tracing::info!("Drained, exits"),
            (None, left) => tracing::info!(connections_cut = left, "Drained, exits"),
        }
        Ok(())
    }
}

/// Checks the backends of whatever configuration runs.
fn follow_health(
    cell: &Arc<Cell>,
    changes: &Changes,
    metrics: &Metrics,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    health::follow(Arc::clone(cell), changes.0.subscribe(), metrics.clone()).map(Ok)
}

fn follow_config(
    needed: &mut JoinSet<anyhow::Result<()>>,
    settings: &Settings,
    cell: &Arc<Cell>,
    changes: &Changes,
    metrics: &Metrics,
    addresses: Addresses,
) -> anyhow::Result<AbortHandle> {
    let (cell, changes) = (Arc::clone(cell), changes.clone());
    match &settings.origin {
        ConfigOrigin::File(path) => {
            // From before the first look on, so that a save in between is not missed.
            let saved = FileWatch::new(vec![path.clone()]);
            let live = file::take(&cell, path)?;
            announce(&live, &settings.traffic);
            let (path, traffic) = (path.clone(), settings.traffic.clone());
            Ok(needed.spawn(async move { Ok(file::follow(cell, path, saved, changes, traffic).await?) }))
        }
        ConfigOrigin::ControlPlane { url, tls } => {
            prepare_directory(&settings.state_dir)?;
            let mut hangups = hangups().context("cannot listen for SIGHUP")?;
            needed.spawn(async move {
                // Certificates are followed by themselves; but a SIGHUP that nobody takes would end the process.
                loop {
                    hangups.next().await;
                }
            });
            let source = (url.clone(), tls.clone());
            let seams = (cell, changes, metrics.clone());
            let hello = hello(&settings.traffic, addresses);
            let mut follower =
                Follower::new(source, hello, seams, settings.state_dir.clone(), settings.traffic.clone());
            follower.boot();
            Ok(needed.spawn(async move {
                follower.follow().await;
                Ok(())
            }))
        }
    }
}

/// Who this worker is, for the control plane.
fn hello(traffic: &TrafficArgs, addresses: Addresses) -> Hello {
    // Several workers on one host are told apart by their ports.
    let name = || format!("{}-{}", settings::host_name(), addresses.client.port());
    Hello {
        name: traffic.name.clone().unwrap_or_else(name),
        instance: format!("{:032x}", fastrand::u128(..)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: addresses.client.to_string(),
        running: None,
        from_disk: false,
    }
}

fn prepare_directory(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot use --state-dir {}", path.display()))
}

/// What all threads share: read-only or atomic.
#[derive(Clone, Debug)]
struct Shared {
    cell: Arc<Cell>,
    books: Books,
    stall: Duration,
    allow_anonymous: bool,
    admission: Arc<Admission>,
    places: Arc<Semaphore>,
    origins: Origins,
    drain: Drain,
    trigger: Trigger,
}

/// Starts a thread with its own runtime, and hands out its end.
fn spawn_thread(sockets: ThreadSockets, shared: Shared) -> io::Result<JoinHandle<io::Result<()>>> {
    let index = sockets.index;
    let (ended, end) = tokio::sync::oneshot::channel();
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        enter_thread(index);
        // Nobody waits any more only when the worker itself is gone.
        let _ = ended.send(run_thread(sockets, shared));
    })?;
    Ok(tasks::spawn("thread-end", async move {
        end.await.unwrap_or_else(|_| Err(io::Error::other("a thread of the worker died")))
    }))
}

fn run_thread(sockets: ThreadSockets, shared: Shared) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let edge = Arc::new(Edge {
            stack: BoxCloneSyncService::new(policy::worker_stack(&shared.books, Arc::clone(&shared.admission))),
            cell: Arc::clone(&shared.cell),
            origins: shared.origins.clone(),
            books: shared.books.clone(),
            stall: shared.stall,
            drain: shared.drain.clone(),
        });
        let mut accepting = JoinSet::new();
        for (socket, tls) in sockets.sockets {
            let anonymous = shared.allow_anonymous || socket.local_addr()?.ip().is_loopback();
            let socket = TcpListener::from_std(socket)?;
            let places = Arc::clone(&shared.places);
            accepting.spawn(Listener { socket, tls, anonymous, places, edge: Arc::clone(&edge) }.run());
        }
        while accepting.join_next().await.is_some() {}
        // Nothing new comes. What runs may finish; after the deadline it may still say so.
        tokio::select! {
            () = shared.trigger.all_done() => {}
            () = async {
                shared.drain.stopping().await;
                tokio::time::sleep(LAST_WORDS).await;
            } => {}
        }
        Ok(())
    })
}
