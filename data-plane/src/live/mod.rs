//! What a worker runs: everything that a revision needs, prepared aside and swapped in whole.
//!
//! [`Cell::prepare`] may fail and changes nothing; [`Cell::swap`] cannot fail. Exchanges pin the [`Live`] that they
//! began under, so that no request sees two configurations and no push cuts a stream.

mod identity;
mod prepare;
mod secrets;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use ntonix_config::{Config, Fault, Faults, KeyDigest, Limits, ModelPattern};
use ntonix_proto::sync::v1::SnapshotId;

pub(crate) use self::identity::{Identity, WhyNot};
use crate::{
    balance::{Pool, load::Load},
    metrics::Metrics,
    policy::quota::Usage,
    routing::Table,
};

/// Everything that one revision needs to run.
#[derive(Debug)]
pub(crate) struct Live {
    origin: Origin,
    /// Not only what this worker found on its disk.
    confirmed: AtomicBool,
    open: bool,
    limits: Limits,
    routes: Table,
    pools: HashMap<String, Arc<Pool>>,
    tenants: HashMap<String, Arc<Tenant>>,
    keys: HashMap<KeyDigest, Arc<Key>>,
}

/// Where a configuration came from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Which snapshot it is; `None` for a file.
    pub(crate) snapshot: Option<SnapshotId>,
    /// How it got here.
    pub(crate) source: OriginSource,
    /// When it was taken, by the wall clock: for people.
    pub(crate) taken: SystemTime,
}

/// How a configuration got to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginSource {
    /// A file that this worker reads.
    File,
    /// The control plane pushed or confirmed it.
    ControlPlane,
    /// This worker's disk; no control plane has confirmed it since the start.
    Disk,
}

/// Who asks.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// What it may ask for; empty: everything.
    pub(crate) models: Vec<ModelPattern>,
    /// Requests in a minute.
    pub(crate) requests_per_minute: Option<u32>,
    /// Streams in flight.
    pub(crate) streams: Option<u32>,
    /// What it uses right now; it outlives the revision.
    pub(crate) usage: Arc<Usage>,
}

/// What a client shows.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// Whose it is.
    pub(crate) tenant: Arc<Tenant>,
    /// From then on it is refused.
    pub(crate) expires: Option<SystemTime>,
}

/// The one place that holds what runs.
#[derive(Debug)]
pub(crate) struct Cell {
    current: ArcSwapOption<Live>,
    metrics: Metrics,
    threads: usize,
    /// One change at a time.
    changing: Mutex<()>,
}

/// A configuration that is ready to run.
#[derive(Debug)]
pub(crate) struct Prepared(Live);

// === impl Live ===

impl Live {
    /// Where it came from.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Has the control plane confirmed it since this worker started, or is it a file's?
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// No tenants and no keys: everyone may ask, where that is allowed at all.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Admission for this worker as a whole.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What clients may ask for.
    pub(crate) fn routes(&self) -> &Table {
        &self.routes
    }

    /// The names of all tenants, in no order.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// The state of each backend.
    fn loads(&self) -> impl Iterator<Item = &Arc<Load>> {
        self.pools().flat_map(|pool| &pool.backends).map(|backend| &backend.load)
    }

    /// All pools, in no order.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }
}

// === impl Tenant ===

impl Tenant {
    /// May it ask for this model?
    pub(crate) fn may_ask_for(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }
}

// === impl Cell ===

impl Cell {
    /// Nothing runs yet. `threads` is how many threads will serve.
    pub(crate) fn new(metrics: Metrics, threads: usize) -> Self {
        Self { current: ArcSwapOption::empty(), metrics, threads, changing: Mutex::new(()) }
    }

    /// What runs; `None` before the first configuration.
    pub(crate) fn load(&self) -> Option<Arc<Live>> {
        self.current.load_full()
    }

    /// Runs what makes a configuration ready. A panic in it refuses the configuration like any other fault.
    ///
    /// # Errors
    /// Those of `ready`, and a panic.
    pub(crate) fn guarded<T>(&self, ready: impl FnOnce() -> Result<T, Faults>) -> Result<T, Faults> {
        // Nothing of ours is changed before the swap, so that nothing is left half done.
        catch_unwind(AssertUnwindSafe(ready)).unwrap_or_else(|_| {
            self.metrics.panics.inc();
            tracing::error!("Panicked on a configuration");
            Err(Faults::from(Fault::new("", "the worker failed while it prepared this configuration")))
        })
    }

    /// Readies everything that may fail: secrets, certificates, pools. Nothing changes.
    ///
    /// # Errors
    /// Every reason why this worker cannot run it.
    pub(crate) fn prepare(&self, config: &Config, origin: Origin) -> Result<Prepared, Faults> {
        let current = self.load();
        prepare::Preparation::new(config, current.as_deref(), &self.metrics, self.threads).run(origin).map(Prepared)
    }

    /// From now on new exchanges see it. Backends that are gone drain; those that stay keep their health and counters.
    pub(crate) fn swap(&self, prepared: Prepared) -> Arc<Live> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(prepared.0);
        let revision = next.origin.snapshot.as_ref().map_or(0, |snapshot| snapshot.revision);
        let before = self.current.swap(Some(Arc::clone(&next)));
        let staying: HashSet<*const Load> = next.loads().map(Arc::as_ptr).collect();
        next.loads().for_each(|load| load.set_draining(false));
        // A backend that stays must not look as if it drained, not even for a moment.
        let gone = before.iter().flat_map(|before| before.loads()).filter(|load| !staying.contains(&Arc::as_ptr(load)));
        gone.for_each(|load| load.set_draining(true));
        self.metrics.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        next
    }

    /// The control plane says that what runs is what should run.
    pub(crate) fn confirm(&self) {
        if let Some(current) = self.load() {
            current.confirmed.store(true, Ordering::Relaxed);
        }
    }
}
