//! Random walks of a backend's breaker, together with the guards that judge it, beside a model that remembers everything.

use std::{sync::Arc, time::Duration};

use ntonix_config::Breaker as Settings;
use ntonix_fuzz::{Rng, walks};
use tokio::time::Instant;

use super::load::{Load, LoadGuard, Verdict};

/// With the 500 walks of `.cargo/config.toml` 256,000 steps.
const STEPS: usize = 512;
const STREAMS_MOST: u32 = 12;

/// What a breaker should be, told from the outside: not a state, but what happened and when.
#[derive(Default)]
struct Model {
    /// Failures since the last success, while traffic flowed.
    failures: u32,
    /// Until when it is left alone; `None`: traffic flows.
    closed_to: Option<Instant>,
    /// The stream that is the trial.
    trial: Option<u64>,
    /// When it last came back.
    recovered: Option<Instant>,
    is_ill: bool,
}

/// A stream under way, and what the model calls it.
struct Stream {
    name: u64,
    guard: LoadGuard,
    has_begun: bool,
}

struct Walk {
    load: Arc<Load>,
    settings: Settings,
    model: Model,
    streams: Vec<Stream>,
    named: u64,
    now: Instant,
}

fn settings(rng: &mut Rng) -> Settings {
    let (failures, open, slow) = (rng.u32(1..6), rng.u32(1..20), rng.u32(0..40));
    let text = format!(
        "pools:\n  - name: p\n    backends: [{{ name: b, url: 'http://127.0.0.1:1' }}]\n    \
         breaker: {{ failures: {failures}, open: {open}s, slow_start: {slow}s }}\n"
    );
    let source = ntonix_config::Source::read(&text, std::path::Path::new("/")).unwrap();
    ntonix_config::validate(&source.draft).unwrap().pools[0].breaker.clone()
}

// === impl Model ===

impl Model {
    fn allows(&self, now: Instant) -> bool {
        self.closed_to.is_none_or(|until| now >= until && self.trial.is_none())
    }

    fn come_back(&mut self, now: Instant) {
        (self.closed_to, self.trial, self.failures, self.recovered) = (None, None, 0, Some(now));
    }

    /// Whether the breaker changes by this verdict.
    fn judge(&mut self, name: u64, verdict: Verdict, now: Instant, settings: &Settings) -> bool {
        let is_trial = self.trial == Some(name);
        if self.closed_to.is_some() {
            match (is_trial, verdict) {
                (false, _) => return false,
                (true, Verdict::Failure) => (self.closed_to, self.trial) = (Some(now + settings.open), None),
                (true, _) => self.come_back(now),
            }
            return true;
        }
        match verdict {
            Verdict::Begun => false,
            Verdict::Success => {
                self.failures = 0;
                false
            }
            Verdict::Failure => {
                self.failures += 1;
                let opens = self.failures >= settings.failures;
                if opens {
                    self.closed_to = Some(now + settings.open);
                }
                opens
            }
        }
    }
}

// === impl Walk ===

impl Walk {
    fn new(rng: &mut Rng) -> Self {
        let (load, now) = (Arc::new(Load::new()), Instant::now());
        Self { load, settings: settings(rng), model: Model::default(), streams: Vec::new(), named: 0, now }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.u8(0..10) {
            0..=3 => self.enter(),
            4..=6 => self.judge(rng),
            7 => self.leave(rng),
            8 => self.check_health(rng),
            _ => self.now += Duration::from_millis(rng.u64(0..8_000)),
        }
        self.compare();
    }

    fn enter(&mut self) {
        let allowed = self.model.allows(self.now) && self.streams.len() < STREAMS_MOST as usize;
        let guard = self.load.enter(Some(STREAMS_MOST), self.now);
        assert_eq!(guard.is_some(), allowed);
        let Some(guard) = guard else { return };
        self.named += 1;
        if self.model.closed_to.is_some() {
            self.model.trial = Some(self.named);
        }
        self.streams.push(Stream { name: self.named, guard, has_begun: false });
    }

    /// As an attempt tells: that it began at most once, then how it ended.
    fn judge(&mut self, rng: &mut Rng) {
        if self.streams.is_empty() {
            return;
        }
        let place = rng.usize(..self.streams.len());
        let stream = &mut self.streams[place];
        let verdict = match rng.u8(0..3) {
            0 if !stream.has_begun => Verdict::Begun,
            1 => Verdict::Success,
            _ => Verdict::Failure,
        };
        stream.has_begun = true;
        let expected = self.model.judge(stream.name, verdict, self.now, &self.settings);
        assert_eq!(stream.guard.judge(verdict, self.now, &self.settings), expected, "{verdict:?}");
        if verdict != Verdict::Begun {
            self.streams.swap_remove(place);
        }
    }

    /// The client left before anything was learned.
    fn leave(&mut self, rng: &mut Rng) {
        if self.streams.is_empty() {
            return;
        }
        let stream = self.streams.swap_remove(rng.usize(..self.streams.len()));
        if self.model.trial == Some(stream.name) {
            self.model.trial = None;
        }
    }

    fn check_health(&mut self, rng: &mut Rng) {
        let healthy = rng.bool();
        self.load.set_healthy(healthy, self.now);
        if healthy && self.model.is_ill {
            self.model.come_back(self.now);
        }
        self.model.is_ill = !healthy;
    }

    fn compare(&self) {
        assert_eq!(self.load.in_flight(), self.streams.len());
        let share = self.load.share(self.now, &self.settings);
        let takes_traffic = !self.model.is_ill && self.model.allows(self.now);
        assert_eq!(share > 0.0, takes_traffic, "share {share}");
        if !takes_traffic {
            return;
        }
        let age = self.model.recovered.map(|recovered| self.now - recovered);
        match age.filter(|age| *age < self.settings.slow_start) {
            None => assert_eq!(share, 1.0),
            Some(age) => {
                let grown = age.as_secs_f64() / self.settings.slow_start.as_secs_f64();
                assert!((share - (0.1 + 0.9 * grown)).abs() < 1e-9, "share {share} after {age:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_of_the_breaker_goes_as_its_model_does() {
    walks(|rng| {
        let mut walk = Walk::new(rng);
        (0..STEPS).for_each(|_| walk.step(rng));
        walk.streams.clear();
        assert_eq!(walk.load.in_flight(), 0);
    });
}
