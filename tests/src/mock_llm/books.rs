//! The mock's books: what it wrote in each attempt, and how that ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use super::ask::now_ns;

/// Attempts that are written down, about 300 bytes each; later ones are answered all the same.
const ENTRIES_MAX: usize = 4_000_000;

/// One attempt at an operation, as the mock saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The name of the stream: `user` of the request.
    pub stream: Option<String>,
    /// The attempt's own name, which its tokens carry; unique over all mocks.
    pub attempt: String,
    /// The `x-request-id` that came with it: the gateway's exchange.
    pub exchange: Option<String>,
    /// Tokens written to the body; with several choices each number counts once.
    pub tokens: u64,
    /// How it ended.
    pub ended: Ended,
    /// When its request was there, in ns since 1970.
    pub begun_ns: u64,
    /// When it ended, in ns since 1970; `None` while it is open.
    pub ended_ns: Option<u64>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// An answer without a fault was written to its end.
    Complete,
    /// The client left before the end.
    Cut,
    /// The mock did wrong, as its script told it to: a status of an error, a broken end, no HTTP at all.
    Fault,
    /// Not yet.
    Open,
}

/// All attempts, in the order in which they began.
#[derive(Debug)]
pub(super) struct Books {
    /// Tells this mock's attempts from those of any other.
    mock: String,
    begun: AtomicU64,
    entries: Mutex<Vec<Arc<Entry>>>,
}

/// One attempt that is being written down.
#[derive(Debug)]
pub(super) struct Entry {
    stream: Option<String>,
    attempt: String,
    exchange: Option<String>,
    tokens: AtomicU64,
    begun_ns: u64,
    ended: OnceLock<(Ended, u64)>,
}

// === impl Books ===

impl Books {
    pub(super) fn new() -> Self {
        // 40 bits: over a thousand restarts in one run, two would be alike once in two million runs.
        let mock = format!("{:010x}", fastrand::u64(..1 << 40));
        Self { mock, begun: AtomicU64::new(0), entries: Mutex::default() }
    }

    pub(super) fn begin(&self, stream: Option<String>, exchange: Option<String>) -> Arc<Entry> {
        let count = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Arc::new(Entry {
            stream,
            attempt: format!("{}-{count:x}", self.mock),
            exchange,
            tokens: AtomicU64::new(0),
            begun_ns: now_ns(),
            ended: OnceLock::new(),
        });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() < ENTRIES_MAX {
            entries.push(entry.clone());
        }
        entry
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        entries.iter().map(|entry| entry.read()).collect()
    }

    /// The attempts as JSON, one per line.
    pub(super) fn to_lines(&self) -> serde_json::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for attempt in self.attempts() {
            serde_json::to_writer(&mut lines, &attempt)?;
            lines.push(b'\n');
        }
        Ok(lines)
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn attempt(&self) -> &str {
        &self.attempt
    }

    pub(super) fn wrote(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Only the first end counts.
    pub(super) fn end(&self, ended: Ended) {
        let _ = self.ended.set((ended, now_ns()));
    }

    fn read(&self) -> Attempt {
        // The end is read first: after it no token is written any more.
        let ended = self.ended.get().copied();
        Attempt {
            stream: self.stream.clone(),
            attempt: self.attempt.clone(),
            exchange: self.exchange.clone(),
            tokens: self.tokens.load(Ordering::Relaxed),
            ended: ended.map_or(Ended::Open, |(ended, _)| ended),
            begun_ns: self.begun_ns,
            ended_ns: ended.map(|(_, at_ns)| at_ns),
        }
    }
}
