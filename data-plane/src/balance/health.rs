//! Asks each backend from time to time how it is, and which models it has.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version, header};
use http_body_util::Full;
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
    upstream::{self, Answer, IfLost},
};

/// What is read of a list of models.
const MODELS_MOST: usize = 4 * 1024 * 1024;

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

/// Checks the backends of what runs, for as long as it is polled. A pool that a new configuration leaves as it is keeps
/// its checks and what they have counted.
pub(crate) async fn follow(cell: Arc<Cell>, mut changed: watch::Receiver<u64>) {
    let mut watched: Vec<Watched> = Vec::new();
    loop {
        changed.mark_unchanged();
        if let Some(live) = cell.load() {
            watched = reconcile(&live, watched);
        }
        // The sender is gone: the worker is.
        if changed.changed().await.is_err() {
            return;
        }
    }
}

fn reconcile(live: &Live, mut before: Vec<Watched>) -> Vec<Watched> {
    let watch = |pool: &Arc<Pool>| {
        let wants_models = live.routes().asks_for_models_of(pool);
        let same = |watched: &Watched| Arc::ptr_eq(&watched.pool, pool) && watched.wants_models == wants_models;
        match before.iter().position(same) {
            Some(place) => before.swap_remove(place),
            None => Watched::begin(pool, wants_models),
        }
    };
    live.pools().map(watch).collect()
}

// === impl Watched ===

impl Watched {
    fn begin(pool: &Arc<Pool>, wants_models: bool) -> Self {
        let mut checks = JoinSet::new();
        for backend in &pool.backends {
            checks.spawn(check(Arc::clone(pool), Arc::clone(backend), wants_models));
        }
        Self { pool: Arc::clone(pool), wants_models, _checks: checks }
    }
}

async fn check(pool: Arc<Pool>, backend: Arc<Backend>, wants_models: bool) {
    let mut ticks = interval(pool.health.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streak = Streak { healthy: backend.load.condition() == Condition::Healthy, against: 0 };
    loop {
        ticks.tick().await;
        let now = Instant::now();
        backend.connector.prune(now);
        let passed = ask(&pool, &backend, &pool.health.path, pool.health.timeout).await;
        let well = passed.is_ok();
        if let Some(healthy) = streak.note(well, &pool.health) {
            backend.load.set_healthy(healthy, now);
            let (pool, name, reason) = (&*pool.name, &*backend.name, passed.err());
            if healthy {
                tracing::info!(pool.name = pool, backend.name = name, "Backend is healthy again");
            } else {
                tracing::warn!(pool.name = pool, backend.name = name, reason, "Backend is unhealthy");
            }
        }
        if well && wants_models {
            learn_models(&pool, &backend).await;
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
async fn ask(pool: &Pool, backend: &Backend, path: &str, within: Duration) -> Result<Option<Bytes>, String> {
    let asked = async {
        let request = |version| request(pool, backend, path, version);
        let answer =
            upstream::ask(&backend.connector, within, IfLost::AskAgain, request).await.map_err(|error| text(&error))?;
        if !answer.status.is_success() {
            return Err(format!("{path} answered {}", answer.status.as_u16()));
        }
        read(answer).await
    };
    timeout(within, asked).await.unwrap_or_else(|_| Err(format!("{path} took longer than {within:?}")))
}

async fn read(mut answer: Answer) -> Result<Option<Bytes>, String> {
    let mut body = Vec::new();
    while let Some(data) = answer.body.data().await {
        body.extend_from_slice(&data.map_err(|error| text(&error))?);
        if body.len() > MODELS_MOST {
            return Ok(None);
        }
    }
    Ok(Some(body.into()))
}

fn request(pool: &Pool, backend: &Backend, path: &str, version: Version) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = backend.connector.uri(path, version);
    backend.connector.set_host(request.headers_mut(), version);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("ntonix-health"));
    if let Some(credential) = &pool.credential {
        request.headers_mut().insert(header::AUTHORIZATION, credential.clone());
    }
    request
}

fn text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
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
mod tests {
    use super::*;

    #[test]
    fn a_backend_changes_its_state_after_so_many_results_in_a_row() {
        const NONE: [bool; 0] = [];
        let text = "pools:\n  - name: p\n    backends: [{ name: b, url: 'http://127.0.0.1:1' }]\n    health: { healthy_after: 2, unhealthy_after: 3 }\n";
        let source = ntonix_config::Source::read(text, std::path::Path::new("/")).unwrap();
        let settings = ntonix_config::validate(&source.draft).unwrap().pools[0].health.clone();
        let mut streak = Streak { healthy: true, against: 0 };
        let mut note =
            |results: &[bool]| -> Vec<_> { results.iter().filter_map(|&well| streak.note(well, &settings)).collect() };
        assert_eq!(note(&[false, false, true, false, false]), NONE);
        assert_eq!(note(&[false]), [false]);
        assert_eq!(note(&[true, false, true]), NONE);
        assert_eq!(note(&[true]), [true]);
    }
}
