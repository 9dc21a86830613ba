//! A configuration that cannot be wrong: built by `validate` alone, defaults filled in.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use ntonix_proto::config::v1;

use crate::{BackendUrl, KeyDigest, ModelPattern};

/// A whole configuration. Every name is unique in its list, every reference leads somewhere, every value is in range.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Where generation happens.
    pub pools: Vec<Pool>,
    /// What a client may ask for; the first match wins, exact names before globs.
    pub routes: Vec<Route>,
    /// Who may ask.
    pub tenants: Vec<Tenant>,
    /// What tenants show to prove who they are.
    pub keys: Vec<Key>,
    /// Values that the worker looks up.
    pub secrets: Vec<Secret>,
    /// Admission, for each worker as a whole.
    pub limits: Limits,
}

/// Something that is allowed but probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// Where, as in `routes[2].model`.
    pub path: String,
    /// What, lower case, no full stop.
    pub reason: String,
}

/// A set of backends that serve the same models.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Pool {
    /// Unique among the pools.
    pub name: String,
    /// What the backends speak.
    pub dialect: Dialect,
    /// At least one, and one at least with a weight above 0.
    pub backends: Vec<Backend>,
    /// The name of the secret that is shown to the backends.
    pub credential: Option<String>,
    /// How a backend is picked.
    pub balance: Balance,
    /// Active health checks.
    pub health: Health,
    /// When a failing backend is left alone.
    pub breaker: Breaker,
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// The OpenAI HTTP API.
    OpenAi,
}

/// How a pool picks a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Balance {
    /// Two random choices, the one with fewer streams in flight for its weight.
    LeastLoaded,
    /// Smooth weighted round-robin.
    WeightedRoundRobin,
}

/// One LLM server.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Backend {
    /// Unique within the pool.
    pub name: String,
    /// Where it is; unique within the pool.
    pub url: BackendUrl,
    /// Share of the traffic, 0 to 1000; 0 takes none.
    pub weight: u32,
    /// Streams in flight at most, 1 to 1000000; `None`: no bound.
    pub max_streams: Option<u32>,
    /// Whether to speak HTTP/2 to it.
    pub http2: bool,
    /// The PEM file of the authority to trust; `None`: the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// Active health checks of each backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What to GET, starting with "/".
    pub path: String,
    /// From one check to the next.
    pub every: Duration,
    /// How long one check may take.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy backend healthy.
    pub healthy_after: u32,
    /// Failures in a row that make a healthy backend unhealthy.
    pub unhealthy_after: u32,
}

/// When a failing backend is left alone, judged by real traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Breaker {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before one trial request.
    pub open: Duration,
    /// Over how long a backend that came back grows to its full share; zero: at once.
    pub slow_start: Duration,
}

/// What a client may ask for, and who answers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// What it answers for.
    pub model: ModelPattern,
    /// Other exact names for the same thing; unique among all routes.
    pub aliases: Vec<String>,
    /// Who answers, by weight; one at least has a weight above 0.
    pub targets: Vec<Target>,
    /// Who answers when no target can, in this order.
    pub fallback: Vec<Target>,
    /// How long each phase may take.
    pub deadlines: Deadlines,
    /// Further attempts before the first event has left.
    pub retries: u32,
    /// Silence after which a stream gets a keep-alive comment; `None`: never.
    pub heartbeat: Option<Duration>,
}

/// A pool that answers for a route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The name of a pool that exists.
    pub pool: String,
    /// The model name that the backends see; `None`: what the client asked for, for an alias the route's model.
    pub model: Option<String>,
    /// Share of the traffic, 0 to 1000; without meaning in a fallback.
    pub weight: u32,
}

/// How long each phase of an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// TCP and TLS to the backend.
    pub connect: Duration,
    /// From the arrival of the request to the first event.
    pub first_token: Duration,
    /// From one event to the next.
    pub idle: Duration,
    /// From the arrival of the request to the end.
    pub total: Duration,
}

/// Who may ask, for what, how much.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tenant {
    /// Unique among the tenants.
    pub name: String,
    /// What it may ask for, by the name that the client sends; empty: every route.
    pub models: Vec<ModelPattern>,
    /// Requests in a minute on each worker; `None`: no bound.
    pub requests_per_minute: Option<u32>,
    /// Streams in flight on each worker; `None`: no bound.
    pub streams: Option<u32>,
}

/// What a client shows to prove who it is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Key {
    /// What logs and metrics say; unique among the keys of a draft.
    pub name: String,
    /// The name of a tenant that exists.
    pub tenant: String,
    /// The digest of the whole key.
    pub digest: KeyDigest,
    /// From then on it is refused; `None`: never.
    pub expires: Option<SystemTime>,
}

/// A value that the worker looks up where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Secret {
    /// Unique among the secrets.
    pub name: String,
    /// Where the value is.
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The name of an environment variable of the worker.
    Env(String),
    /// A file on the worker; one trailing newline is cut.
    File(PathBuf),
}

/// Admission, for each worker as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Exchanges in flight.
    pub streams: u32,
    /// Exchanges that may wait for one of those places.
    pub queue: u32,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// The largest request body in bytes.
    pub body: u64,
}

// === impl Config ===

impl Config {
    /// Whether anybody may ask: there are no tenants and no keys.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tenants.is_empty() && self.keys.is_empty()
    }

    /// What is allowed but probably not meant. Looked for at each call: who only runs a configuration need not know.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        crate::validate::warnings_of(self)
    }

    /// Adds keys that the key service made. One that cannot open anything, because its tenant is gone or its digest is
    /// not one, is left out: an apply must not fail for a key that lives beside the revisions.
    #[must_use]
    pub fn with_managed_keys(mut self, keys: impl IntoIterator<Item = v1::Key>) -> Self {
        let managed: Vec<Key> = keys.into_iter().filter_map(|key| self.managed_key(key)).collect();
        self.keys.extend(managed);
        self
    }

    fn managed_key(&self, key: v1::Key) -> Option<Key> {
        self.tenants.iter().find(|tenant| tenant.name == key.tenant)?;
        let expires = match key.expires {
            Some(expires) => Some(SystemTime::try_from(expires).ok()?),
            None => None,
        };
        Some(Key { name: key.name, tenant: key.tenant, digest: KeyDigest::parse(&key.digest)?, expires })
    }
}

// === impl Route ===

impl Route {
    /// Its name: the model as written.
    #[must_use]
    pub fn name(&self) -> &str {
        self.model.as_str()
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 10_000, queue: 1_000, queue_wait: Duration::from_secs(1), body: 32 << 20 }
    }
}
