//! What the mock knows: its scripts, what it was asked, and who left before the end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::ask::now_ns;
use super::books::{Attempt, Books, Ended, Entry};
use super::script::Script;

/// Cuts that are remembered one by one; later ones are only counted.
const CUTS_MAX: usize = 1_000_000;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub path: String,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// A client that left before its answer was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The `user` of the request.
    pub user: Option<String>,
    /// When the mock saw it, in ns since 1970.
    pub at_ns: u64,
    /// Bytes that were written all the same, by a script that goes on; below HTTP, so with all framing.
    pub written_after: u64,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests to an operation of the API; health checks and model lists are none.
    pub attempts: usize,
    /// Those that are not answered in full yet.
    pub active: usize,
    /// Clients that left before the end.
    pub cut: usize,
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were ever opened.
    pub connections_ever: usize,
    /// Requests of any kind.
    pub requests: usize,
}

/// Shared by all connections of a mock.
#[derive(Debug)]
pub struct State {
    is_recording: bool,
    http2_streams: OnceLock<u32>,
    counts: watch::Sender<Counts>,
    books: Books,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    models: Vec<String>,
    /// What it does by itself, before anything told it otherwise.
    first: Script,
    default: Script,
    next: VecDeque<Script>,
    by_model: HashMap<String, Script>,
    by_path: HashMap<String, Script>,
    requests: Vec<Recorded>,
    cuts: Vec<(Cut, Option<Arc<Deaf>>)>,
}

/// One request that is being answered; dropped early, it counts as cut.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Arc<State>,
    user: Option<String>,
    entry: Arc<Entry>,
    deaf: Option<Arc<Deaf>>,
    is_over: bool,
}

/// An attempt that goes on although its client may have left.
#[derive(Debug)]
pub(super) struct Deaf {
    state: Arc<State>,
    user: Option<String>,
    entry: Arc<Entry>,
    has_left: AtomicBool,
    written_after: AtomicU64,
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Connected(Arc<State>);

// === impl State ===

impl State {
    /// A mock that serves these models by this script; `is_recording` keeps every request for the test to look at.
    pub fn new(models: Vec<String>, default: Script, is_recording: bool) -> Arc<Self> {
        let inner = Inner {
            models,
            first: default.clone(),
            default,
            next: VecDeque::new(),
            by_model: HashMap::new(),
            by_path: HashMap::new(),
            requests: Vec::new(),
            cuts: Vec::new(),
        };
        let counts = watch::Sender::default();
        Arc::new(Self {
            is_recording,
            http2_streams: OnceLock::new(),
            counts,
            books: Books::new(),
            inner: Mutex::new(inner),
        })
    }

    pub(super) fn set_default(&self, script: Script) {
        self.inner().default = script;
    }

    /// Lets a client have so many streams on one connection of HTTP/2; only the first word counts.
    pub(super) fn allow_http2_streams(&self, most: Option<u32>) {
        if let Some(most) = most {
            let _ = self.http2_streams.set(most);
        }
    }

    pub(super) fn http2_streams(&self) -> Option<u32> {
        self.http2_streams.get().copied()
    }

    /// Takes back what was set for everything.
    pub(super) fn reset_default(&self) {
        let mut inner = self.inner();
        inner.default = inner.first.clone();
    }

    /// Takes back what was set for a model.
    pub(super) fn forget_model(&self, model: &str) {
        self.inner().by_model.remove(model);
    }

    /// What a connection that opens now lets a request send over HTTP/2.
    pub(super) fn window(&self) -> Option<u32> {
        self.inner().default.window()
    }

    pub(super) fn push_next(&self, script: Script) {
        self.inner().next.push_back(script);
    }

    pub(super) fn forget_next(&self) {
        self.inner().next.clear();
    }

    /// Answers requests for this model by a script of its own.
    pub fn set_for_model(&self, model: &str, script: Script) {
        self.inner().by_model.insert(model.to_owned(), script);
    }

    pub(super) fn set_for_path(&self, path: &str, script: Option<Script>) {
        let mut inner = self.inner();
        match script {
            Some(script) => inner.by_path.insert(path.to_owned(), script),
            None => inner.by_path.remove(path),
        };
    }

    pub(super) fn set_models(&self, models: Vec<String>) {
        self.inner().models = models;
    }

