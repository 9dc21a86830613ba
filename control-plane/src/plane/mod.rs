//! A running control plane: what it serves, how it is asked from inside the process, how it ends.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ntonix_config::Draft;
use ntonix_proto::admin::v1::ConfigServiceApplyResponse;
use ntonix_runtime::drain::{self, Drain, Trigger, until_stopped};
use ntonix_runtime::listen::{ReusePort, bind};
use ntonix_runtime::probe::{self, Probes, Readiness};
use ntonix_runtime::reload::{self, Hangups};
use ntonix_runtime::tasks;
use ntonix_runtime::tls::{self, ServerTls};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;

use crate::admin::{self, Admin, Ownership, SameOrigin};
use crate::change::file::Owner;
use crate::change::{Change, Ledger, What};
use crate::door;
use crate::metrics::Metrics;
use crate::push::fleet::Fleet;
use crate::push::{Push, SyncServer};
use crate::refusal::Refusal;
use crate::settings::{Settings, TlsFiles};
use crate::store::Store;
use crate::store::sqlite::Sqlite;

/// Connections of operators at once.
const ADMIN_CONNECTIONS_MAX: usize = 1024;
/// Connections of workers at once.
const SYNC_CONNECTIONS_MAX: usize = 20_000;
/// HTTP/2 pings find connections whose other end is gone without a word.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A running control plane. Dropping it cuts everything off; [`ControlPlane::shutdown`] lets calls end first.
#[derive(Debug)]
pub struct ControlPlane {
    addresses: Addresses,
    shared: Arc<Shared>,
    trigger: Trigger,
    health: HealthReporter,
    /// They end by themselves once the drain begins.
    servers: Vec<JoinHandle<()>>,
    /// They go on until they are ended.
    helpers: Vec<JoinHandle<()>>,
}

/// Where a control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Operators.
    pub admin: SocketAddr,
    /// Workers.
    pub sync: SocketAddr,
    /// Probes and metrics, when they are served.
    pub ops: Option<SocketAddr>,
}

