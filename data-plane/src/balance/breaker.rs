//! Leaves a failing backend alone for a while, then tries it with one request, then lets it grow back. Sans-IO.

use std::time::Duration;

use ntonix_config::Breaker as Settings;
use tokio::time::Instant;

/// Closed, open or half-open, judged by the outcome of real traffic.
#[derive(Debug)]
pub(crate) struct Breaker {
    state: State,
    /// When it last came back; the share of the traffic grows from there.
    recovered: Option<Instant>,
    /// Trials so far, so that each has a number of its own.
    trials: u64,
}

/// The one request that shows how a backend is that was left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial(u64);

/// What a breaker shows to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Traffic flows.
    Closed,
    /// No traffic.
    Open,
    /// One request is let through to see.
    HalfOpen,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { trial: Option<Trial> },
}

/// The smallest share of its weight that a recovering backend gets.
const FIRST_SHARE: f64 = 0.1;

// === impl Breaker ===

impl Breaker {
    /// A closed breaker at full share.
    pub(crate) fn new() -> Self {
        Self { state: State::Closed { failures: 0 }, recovered: None, trials: 0 }
    }

    /// May a request go there now? Asking changes nothing.
    pub(crate) fn allows(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } => now >= until,
            State::HalfOpen { trial } => trial.is_none(),
        }
    }

    /// Does traffic flow? Otherwise only the trial says how the backend is.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// A request goes there. In an open breaker whose time is over it is the trial.
    pub(crate) fn enter(&mut self, now: Instant) -> Option<Trial> {
        let is_trial = match self.state {
            State::Open { until } => now >= until,
            State::HalfOpen { .. } => true,
            State::Closed { .. } => false,
        };
        is_trial.then(|| {
            self.trials += 1;
            let trial = Trial(self.trials);
            self.state = State::HalfOpen { trial: Some(trial) };
            trial
        })
    }

    /// Is it still the trial? One that was overtaken (a health check closed the breaker) is a request like any other.
    pub(crate) fn awaits(&self, asked: Trial) -> bool {
        matches!(self.state, State::HalfOpen { trial: Some(trial) } if trial == asked)
    }

    /// Its answer began. That decides a trial, but it says nothing yet of how the answer will end. Returns whether that
    /// closed the breaker.
    pub(crate) fn begun(&mut self, now: Instant) -> bool {
        matches!(self.state, State::HalfOpen { .. }) && self.success(now)
    }

    /// It answered to the end. Returns whether that closed the breaker.
    pub(crate) fn success(&mut self, now: Instant) -> bool {
        let reopened = !matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0 };
        if reopened {
            self.recovered = Some(now);
        }
        reopened
    }

    /// It failed. Returns whether that opened the breaker.
    pub(crate) fn failure(&mut self, now: Instant, settings: &Settings) -> bool {
        let opens = match &mut self.state {
            State::Closed { failures } => {
                *failures = failures.saturating_add(1);
                *failures >= settings.failures
            }
            State::HalfOpen { .. } => true,
            // A request that was under way when it opened; it is open already.
            State::Open { .. } => false,
        };
        if opens {
            self.state = State::Open { until: now + settings.open };
        }
        opens
    }

    /// The trial told nothing (the client left first): another may be made.
    pub(crate) fn forget(&mut self, forgotten: Trial) {
        if self.awaits(forgotten) {
            self.state = State::HalfOpen { trial: None };
        }
    }

    /// It came back by another way (a health check): it grows from here, and past failures count no more.
    pub(crate) fn recover(&mut self, now: Instant) {
        self.state = State::Closed { failures: 0 };
        self.recovered = Some(now);
    }

    /// The share of its weight that it gets now, `FIRST_SHARE` to 1.
    pub(crate) fn share(&self, now: Instant, slow_start: Duration) -> f64 {
        let Some(recovered) = self.recovered else { return 1.0 };
        let grown = now.saturating_duration_since(recovered);
        if grown >= slow_start {
            return 1.0;
        }
        FIRST_SHARE + (1.0 - FIRST_SHARE) * grown.as_secs_f64() / slow_start.as_secs_f64()
    }

    /// What it shows to the outside.
    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { until } if now < until => Phase::Open,
            State::Open { .. } | State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = "pools:\n  - name: p\n    backends: [{ name: b, url: 'http://127.0.0.1:1' }]\n    breaker: { failures: 3, open: 10s, slow_start: 30s }\nroutes:\n  - { model: m, targets: [{ pool: p }] }\n";
        let source = ntonix_config::Source::read(text, std::path::Path::new("/")).unwrap();
        ntonix_config::validate(&source.draft).unwrap().pools[0].breaker.clone()
    }

    fn open(breaker: &mut Breaker, now: Instant) {
        for _ in 0..3 {
            breaker.failure(now, &settings());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        assert!(!breaker.failure(now, &settings()));
        assert!(!breaker.failure(now, &settings()));
        breaker.success(now);
        assert!(!breaker.failure(now, &settings()));
        assert!(!breaker.failure(now, &settings()));
        assert!(breaker.allows(now));
        assert!(breaker.failure(now, &settings()), "the third in a row opens it");
        assert!(!breaker.allows(now));
        assert_eq!(breaker.phase(now), Phase::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_begin_and_then_fail_open_it() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        for _ in 0..3 {
            assert!(!breaker.begun(now));
            breaker.failure(now, &settings());
        }
        assert_eq!(breaker.phase(now), Phase::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_is_over_when_its_answer_begins() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        open(&mut breaker, now);
        let later = now + Duration::from_secs(10);
        breaker.enter(later);
        assert!(breaker.begun(later));
        assert!(breaker.allows(later));
    }

    #[tokio::test(start_paused = true)]
    async fn after_its_time_one_trial_is_let_through_and_decides() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        open(&mut breaker, now);
        let later = now + Duration::from_secs(10);
        assert!(!breaker.allows(later - Duration::from_millis(1)));
        assert!(breaker.allows(later));
        breaker.enter(later);
        assert!(!breaker.allows(later), "only one");
        assert!(breaker.failure(later, &settings()), "a failed trial opens it again");
        assert!(!breaker.allows(later + Duration::from_secs(9)));

        let last = later + Duration::from_secs(10);
        breaker.enter(last);
        assert!(breaker.success(last));
        assert!(breaker.allows(last));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_whose_client_left_may_be_tried_again() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        open(&mut breaker, now);
        let later = now + Duration::from_secs(10);
        let trial = breaker.enter(later).unwrap();
        breaker.forget(trial);
        assert!(breaker.allows(later));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_came_back_grows_to_its_full_share() {
        let (mut breaker, now) = (Breaker::new(), Instant::now());
        let slow_start = Duration::from_secs(30);
        assert_eq!(breaker.share(now, slow_start), 1.0);
        breaker.recover(now);
        assert_eq!(breaker.share(now, slow_start), FIRST_SHARE);
        let half = breaker.share(now + Duration::from_secs(15), slow_start);
        assert!((half - 0.55).abs() < 1e-9, "{half}");
        assert_eq!(breaker.share(now + slow_start, slow_start), 1.0);
        assert_eq!(breaker.share(now, Duration::ZERO), 1.0, "slow start switched off");
    }
}
