//! Which backend: the pools of a revision, and what is known of each backend right now.
//!
//! A [`Pool`] belongs to one revision; the [`Load`] of its backends outlives it, keyed by (pool, name, url).

pub(crate) mod breaker;
pub(crate) mod health;
pub(crate) mod load;
pub(crate) mod pick;

#[cfg(test)]
mod breaker_walk;

use std::sync::Arc;

use http::HeaderValue;
use ntonix_config as config;
use tokio::time::Instant;

use crate::{
    balance::{
        load::{Load, LoadGuard, Verdict},
        pick::{Candidate, Picker},
    },
    metrics::BackendMetrics,
    refusal::{Kind, Refusal},
    upstream::Connector,
};

/// A set of backends that serve the same models, as one revision has it.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Its name in the configuration.
    pub(crate) name: Arc<str>,
    /// In the order of the configuration.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// When a failing backend is left alone.
    pub(crate) breaker: config::Breaker,
    /// How its backends are checked.
    pub(crate) health: config::Health,
    /// What it shows to its backends: the whole `Authorization` value.
    pub(crate) credential: Option<HeaderValue>,
    spec: config::Pool,
    picker: Picker,
}

/// One LLM server, as one revision has it.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its name within the pool.
    pub(crate) name: Arc<str>,
    /// Its settings.
    pub(crate) spec: config::Backend,
    /// What it is doing.
    pub(crate) load: Arc<Load>,
    /// How to reach it.
    pub(crate) connector: Arc<Connector>,
    /// What is counted of it.
    pub(crate) metrics: BackendMetrics,
}

/// A backend that was picked, and the stream that begins on it.
#[derive(Debug)]
pub(crate) struct Picked {
    /// The backend.
    pub(crate) backend: Arc<Backend>,
    /// Its pool.
    pub(crate) pool: Arc<Pool>,
    /// The stream in flight.
    pub(crate) guard: LoadGuard,
}

/// Why no backend of a pool can be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// Every one that is left was tried already.
    Tried,
    /// Every one is unhealthy, open or has weight 0.
    Down,
    /// Every one that is up has as many streams as it may have.
    Full,
    /// Every one said which models it has, and this is not among them.
    ModelUnknown,
}

// === impl Pool ===

impl Pool {
    /// Puts a pool together.
    pub(crate) fn new(spec: &config::Pool, backends: Vec<Arc<Backend>>, credential: Option<HeaderValue>) -> Self {
        Self {
            name: spec.name.as_str().into(),
            picker: Picker::new(spec.balance, backends.len()),
            backends,
            breaker: spec.breaker.clone(),
            health: spec.health.clone(),
            credential,
            spec: spec.clone(),
        }
    }

    /// Would a pool of these settings be the same? Then it stays, with its turn and its checks. One that trusts an
    /// authority never is: the file may have changed.
    pub(crate) fn is_as(&self, spec: &config::Pool, credential: Option<&HeaderValue>) -> bool {
        let trusts_a_file = spec.backends.iter().any(|backend| backend.ca_file.is_some());
        !trusts_a_file && self.spec == *spec && self.credential.as_ref() == credential
    }

    /// Picks a backend that was not tried yet. With a `model`, only those that have it or did not say what they have.
    pub(crate) fn pick(
        self: &Arc<Self>,
        model: Option<&str>,
        tried: &[Arc<Backend>],
        now: Instant,
    ) -> Result<Picked, Nobody> {
        let mut passed_over = Vec::new();
        loop {
            let candidates = self.candidates(model, tried, &passed_over, now)?;
            let Some(index) = self.picker.pick(&candidates) else { return Err(Nobody::Full) };
            let backend = &self.backends[index];
            if let Some(guard) = backend.load.enter(backend.spec.max_streams, now) {
                return Ok(Picked { backend: Arc::clone(backend), pool: Arc::clone(self), guard });
            }
            // It filled up between the look and the step; the next look leaves it out.
            passed_over.push(index);
        }
    }

    fn candidates(
        &self,
        model: Option<&str>,
        tried: &[Arc<Backend>],
        passed_over: &[usize],
        now: Instant,
    ) -> Result<Vec<Candidate>, Nobody> {
        let mut candidates = Vec::with_capacity(self.backends.len());
        let (mut any_with_model, mut any_up, mut any_untried) = (false, false, false);
        for (index, backend) in self.backends.iter().enumerate() {
            if !backend.may_have(model) {
                continue;
            }
            any_with_model = true;
            let weight = f64::from(backend.spec.weight) * backend.load.share(now, &self.breaker);
            if weight <= 0.0 {
                continue;
            }
            any_up = true;
            if tried.iter().any(|other| Arc::ptr_eq(&other.load, &backend.load)) {
                continue;
            }
            any_untried = true;
            let in_flight = backend.load.in_flight();
            let full = backend.spec.max_streams.is_some_and(|most| in_flight >= most as usize);
            if !full && !passed_over.contains(&index) {
                candidates.push(Candidate { index, weight, in_flight });
            }
        }
        match () {
            () if !candidates.is_empty() => Ok(candidates),
            () if !any_with_model => Err(Nobody::ModelUnknown),
            () if !any_up => Err(Nobody::Down),
            () if !any_untried => Err(Nobody::Tried),
            () => Err(Nobody::Full),
        }
    }
}

// === impl Picked ===

impl Picked {
    /// Tells the breaker how the attempt went, and the log when that changed it.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        let now = Instant::now();
        if self.guard.judge(verdict, now, &self.pool.breaker) {
            let (pool, backend) = (&*self.pool.name, &*self.backend.name);
            match verdict {
                Verdict::Begun | Verdict::Success => {
                    tracing::info!(pool.name = pool, backend.name = backend, "Breaker closed")
                }
                Verdict::Failure => tracing::warn!(pool.name = pool, backend.name = backend, "Breaker opened"),
            }
        }
        if verdict == Verdict::Failure {
            self.backend.metrics.failures.inc();
        }
    }
}

// === impl Backend ===

impl Backend {
    fn may_have(&self, model: Option<&str>) -> bool {
        let Some(model) = model else { return true };
        self.load.models().is_none_or(|models| models.iter().any(|has| has == model))
    }
}

// === impl Nobody ===

impl Nobody {
    /// The reason that tells most when several pools were asked: full before down, down before unknown, anything
    /// before tried.
    pub(crate) fn or(self, other: Self) -> Self {
        let telling = |reason: Self| match reason {
            Nobody::Full => 3,
            Nobody::Down => 2,
            Nobody::ModelUnknown => 1,
            Nobody::Tried => 0,
        };
        if telling(other) > telling(self) { other } else { self }
    }

    /// What the client is told.
    pub(crate) fn refuse(self, model: &str) -> Refusal {
        const SOON: std::time::Duration = std::time::Duration::from_secs(1);
        match self {
            Nobody::Tried | Nobody::Down => {
                Refusal::new(Kind::NoHealthyBackend, format!("no backend for model \"{model}\" is healthy right now"))
                    .retry_after(SOON * 2)
            }
            Nobody::Full => {
                Refusal::new(Kind::Overloaded, format!("every backend for model \"{model}\" is full")).retry_after(SOON)
            }
            Nobody::ModelUnknown => {
                Refusal::new(Kind::ModelNotFound, format!("the model \"{model}\" does not exist")).about(Some("model"))
            }
        }
    }
}
