//! What is to be done by all connections together, and what came of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::settings::{Departure, Load, Mode, Over};
use crate::tally::Tally;
use crate::target::Target;

/// Requests of a cancel run that nobody counted.
const CANCELS: u64 = 1_000;

/// A pause of an hour: longer than any run.
const NEVER_US: u64 = 3_600_000_000;

/// Shared by the tasks of one run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) departure: Departure,
    pub(crate) load: Load,
    /// One for each URL; never empty.
    targets: Vec<Target>,
    prompt: String,
    pub(crate) tokens: u64,
    pub(crate) pause: Duration,
    pub(crate) started: Instant,
    left: AtomicU64,
    begun: AtomicU64,
    seed: u32,
    tally: Mutex<Tally>,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn new(mode: Mode, departure: Departure, load: Load) -> anyhow::Result<Self> {
        let (tokens, pause, count) = match mode {
            Mode::Unary => (10, Duration::ZERO, u64::MAX),
            Mode::Fast => (200, Duration::ZERO, u64::MAX),
            Mode::Paced => (200, Duration::from_millis(20), u64::MAX),
            Mode::Held => (2, load.duration, u64::from(load.streams)),
            Mode::Cancel => (200, Duration::from_millis(20), CANCELS),
        };
        let target = |url: &String| Target::new(url, &load);
        let targets: Vec<Target> = load.url.iter().map(target).collect::<Result<_, _>>()?;
        anyhow::ensure!(!targets.is_empty(), "there is no --url");
        Ok(Self {
            mode,
            departure,
            targets,
            prompt: "count".chars().cycle().take(load.prompt).collect(),
            tokens: load.tokens.unwrap_or(tokens),
            pause: load.pause.unwrap_or(pause),
            started: Instant::now(),
            left: AtomicU64::new(load.count.unwrap_or(count)),
            begun: AtomicU64::new(0),
            seed: fastrand::u32(..),
            tally: Mutex::new(Tally::new()?),
            load,
        })
    }

    /// Whether there shall be a further request.
    pub(crate) fn has_more(&self) -> bool {
        self.started.elapsed() < self.load.duration && self.left.load(Ordering::Relaxed) > 0
    }

    /// The nonce of the next request; `None` when there shall be no more.
    pub(crate) fn begin(&self) -> Option<String> {
        if self.started.elapsed() >= self.load.duration {
            return None;
        }
        let take = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(format!("{:x}-{:x}", self.seed, self.begun.fetch_add(1, Ordering::Relaxed)))
    }

    /// Where the connection of this number goes.
    pub(crate) fn target(&self, index: u32) -> &Target {
        &self.targets[index as usize % self.targets.len()]
    }

    /// How many requests have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// How many connections there are at once.
    pub(crate) fn connections(&self) -> u32 {
        if self.load.over == Over::Http1 { self.load.streams } else { self.load.sockets.min(self.load.streams) }
    }

    /// Spreads the starts of connections over one pause, so that paced streams do not tick together.
    pub(crate) async fn stagger(&self, connection: u32) {
        self.start_at(f64::from(connection) / f64::from(self.load.streams)).await;
    }

    /// The same for the streams of one connection, between its start and that of the next.
    pub(crate) async fn stagger_lane(&self, lane: u32) {
        let each = f64::from(self.connections()) / f64::from(self.load.streams);
        self.start_at(f64::from(lane) * each).await;
    }

    async fn start_at(&self, share: f64) {
        if self.mode != Mode::Held && share > 0.0 {
            tokio::time::sleep(self.pause.mul_f64(share)).await;
        }
    }

    /// The body of a chat request whose answer carries `nonce` in each token.
    pub(crate) fn body(&self, nonce: &str) -> serde_json::Value {
        // A client that leaves while it waits must not be answered before.
        let first = self.departure.is_early().then_some(NEVER_US);
        serde_json::json!({
            "model": self.load.model,
            "stream": self.mode != Mode::Unary && !self.departure.whole,
            "max_tokens": self.tokens,
            "user": nonce,
            "mock_pause_us": u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX),
            "mock_first_us": first,
            "mock_events": self.load.together,
            "messages": [{ "role": "user", "content": self.prompt }],
        })
    }

    /// The same as bytes.
    pub(crate) fn body_bytes(&self, nonce: &str) -> Bytes {
        self.body(nonce).to_string().into()
    }

    /// What came of it so far.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
