//! What all parts of a run share: where the gateway is, when it is over, and what came of every stream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ntonix_tests::ledger::{Account, Secrets, Transport, Violation};
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::plan::Plan;
use crate::strike::WORKERS;

/// Error bodies, metrics pages and the like are kept as violations at most this often: the first ones tell enough.
const VIOLATIONS_MAX: usize = 1_000;

/// Where clients find the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    /// The proxies in front of each worker.
    pub(crate) plain: [SocketAddr; WORKERS],
    pub(crate) tls: [SocketAddr; WORKERS],
    /// What clients need that speak HTTP/1.1, or HTTP/2, over TLS.
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
}

/// One round of a run.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) doors: Doors,
    pub(crate) secrets: Secrets,
    seed: u64,
    round: u8,
    ends: Ends,
    numbers: [AtomicU64; Transport::ALL.len()],
    open: [AtomicU64; WORKERS],
    found: Mutex<Found>,
}

/// When a round is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// At this time.
    At(Instant),
    /// After so many streams of each transport, whose clients do nothing wrong.
    Calmly(u64),
}

/// What came of a round.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) accounts: Vec<Account>,
    /// Exchanges that were asked for and are no streams.
    pub(crate) others: Vec<String>,
    pub(crate) violations: Vec<Violation>,
    /// Faults that struck, by kind.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// Changes of the configuration that every worker runs.
    pub(crate) pushed: u64,
}

/// What came of a round so far, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) streams: usize,
    pub(crate) struck: u64,
    /// Promises whose breaking is seen at once; the books are compared at the end.
    pub(crate) broken: usize,
}

/// A stream that is counted as open until this is dropped.
pub(crate) struct Open<'a>(&'a AtomicU64);

// === impl Field ===

impl Field {
    pub(crate) fn new(doors: Doors, secrets: Secrets, seed: u64, round: u8, ends: Ends) -> Self {
        Self {
            doors,
            secrets,
            seed,
            round,
            ends,
            numbers: Default::default(),
            open: Default::default(),
            found: Mutex::default(),
        }
    }

    /// The next stream of a transport; `None` when there shall be no more.
    pub(crate) fn next(&self, transport: Transport) -> Option<Plan> {
        if self.is_over(transport) {
            return None;
        }
        let number = self.numbers.get(index_of(transport))?.fetch_add(1, Ordering::Relaxed);
        let plan = Plan::new(self.seed, self.round, transport, number);
        match self.ends {
            Ends::At(_) => Some(plan),
            Ends::Calmly(count) => (number < count).then(|| plan.calm()),
        }
    }

    /// Whether no stream of a transport shall begin any more.
    pub(crate) fn is_over(&self, transport: Transport) -> bool {
        match self.ends {
            Ends::At(time) => Instant::now() >= time,
            Ends::Calmly(count) => self.numbers[index_of(transport)].load(Ordering::Relaxed) >= count,
        }
    }

    /// A name for an exchange that is no stream.
    pub(crate) fn other(&self, kind: &str) -> String {
        let mut found = self.found();
        let name = format!("r{}-{kind}-{}", self.round, found.others.len());
        found.others.push(name.clone());
        name
    }

    /// Counts a stream as open at a worker.
    pub(crate) fn open(&self, worker: usize) -> Open<'_> {
        self.open[worker].fetch_add(1, Ordering::Relaxed);
        Open(&self.open[worker])
    }

    /// Streams that are open at a worker.
    pub(crate) fn streams(&self, worker: usize) -> u64 {
        self.open[worker].load(Ordering::Relaxed)
    }

    /// Takes the account of a stream.
    pub(crate) fn close(&self, account: Account) {
        self.found().accounts.push(account);
    }

    /// Takes note of a fault that struck.
    pub(crate) fn struck(&self, kind: &'static str, times: u64) {
        *self.found().struck.entry(kind).or_default() += times;
    }

    /// Takes note of a broken promise.
    pub(crate) fn broken(&self, violations: impl IntoIterator<Item = Violation>) {
        let mut found = self.found();
        let room = VIOLATIONS_MAX.saturating_sub(found.violations.len());
        found.violations.extend(violations.into_iter().take(room));
    }

    /// Looks for secrets where none may be.
    pub(crate) fn look(&self, place: &str, text: &[u8]) {
        self.broken(self.secrets.look(place, text));
    }

    /// Takes note of a configuration that every worker runs.
    pub(crate) fn pushed(&self) {
        self.found().pushed += 1;
    }

    /// What came of the round so far.
    pub(crate) fn sum(&self) -> Sum {
        let found = self.found();
        let wrong = found.accounts.iter().filter(|account| account.wrong.is_some()).count();
        Sum {
            streams: found.accounts.len(),
            struck: found.struck.values().sum(),
            broken: found.violations.len() + wrong,
        }
    }

    /// Hands out what came of the round.
    pub(crate) fn take(&self) -> Found {
        std::mem::take(&mut self.found())
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index_of(transport: Transport) -> usize {
    // Each transport is in the list.
    Transport::ALL.iter().position(|other| *other == transport).unwrap_or_default()
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
