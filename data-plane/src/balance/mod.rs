//! Which backend: the pools of a revision, and what is known of each backend right now.
//!
//! A [`Pool`] belongs to one revision; the [`Load`] of its backends outlives it, keyed by (pool, name, url).

pub(crate) mod breaker;
pub(crate) mod health;
pub(crate) mod load;
pub(crate) mod pick;

#[cfg(test)]
mod breaker_walk;

use std::{fmt, sync::Arc};

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

/// Why no backend of a pool can be picked, in the order in which it is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nobody {
    /// Every one said which models it has, and this is not among them.
    ModelUnknown,
    /// Every one is unhealthy, open or has weight 0.
    Down,
    /// Every one that is left was tried already.
    Tried,
    /// Every one that is up has as many streams as it may have.
    Full,
}

// === impl Pool ===

impl Pool {
    /// Puts a pool together.
    pub(crate) fn new(spec: &config::Pool, backends: Vec<Arc<Backend>>, credential: Option<HeaderValue>) -> Self {
        let weights: Vec<u32> = backends.iter().map(|backend| backend.spec.weight).collect();
        Self {
            name: spec.name.as_str().into(),
            picker: Picker::new(spec.balance, &weights),
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
            let index = self.picker.pick(self.backends.len(), |index| {
                let candidate = self.look_at(index, model, tried, now)?;
                if passed_over.contains(&index) { Err(Nobody::Full) } else { Ok(candidate) }
            })?;
            let backend = &self.backends[index];
            if let Some(guard) = backend.load.enter(backend.spec.max_streams, now) {
                return Ok(Picked { backend: Arc::clone(backend), pool: Arc::clone(self), guard });
            }
            // It filled up between the look and the step; the next look leaves it out.
            passed_over.push(index);
        }
    }

    /// How the backend of this place stands, or why it cannot be picked.
    // Where all are looked at, a backend costs 90 instructions, and 160 when this and `share` are calls.
    #[inline(always)]
    fn look_at(
        &self,
        index: usize,
        model: Option<&str>,
        tried: &[Arc<Backend>],
        now: Instant,
    ) -> Result<Candidate, Nobody> {
        let (spec, load) = (&self.backends[index].spec, &self.backends[index].load);
        if model.is_some_and(|model| !load.may_have(model)) {
            return Err(Nobody::ModelUnknown);
        }
        let weight = f64::from(spec.weight) * load.share(now, &self.breaker);
        if weight <= 0.0 {
            return Err(Nobody::Down);
        }
        if tried.iter().any(|other| Arc::ptr_eq(&other.load, load)) {
            return Err(Nobody::Tried);
        }
        let in_flight = load.in_flight();
        if spec.max_streams.is_some_and(|most| in_flight >= most as usize) {
            return Err(Nobody::Full);
        }
        Ok(Candidate { index, weight, in_flight })
    }
}

// === impl Picked ===

impl Picked {
    /// Its answer began; how it ends is open.
    pub(crate) fn begun(&mut self) {
        self.went_well(Verdict::Begun);
    }

    /// It answered to the end.
    pub(crate) fn succeeded(&mut self) {
        self.went_well(Verdict::Success);
    }

    /// It failed, as `error` says.
    pub(crate) fn failed(&mut self, error: &dyn fmt::Display) {
        if self.judge(Verdict::Failure) {
            let (pool, backend) = (&*self.pool.name, &*self.backend.name);
            tracing::warn!(pool.name = pool, backend.name = backend, %error, "Breaker opened");
        }
        self.backend.metrics.failures.inc();
    }

    fn went_well(&mut self, verdict: Verdict) {
        if self.judge(verdict) {
            tracing::info!(pool.name = &*self.pool.name, backend.name = &*self.backend.name, "Breaker closed");
        }
    }

    /// Tells the breaker; says whether that changed it.
    fn judge(&mut self, verdict: Verdict) -> bool {
        self.guard.judge(verdict, Instant::now(), &self.pool.breaker)
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
