//! What the control plane counts.

use std::time::Duration;

use ntonix_runtime::metrics::{Buckets, Counter, Gauge, Histogram, Registry};

const COMMIT_BUCKETS: Buckets = &[
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// The newest revision.
    pub revision: Gauge,
    /// The version of the key set.
    pub keys_version: Gauge,
    /// Workers with a stream.
    pub workers_connected: Gauge,
    /// Those of them that run the newest snapshot.
    pub workers_up_to_date: Gauge,
    /// Transitions sent.
    pub pushes: Counter,
    /// Transitions from nothing among them.
    pub full_pushes: Counter,
    /// Snapshots that workers refused.
    pub nacks: Counter,
    /// Writes that are on disk: revisions and changes of keys.
    pub commits: Counter,
    /// Writes that failed.
    pub commit_failures: Counter,
    /// How long a write took.
    pub commit_seconds: Histogram,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        Self {
            revision: registry.gauge("ntonix_control_revision", "The newest revision."),
            keys_version: registry.gauge("ntonix_control_keys_version", "Changes of the managed keys so far."),
            workers_connected: registry.gauge("ntonix_control_workers_connected", "Workers with a stream."),
            workers_up_to_date: registry
                .gauge("ntonix_control_workers_up_to_date", "Connected workers that run the newest snapshot."),
            pushes: registry.counter("ntonix_control_pushes", "Transitions sent to workers."),
            full_pushes: registry.counter("ntonix_control_full_pushes", "Transitions that started from nothing."),
            nacks: registry.counter("ntonix_control_nacks", "Snapshots that workers refused."),
            commits: registry.counter("ntonix_control_commits", "Writes of revisions and keys."),
            commit_failures: registry.counter("ntonix_control_commit_failures", "Writes that failed."),
            commit_seconds: registry.histogram(
                "ntonix_control_commit_seconds",
                "From handing a write to the store until it is on disk.",
                COMMIT_BUCKETS,
            ),
            registry,
        }
    }

    /// All of them as text.
    pub fn encode(&self) -> String {
        self.registry.encode()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
