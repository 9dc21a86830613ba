//! What a backend is doing: streams in flight, health, breaker. Shared by all threads, kept across revisions.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
};

use arc_swap::ArcSwapOption;
use ntonix_config::Breaker as BreakerSettings;
use tokio::time::Instant;

use super::breaker::{Breaker, Phase, Trial};

/// The running state of one backend. Its identity is (pool, name, url): while that stays, so does this.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    condition: AtomicU8,
    /// A revision took it out: only exchanges that began before still reach it.
    draining: AtomicBool,
    breaker: Mutex<Breaker>,
    /// The breaker is closed and leaves the whole share: there is nothing in it to look at. Written while it is held.
    is_at_ease: AtomicBool,
    /// The models that it said it has; `None` until it said so.
    models: ArcSwapOption<Vec<String>>,
}

/// How a backend stands, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    /// It takes traffic; also before the first check.
    Healthy,
    /// Its health checks fail.
    Unhealthy,
    /// It is no longer configured and finishes its streams.
    Draining,
}

/// How an attempt went, in the eyes of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its first event came; how the stream ends is open.
    Begun,
    /// It answered to the end.
    Success,
    /// It failed.
    Failure,
}

/// One stream in flight on a backend; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct LoadGuard {
    load: Arc<Load>,
    /// It is the breaker's trial, and nothing was learned by it yet.
    trial: Option<Trial>,
}

// === impl Load ===

impl Load {
    /// A healthy backend with nothing to do.
    pub(crate) fn new() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            condition: AtomicU8::new(0),
            draining: AtomicBool::new(false),
            breaker: Mutex::new(Breaker::new()),
            is_at_ease: AtomicBool::new(true),
            models: ArcSwapOption::empty(),
        }
    }

    /// Streams in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How it stands.
    pub(crate) fn condition(&self) -> Condition {
        if self.draining.load(Ordering::Relaxed) {
            return Condition::Draining;
        }
        if self.is_well() { Condition::Healthy } else { Condition::Unhealthy }
    }

    /// Do its health checks pass, or was it not checked yet?
    fn is_well(&self) -> bool {
        self.condition.load(Ordering::Relaxed) == 0
    }

    /// How it stands, breaker included, as the metrics call it.
    pub(crate) fn state(&self, now: Instant) -> &'static str {
        match (self.condition(), self.breaker().phase(now)) {
            (Condition::Draining, _) => "draining",
            (Condition::Unhealthy, _) => "unhealthy",
            (Condition::Healthy, Phase::Open) => "open",
            (Condition::Healthy, Phase::HalfOpen) => "half-open",
            (Condition::Healthy, Phase::Closed) => "healthy",
        }
    }

    /// The health checks changed their mind.
    pub(crate) fn set_healthy(&self, healthy: bool, now: Instant) {
        let was = self.condition.swap(u8::from(!healthy), Ordering::Relaxed);
        if healthy && was != 0 {
            let mut breaker = self.breaker();
            breaker.recover(now);
            self.is_at_ease.store(false, Ordering::Relaxed);
        }
    }

    /// A revision took it out, or put it back.
    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// The models that it said it has; `None` until it said so.
    pub(crate) fn models(&self) -> Option<Arc<Vec<String>>> {
        self.models.load_full()
    }

    /// Does it have `model`, or has it not said what it has?
    pub(crate) fn may_have(&self, model: &str) -> bool {
        self.models.load().as_ref().is_none_or(|models| models.iter().any(|has| has == model))
    }

    /// It said which models it has.
    pub(crate) fn set_models(&self, models: Vec<String>) {
        self.models.store(Some(Arc::new(models)));
    }

    /// The share of its weight that it may be given now: 0 when it takes no traffic.
    #[inline]
    pub(crate) fn share(&self, now: Instant, settings: &BreakerSettings) -> f64 {
        // That it drains is no reason against it: no pool of the newest revision has it, so whoever asks began under an
        // older one, and goes on under that.
        if !self.is_well() {
            return 0.0;
        }
        // Asked of every backend of a pool for each pick: the lock alone would cost more than all else.
        if self.is_at_ease.load(Ordering::Relaxed) { 1.0 } else { self.share_by_breaker(now, settings) }
    }

    #[cold]
    fn share_by_breaker(&self, now: Instant, settings: &BreakerSettings) -> f64 {
        let breaker = self.breaker();
        if !breaker.allows(now) {
            return 0.0;
        }
        let share = breaker.share(now, settings.slow_start);
        self.is_at_ease.store(share >= 1.0 && breaker.is_closed(), Ordering::Relaxed);
        share
    }

    /// Begins a stream, unless `most` are in flight already or the breaker has opened in the meantime.
    pub(crate) fn enter(self: &Arc<Self>, most: Option<u32>, now: Instant) -> Option<LoadGuard> {
        let limit = most.map_or(usize::MAX, |most| most as usize);
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| (streams < limit).then_some(streams + 1))
            .ok()?;
        // Made first: dropped, it takes the stream back.
        let mut guard = LoadGuard { load: Arc::clone(self), trial: None };
        if !self.is_at_ease.load(Ordering::Relaxed) {
            let mut breaker = self.breaker();
            if !breaker.allows(now) {
                return None;
            }
            guard.trial = breaker.enter(now);
        }
        Some(guard)
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        // A panic while it was held cannot leave a breaker half changed in a way that matters.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl LoadGuard ===

