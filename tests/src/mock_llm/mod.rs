//! A backend that does exactly what a test tells it: numbered tokens, pauses, errors, cuts, and worse.
//!
//! [`MockLlm`] runs one on the test's runtime; the program `mock-llm` runs the same as a process. What happens to a
//! request is a [`Script`]. Tests wait for what the mock has seen with [`MockLlm::until`]; they never sleep.
//!
//! A request steers a well-behaved answer: `max_tokens` is the number of tokens, `mock_pause_us` is the pause between
//! them, `mock_first_us` the one before the first (also before an answer in one piece), and with `user` each is a [`Token`](crate::ledger::token::Token) of the stream of that name.

mod script;
pub mod language;
mod ask;
mod books;
mod state;
mod play;
mod socket;
mod frames;
mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire_tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use ntonix_runtime::listen::{self, ReusePort};
use ntonix_runtime::tasks;
use tokio::task::JoinHandle;

pub use self::ask::{PROMPT_TOKENS, now_ns};
pub use self::books::{Attempt, Ended};
pub use self::play::ResetReason;
pub use self::script::{End, ErrorForm, Garbage, Gate, GoAway, Headers, Pace, Script, Step};
pub use self::server::serve;
pub use self::state::{Counts, Cut, Recorded, State};

use crate::wait::soon;

/// The model that a mock serves when it is not told others.
pub const MODEL: &str = "mock-model";
/// The tokens of an answer when nobody says how many.
pub const TOKENS: u64 = 5;

/// A mock that runs on the current runtime until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct MockLlm {
    address: SocketAddr,
    is_tls: bool,
    state: Arc<State>,
    task: JoinHandle<io::Result<()>>,
}

/// How to start a mock.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serve TLS with this.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What `GET /v1/models` lists; any model is answered.
    pub models: Vec<String>,
    /// What happens to requests that no other script is for.
    pub script: Script,
    /// Keep every request for the test to look at; the books are kept in any case.
    pub is_recording: bool,
    /// The streams that a client may have on one connection of HTTP/2; `None` leaves it to the library.
    pub http2_streams: Option<u32>,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            models: vec![MODEL.to_owned()],
            script: Script::answer(TOKENS),
            http2_streams: None,
            is_recording: true,
        }
    }
}

// === impl MockLlm ===

impl MockLlm {
    /// Starts a well-behaved mock on a free port.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn start() -> io::Result<Self> {
        Self::start_with(Options::default())
    }

    /// Starts a mock as told.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start_with(options: Options) -> io::Result<Self> {
        Self::start_on(listen::bind(options.listen, ReusePort::No)?, options)
    }

    /// The same on a socket that listens already, wherever that is.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start_on(listener: TcpListener, options: Options) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = State::new(options.models, options.script, options.is_recording);
        state.allow_http2_streams(options.http2_streams);
        let is_tls = options.tls.is_some();
        let task = tasks::spawn("mock-llm", serve(listener, state.clone(), options.tls));
        Ok(Self { address, is_tls, state, task })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a backend's URL.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Does this with every request that no other script is for.
    pub fn always(&self, script: Script) {
        self.state.set_default(script);
    }

    /// Does this with the next request to an operation; several are taken in their order.
    pub fn next(&self, script: Script) {
        self.state.push_next(script);
    }

    /// Forgets what was to happen to the next requests.
    pub fn forget_next(&self) {
        self.state.forget_next();
    }

    /// Does this with the requests for one model.
    pub fn for_model(&self, model: &str, script: Script) {
        self.state.set_for_model(model, script);
    }

    /// Does this with every request to one path, such as `/health`; `None` takes it back.
    pub fn for_path(&self, path: &str, script: impl Into<Option<Script>>) {
        self.state.set_for_path(path, script.into());
    }

    /// Lists these models from now on.
    pub fn list_models(&self, models: &[&str]) {
        self.state.set_models(models.iter().map(|model| (*model).to_owned()).collect());
    }

    /// Every request so far, health checks and model lists included.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests()
    }

    /// The clients that left before the end.
    pub fn cuts(&self) -> Vec<Cut> {
        self.state.cuts()
    }

    /// The books: every attempt at an operation, with what was written and how it ended.
    pub fn ledger(&self) -> Vec<Attempt> {
        self.state.ledger()
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        *self.state.counts().borrow()
    }

    /// Waits until the counts are as wanted, and returns them.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`](crate::wait::PATIENCE).
    #[expect(clippy::panic, reason = "a test that waits in vain fails here, with what was seen instead")]
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.state.counts();
        // The sender lives in `self`, so that only the time can make the wait fail.
        match soon("the mock sees what is waited for", counts.wait_for(wanted)).await {
            Ok(Ok(counts)) => *counts,
            _ => panic!("waited in vain; the mock has seen {:?}", self.counts()),
        }
    }

    /// Waits until so many requests to an operation have come.
    pub async fn attempts(&self, count: usize) -> Counts {
        self.until(|counts| counts.attempts >= count).await
    }

    /// Waits until so many clients have left before the end.
    pub async fn cancelled(&self, count: usize) -> Counts {
        self.until(|counts| counts.cut >= count).await
    }
}

impl Drop for MockLlm {
    fn drop(&mut self) {
        self.task.abort();
    }
}
