//! Asks each backend from time to time how it is, and which models it has.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Method, Request, header};
use ntonix_config as config;
use ntonix_llm::reply;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Backend, Pool, load::Condition};
use crate::{
    live::{Cell, Live},
    metrics::Metrics,
    upstream::{self, Answer, AskError, IfLost, connect::ConnectError},
};

/// What is read of a list of models.
const MODELS_MOST: usize = 4 * 1024 * 1024;
/// A check that ends later than this after its time was up tells of a worker that did not run, not of its backend.
const LATE: Duration = Duration::from_millis(500);

/// Turns successes and failures in a row into a state. Sans-IO.
#[derive(Debug)]
struct Streak {
    healthy: bool,
    against: u32,
}

/// The checks of one pool; they end when this is dropped.
struct Watched {
    pool: Arc<Pool>,
    wants_models: bool,
    _checks: JoinSet<()>,
}

/// The checks of one backend.
struct Check {
    pool: Arc<Pool>,
    backend: Arc<Backend>,
    wants_models: bool,
    streak: Streak,
}

/// Why a page was not got.
#[derive(Debug)]
enum Failed {
    /// The backend does not do well.
    Backend(String),
    /// This worker does not: nothing was learned of the backend.
    Worker(String),
}

/// Checks the backends of what runs, for as long as it is polled. A pool that a new configuration leaves as it is keeps
/// its checks and what they have counted.
pub(crate) async fn follow(cell: Arc<Cell>, mut changed: watch::Receiver<u64>, metrics: Metrics) {
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        changed.mark_unchanged();
        if let Some(live) = cell.load() {
            watched = reconcile(&live, watched, &metrics);
        }
        // The sender is gone: the worker is.
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn reconcile(live: &Live, mut before: Vec<Watched>, metrics: &Metrics) -> Vec<Watched> {
    let watch = |pool: &Arc<Pool>| {
        let wants_models = live.routes().asks_for_models_of(pool);
        let same = |watched: &Watched| Arc::ptr_eq(&watched.pool, pool) && watched.wants_models == wants_models;
        match before.iter().position(same) {
            Some(place) => before.swap_remove(place),
            None => Watched::begin(pool, wants_models, metrics),
        }
    };
    live.pools().map(watch).collect()
}

// === impl Watched ===

impl Watched {
    fn begin(pool: &Arc<Pool>, wants_models: bool, metrics: &Metrics) -> Self {
        let mut checks = JoinSet::new();
        for backend in &pool.backends {
            let check = Check::new(Arc::clone(pool), Arc::clone(backend), wants_models);
            checks.spawn(check.run(metrics.clone()));
        }
        Self { pool: Arc::clone(pool), wants_models, _checks: checks }
    }
}

// === impl Check ===

impl Check {
    fn new(pool: Arc<Pool>, backend: Arc<Backend>, wants_models: bool) -> Self {
        let streak = Streak { healthy: backend.load.condition() == Condition::Healthy, against: 0 };
        Self { pool, backend, wants_models, streak }
    }

    /// Checks for ever. A panic ends one check and not those after it: nobody else would notice that they are missing.
    async fn run(mut self, metrics: Metrics) {
        let mut ticks = interval(self.pool.health.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if AssertUnwindSafe(self.once()).catch_unwind().await.is_err() {
                metrics.panics.inc();
                tracing::error!(
                    pool.name = &*self.pool.name,
                    backend.name = &*self.backend.name,
                    "Health check panicked"
                );
            }
        }
    }

    async fn once(&mut self) {
        #[cfg(test)]
        tests::panic_when_told();
        let now = Instant::now();
        self.backend.connector.prune(now);
        let passed = ask(&self.pool, &self.backend, &self.pool.health.path, self.pool.health.timeout).await;
        let (well, reason) = match passed {
            Ok(_) => (true, None),
            Err(Failed::Backend(reason)) => (false, Some(reason)),
            Err(Failed::Worker(reason)) => {
                tracing::warn!(
                    pool.name = &*self.pool.name,
                    backend.name = &*self.backend.name,
                    reason,
                    "Health check did not count"
                );
                return;
            }
        };
        self.note(well, reason, now);
        if well && self.wants_models {
            learn_models(&self.pool, &self.backend).await;
        }
    }

    fn note(&mut self, well: bool, reason: Option<String>, now: Instant) {
        let Some(healthy) = self.streak.note(well, &self.pool.health) else { return };
        self.backend.load.set_healthy(healthy, now);
        let (pool, name) = (&*self.pool.name, &*self.backend.name);
        if healthy {
            tracing::info!(pool.name = pool, backend.name = name, "Backend is healthy again");
        } else {
            tracing::warn!(pool.name = pool, backend.name = name, reason, "Backend is unhealthy");
        }
    }
}

async fn learn_models(pool: &Pool, backend: &Backend) {
    let Ok(Some(body)) = ask(pool, backend, "/v1/models", pool.health.timeout).await else { return };
    if let Some(models) = reply::model_ids(&body) {
        backend.load.set_models(models);
    }
}

/// Asks for a page. `Ok(None)`: a success whose body is of no use.
async fn ask(pool: &Pool, backend: &Backend, path: &str, within: Duration) -> Result<Option<Bytes>, Failed> {
    let asked = async {
        let request = || request(pool, backend, path);
        let answer = upstream::ask(&backend.connector, within, IfLost::AskAgain, request).await?;
        if !answer.status.is_success() {
            return Err(Failed::Backend(format!("{path} answered {}", answer.status.as_u16())));
        }
        read(answer).await
    };
    let began = Instant::now();
    let asked = timeout(within, asked).await.unwrap_or_else(|_| Err(Failed::late(path, within)));
    match asked {
        // Its answer may have been here all the while: this process was stopped, or got no processor.
        Err(Failed::Backend(reason)) if began.elapsed() > within + LATE => Err(Failed::Worker(reason)),
        asked => asked,
    }
}

async fn read(mut answer: Answer) -> Result<Option<Bytes>, Failed> {
    let mut body = Vec::new();
    while let Some(data) = answer.body.data().await {
        body.extend_from_slice(&data.map_err(|error| Failed::Backend(text(&error)))?);
        if body.len() > MODELS_MOST {
            return Ok(None);
        }
    }
    Ok(Some(body.into()))
}

fn request(pool: &Pool, backend: &Backend, path: &str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = backend.connector.uri(path);
    backend.connector.set_host(request.headers_mut());
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("ntonix-health"));
    if let Some(credential) = &pool.credential {
        request.headers_mut().insert(header::AUTHORIZATION, credential.clone());
    }
    request
}

fn text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

// === impl Failed ===

impl Failed {
    fn late(path: &str, within: Duration) -> Self {
        Self::Backend(format!("{path} took longer than {within:?}"))
    }
}

impl From<AskError> for Failed {
    fn from(error: AskError) -> Self {
        match &error {
            AskError::Connect(ConnectError::Exhausted(_)) => Self::Worker(text(&error)),
            AskError::Connect(_) | AskError::Lost(_) => Self::Backend(text(&error)),
        }
    }
}

// === impl Streak ===

impl Streak {
    /// One more result. `Some`: the state changed to this.
    fn note(&mut self, well: bool, settings: &config::Health) -> Option<bool> {
        if well == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.healthy { settings.unhealthy_after } else { settings.healthy_after };
        if self.against < needed {
            return None;
        }
        (self.healthy, self.against) = (well, 0);
        Some(well)
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