impl LoadGuard {
    /// Tells the breaker how the attempt went: once for an answer that comes at once; when it begins and when it ends for
    /// a stream. Returns whether the breaker changed by it.
    pub(crate) fn judge(&mut self, verdict: Verdict, now: Instant, settings: &BreakerSettings) -> bool {
        let mut breaker = self.load.breaker();
        let is_trial = self.trial.take().is_some_and(|trial| breaker.awaits(trial));
        // What began before the breaker opened says nothing of how the backend takes requests now.
        if !is_trial && !breaker.is_closed() {
            return false;
        }
        let has_changed = match verdict {
            Verdict::Begun => breaker.begun(now),
            Verdict::Success => breaker.success(now),
            Verdict::Failure => breaker.failure(now, settings),
        };
        if has_changed {
            self.load.is_at_ease.store(false, Ordering::Relaxed);
        }
        has_changed
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if let Some(trial) = self.trial {
            self.load.breaker().forget(trial);
        }
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn streams_in_flight_are_counted_until_they_end_and_bounded() {
        let (load, now) = (Arc::new(Load::new()), Instant::now());
        let first = load.enter(Some(2), now).unwrap();
        let second = load.enter(Some(2), now).unwrap();
        assert!(load.enter(Some(2), now).is_none());
        assert_eq!(load.in_flight(), 2);
        drop(first);
        assert!(load.enter(Some(2), now).is_some());
        drop(second);
        assert_eq!(load.in_flight(), 0);
    }

    fn settings() -> BreakerSettings {
        let text = "pools:\n  - name: p\n    backends: [{ name: b, url: 'http://127.0.0.1:1' }]\n    breaker: { failures: 1, open: 10s }\n";
        let source = ntonix_config::Source::read(text, std::path::Path::new("/")).unwrap();
        ntonix_config::validate(&source.draft).unwrap().pools[0].breaker.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_from_before_the_breaker_opened_says_nothing_of_now() {
        let (load, settings, now) = (Arc::new(Load::new()), settings(), Instant::now());
        let mut old: Vec<_> = (0..4).map(|_| load.enter(None, now).unwrap()).collect();
        assert!(load.enter(None, now).unwrap().judge(Verdict::Failure, now, &settings));
        assert!(!old.remove(0).judge(Verdict::Success, now, &settings), "it began when all was well");
        assert!(load.enter(None, now).is_none());

        let later = now + settings.open;
        let mut trial = load.enter(None, later).unwrap();
        drop(old.remove(0));
        assert!(load.enter(None, later).is_none(), "one trial, although another stream was left by its client");
        assert!(!old.remove(0).judge(Verdict::Failure, later, &settings), "nor is it the trial that has failed");
        assert!(!old.remove(0).judge(Verdict::Success, later, &settings), "nor the one that went well");
        assert!(load.enter(None, later).is_none());
        assert!(trial.judge(Verdict::Begun, later, &settings));
        assert!(load.enter(None, later).is_some());
    }
}