    pub(super) fn models(&self) -> Vec<String> {
        self.inner().models.clone()
    }

    /// The script for a request to an operation: the next in the queue, else the model's, else the default.
    pub(super) fn script_for(&self, model: Option<&str>) -> Script {
        let mut inner = self.inner();
        if let Some(script) = inner.next.pop_front() {
            return script;
        }
        model.and_then(|model| inner.by_model.get(model)).unwrap_or(&inner.default).clone()
    }

    pub(super) fn script_for_path(&self, path: &str) -> Option<Script> {
        self.inner().by_path.get(path).cloned()
    }

    pub(super) fn record(&self, request: Recorded) {
        if self.is_recording {
            self.inner().requests.push(request);
        }
        self.counts.send_modify(|counts| counts.requests += 1);
    }

    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.inner().requests.clone()
    }

    pub(super) fn cuts(&self) -> Vec<Cut> {
        let inner = self.inner();
        let cut = |(cut, deaf): &(Cut, Option<Arc<Deaf>>)| {
            let written_after = deaf.as_ref().map_or(0, |deaf| deaf.written_after.load(Ordering::Relaxed));
            Cut { written_after, ..cut.clone() }
        };
        inner.cuts.iter().map(cut).collect()
    }

    pub(super) fn counts(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    pub(super) fn ledger(&self) -> Vec<Attempt> {
        self.books.attempts()
    }

    pub(super) fn ledger_lines(&self) -> serde_json::Result<Vec<u8>> {
        self.books.to_lines()
    }

    pub(super) fn begin(self: &Arc<Self>, user: Option<String>, exchange: Option<String>) -> InFlight {
        self.counts.send_modify(|counts| {
            counts.attempts += 1;
            counts.active += 1;
        });
        let entry = self.books.begin(user.clone(), exchange);
        InFlight { state: self.clone(), user, entry, deaf: None, is_over: false }
    }

    pub(super) fn connected(self: &Arc<Self>) -> Connected {
        self.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.connections_ever += 1;
        });
        Connected(self.clone())
    }

    fn note_cut(&self, user: Option<String>, deaf: Option<Arc<Deaf>>) {
        let mut inner = self.inner();
        if inner.cuts.len() < CUTS_MAX {
            inner.cuts.push((Cut { user, at_ns: now_ns(), written_after: 0 }, deaf));
        }
        drop(inner);
        self.counts.send_modify(|counts| counts.cut += 1);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl InFlight ===

impl InFlight {
    /// The name of the attempt, which its tokens carry.
    pub(super) fn attempt(&self) -> &str {
        self.entry.attempt()
    }

    /// So many more tokens were written to the body.
    pub(super) fn wrote(&self, tokens: u64) {
        self.entry.wrote(tokens);
    }

    /// From now on it goes on when the client leaves.
    pub(super) fn deafen(&mut self) -> Arc<Deaf> {
        let deaf = Deaf {
            state: self.state.clone(),
            user: self.user.clone(),
            entry: self.entry.clone(),
            has_left: AtomicBool::new(false),
            written_after: AtomicU64::new(0),
        };
        self.deaf.insert(Arc::new(deaf)).clone()
    }

    /// The script is at its end: what happens to the connection now is nobody's fault.
    pub(super) fn over(&mut self, ended: Ended) {
        self.is_over = true;
        self.entry.end(ended);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let is_noted = self.deaf.as_ref().is_some_and(|deaf| deaf.has_left.load(Ordering::Relaxed));
        if !self.is_over && !is_noted {
            self.entry.end(Ended::Cut);
            self.state.note_cut(self.user.take(), None);
        }
        self.state.counts.send_modify(|counts| counts.active -= 1);
    }
}

// === impl Deaf ===

impl Deaf {
    /// The client has left; what is written from now on is for nobody.
    pub(super) fn client_left(self: &Arc<Self>) {
        if !self.has_left.swap(true, Ordering::Relaxed) {
            self.entry.end(Ended::Cut);
            self.state.note_cut(self.user.clone(), Some(self.clone()));
        }
    }

    /// So many bytes have left.
    pub(super) fn wrote(&self, bytes: usize) {
        if self.has_left.load(Ordering::Relaxed) {
            self.written_after.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

// === impl Connected ===

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.connections -= 1);
    }
}