#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    fleet: Arc<Fleet>,
    metrics: Metrics,
    drain: Drain,
    /// Which needed task died and why, once one has.
    failure: watch::Sender<Option<String>>,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Binds, opens the store, applies the file that owns the configuration if there is one, and serves on tasks of the
    /// current runtime.
    ///
    /// # Errors
    /// When the settings do not fit together, a port is taken, certificates cannot be used, the store cannot be opened,
    /// or the file is refused.
    pub async fn start(settings: Settings) -> anyhow::Result<Self> {
        let faults = settings.faults();
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
        let store = Sqlite::open(&settings.state_dir, settings.revisions_kept)?;
        Self::start_with(settings, Arc::new(store)).await
    }

    /// As [`ControlPlane::start`], with another store than the one in the state directory.
    ///
    /// # Errors
    /// As there.
    pub async fn start_with(settings: Settings, store: Arc<dyn Store>) -> anyhow::Result<Self> {
        let sockets = Sockets::bind(&settings)?;
        let addresses = sockets.addresses()?;
        let metrics = Metrics::new();
        let ledger = Arc::new(Ledger::open(store, metrics.clone()).await.context("cannot read the store")?);
        // In place before the file is first read, so that no signal in between is lost.
        let hangups = reload::hangups().context("cannot listen for SIGHUP")?;
        let owner = settings.config.clone().map(|path| Owner::new(path, ledger.clone()));
        if let Some(owner) = &owner {
            owner.apply().await?;
        }
        let (trigger, drain) = drain::channel();
        let shared =
            Arc::new(Shared { ledger, fleet: Fleet::new(), metrics, drain, failure: watch::Sender::new(None) });
        let health = HealthReporter::new();
        let mut plane = Self { addresses, shared, trigger, health, servers: Vec::new(), helpers: Vec::new() };
        plane.serve(&settings, sockets).await?;
        match owner {
            Some(owner) => plane.help("config-file", owner.follow(hangups)),
            None => plane.help("hangups", ignore(hangups)),
        }
        tracing::info!(
            admin = %addresses.admin,
            sync = %addresses.sync,
            ops = addresses.ops.map(tracing::field::display),
            state_dir = %settings.state_dir.display(),
            config.revision = plane.revision(),
            "Control plane listens"
        );
        Ok(plane)
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The newest revision; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.shared.revision()
    }

    /// Who wrote the newest revision; `None` before the first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn newest_author(&self) -> Result<Option<String>, Refusal> {
        let newest = self.shared.ledger.revisions(u64::MAX, 1).await?;
        Ok(newest.into_iter().next().map(|revision| revision.author))
    }

    /// What the newest revision says.
    ///
    /// # Errors
    /// When there is none.
    pub async fn newest_draft(&self) -> Result<Draft, Refusal> {
        Ok(self.shared.ledger.content(0).await?.draft.clone())
    }

    /// The metrics in the OpenMetrics text form.
    pub fn metrics_text(&self) -> String {
        self.shared.metrics()
    }

    /// Whether operators and workers are served.
    pub fn readiness(&self) -> Readiness {
        self.shared.ready()
    }

    /// Applies a whole configuration from inside the process, also where a file owns it. One that equals the newest
    /// makes no new revision.
    ///
    /// # Errors
    /// As an apply of the admin API.
    pub async fn apply_draft(&self, draft: Draft, author: &str) -> Result<ConfigServiceApplyResponse, Refusal> {
        let change = Change {
            what: What::Draft(draft),
            author: author.to_owned(),
            message: String::new(),
            expected_revision: None,
            request_id: String::new(),
            validate_only: false,
        };
        self.shared.ledger.change(change).await
    }

    /// Waits until it cannot go on: a task that it needs has ended, or the store is broken. Then it is to be shut down
    /// and the process to exit with an error.
    pub async fn finished(&self) -> anyhow::Error {
        let mut failure = self.shared.failure.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => anyhow::anyhow!("{}", reason.clone().unwrap_or_default()),
            Err(closed) => closed.into(),
        }
    }

    /// Ends it: nothing new is taken, watches and workers are told, calls may end within `deadline`, then the store is
    /// closed.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.trigger.start(deadline);
        self.tell_health(ServingStatus::NotServing).await;
        for server in std::mem::take(&mut self.servers) {
            // A panic was told when it happened.
            let _ = server.await;
        }
        self.shared.ledger.close().await;
    }

    async fn serve(&mut self, settings: &Settings, sockets: Sockets) -> anyhow::Result<()> {
        let Shared { ledger, fleet, metrics, drain, .. } = self.shared.as_ref();
        let (ledger, fleet, metrics, drain) = (ledger.clone(), fleet.clone(), metrics.clone(), drain.clone());

        let push = Push::new(ledger.publisher().clone(), fleet.clone(), metrics, drain.clone(), settings.heartbeat);
        let tls = self.tls(&settings.sync_tls)?;
        let workers = door::open(sockets.sync, tls, SYNC_CONNECTIONS_MAX, drain.clone())?;
        let server = builder().add_service(SyncServer::new(push));
        let until = drain.clone();
        self.need("sync listener", async move {
            Ok(server.serve_with_incoming_shutdown(workers, async move { until.draining().await }).await?)
        });

        let ownership = if settings.config.is_some() { Ownership::File } else { Ownership::Callers };
        let admin = Admin { ledger: ledger.clone(), fleet, drain: drain.clone(), ownership };
        let routes = admin::routes(&admin, &self.health)?;
        let tls = self.tls(&settings.admin_tls)?;
        let operators = door::open(sockets.admin, tls, ADMIN_CONNECTIONS_MAX, drain.clone())?;
        let server = builder().accept_http1(true).layer(SameOrigin).layer(GrpcWebLayer::new()).add_routes(routes);
        self.tell_health(ServingStatus::Serving).await;
        self.need("admin listener", async move {
            Ok(server.serve_with_incoming_shutdown(operators, async move { drain.draining().await }).await?)
        });

        if let Some(listener) = sockets.ops {
            let probes = self.shared.clone();
            self.help("ops listener", async move {
                if let Err(error) = probe::serve(listener, probes.clone()).await {
                    probes.fail(&format!("the ops listener ended: {error}"));
                }
            });
        }
        let shared = self.shared.clone();
        self.help("store", async move {
            let reason = ledger.broken().await;
            shared.fail(&format!("the store is broken: {reason}"));
        });
        Ok(())
    }

    /// TLS for a listener that has certificates, followed when they change.
    fn tls(&mut self, files: &TlsFiles) -> anyhow::Result<Option<ServerTls>> {
        let Some(pair) = files.pair() else { return Ok(None) };
        let tls = ServerTls::load(&[pair], files.ca.as_deref(), &[b"h2", b"http/1.1"])?;
        self.help("certificates", tls::follow(tls.clone())?);
        Ok(Some(tls))
    }

    async fn tell_health(&self, status: ServingStatus) {
        for service in admin::SERVICES.into_iter().chain([""]) {
            self.health.set_service_status(service, status).await;
        }
    }

    /// Runs a task without which the plane cannot go on; it ends by itself when the drain begins.
    fn need(&mut self, name: &'static str, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let needed = Needed { name, shared: self.shared.clone() };
        self.servers.push(tasks::spawn(name, async move {
            if let Some(Err(error)) = until_stopped(&needed.shared.drain, work).await {
                needed.shared.fail(&format!("the {name} failed: {error:#}"));
            }
        }));
    }

    /// Runs a task that goes on until the plane has ended.
    fn help(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.helpers.push(tasks::spawn(name, work));
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.trigger.stop_now();
        self.helpers.iter().for_each(JoinHandle::abort);
    }
}

/// Certificates are followed by themselves, so without a file there is nothing to read again; but a SIGHUP that nobody
/// takes would end the process.
async fn ignore(mut hangups: Hangups) {
    loop {
        hangups.next().await;
    }
}

fn builder() -> Server {
    Server::builder().http2_keepalive_interval(Some(PING_EVERY)).http2_keepalive_timeout(Some(PING_TIMEOUT))
}

/// Raises the alarm when a needed task ends, in whatever way, before the plane does.
struct Needed {
    name: &'static str,
    shared: Arc<Shared>,
}

impl Drop for Needed {
    fn drop(&mut self) {
        if !self.shared.drain.is_draining() {
            self.shared.fail(&format!("the {} ended", self.name));
        }
    }
}

// === impl Shared ===

impl Shared {
    fn revision(&self) -> u64 {
        self.ledger.publisher().newest().map_or(0, |newest| newest.id.revision)
    }

    /// Only the first failure counts: the others follow from it.
    fn fail(&self, reason: &str) {
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.to_owned());
            }
            first
        });
    }

    fn workers(&self) -> (usize, usize) {
        let newest = self.ledger.publisher().newest();
        self.fleet.counts(newest.as_ref().map(|newest| &newest.id))
    }
}

impl Probes for Shared {
    fn ready(&self) -> Readiness {
        if self.drain.is_draining() {
            return Readiness::NotReady("ending".to_owned());
        }
        if self.ledger.is_broken() {
            return Readiness::NotReady("the store is broken".to_owned());
        }
        let (connected, up_to_date) = self.workers();
        let revision = self.revision();
        Readiness::Ready(format!("revision {revision}, {up_to_date} of {connected} workers up to date"))
    }

    fn metrics(&self) -> String {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (connected, up_to_date) = self.workers();
        self.metrics.workers_connected.set(gauge(connected));
        self.metrics.workers_up_to_date.set(gauge(up_to_date));
        self.metrics.encode()
    }
}

/// The bound listeners.
struct Sockets {
    admin: std::net::TcpListener,
    sync: std::net::TcpListener,
    ops: Option<std::net::TcpListener>,
}

impl Sockets {
    fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let open = |flag: &str, address: SocketAddr| {
            bind(address, ReusePort::No).with_context(|| format!("--{flag}: cannot listen on {address}"))
        };
        Ok(Self {
            admin: open("admin", settings.admin)?,
            sync: open("sync", settings.sync)?,
            ops: settings.ops.map(|address| open("ops", address)).transpose()?,
        })
    }

    fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            admin: self.admin.local_addr()?,
            sync: self.sync.local_addr()?,
            ops: self.ops.as_ref().map(std::net::TcpListener::local_addr).transpose()?,
        })
    }
}
