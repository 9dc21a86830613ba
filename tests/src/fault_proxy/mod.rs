//! A TCP proxy that breaks connections on purpose: put between any two processes, it is told what to do while it runs.
//!
//! [`Faults`] say what happens to the bytes of each direction, [`Plan`] decides it chunk by chunk without any I/O, and the
//! relay does as the plan says. [`FaultProxy`] is the handle of tests; the program `fault-proxy` has an HTTP API instead.

mod faults;
mod plan;
mod relay;
mod api;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ntonix_runtime::listen::{self, ReusePort};
use ntonix_runtime::tasks;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use self::api::serve_api;
pub use self::faults::{Corrupt, Direction, End, Faults, How, Share, Unreadable, from_json};
pub use self::plan::{Action, Plan};
pub use self::relay::serve;

/// A proxy that runs on the current runtime until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<ProxyState>,
    task: JoinHandle<io::Result<()>>,
}

/// What a proxy does and what passes it; shared by its connections and its API.
#[derive(Debug)]
pub struct ProxyState {
    seed: u64,
    target: Mutex<SocketAddr>,
    faults: watch::Sender<Faults>,
    totals: Totals,
    open: Mutex<BTreeMap<u64, Open>>,
}

/// What happened to all connections so far.
#[derive(Debug, Default)]
struct Totals {
    opened: AtomicU64,
    refused: AtomicU64,
    ended: [AtomicU64; 2],
    struck: AtomicU64,
}

/// One live connection.
#[derive(Debug)]
struct Open {
    peer: SocketAddr,
    passed: Arc<Passed>,
    end: Option<oneshot::Sender<How>>,
}

/// Bytes that were passed on in each direction.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    to_server: AtomicU64,
    to_client: AtomicU64,
}

/// The connections of a proxy, as its API tells of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// Connections that were ever accepted.
    pub opened: u64,
    /// Those among them whose server could not be reached; their clients got a reset.
    pub refused: u64,
    /// Those that were cut, by a fault or by hand.
    pub cut: u64,
    /// Those that were reset, by a fault, by hand or by one of their ends.
    pub reset: u64,
    /// Times that a fault changed, stopped or ended something.
    pub struck: u64,
    /// Those that live.
    pub open: Vec<Connection>,
}

/// One live connection, as the API tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Its number: the first is 1.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// Bytes passed on to the server.
    pub to_server: u64,
    /// Bytes passed on to the client.
    pub to_client: u64,
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Starts a proxy to `target` on a free port of loopback that does nothing yet.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_with(target, Faults::default(), 0)
    }

    /// Starts a proxy with faults; what they leave to chance is drawn from the seed.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn start_with(target: SocketAddr, faults: Faults, seed: u64) -> io::Result<Self> {
        let listener = listen::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ReusePort::No)?;
        let address = listener.local_addr()?;
        let state = ProxyState::new(target, faults, seed);
        let task = tasks::spawn("fault-proxy", serve(listener, state.clone()));
        Ok(Self { address, state, task })
    }

    /// Where its clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does and what passes it.
    pub fn state(&self) -> &Arc<ProxyState> {
        &self.state
    }

    /// Does this to the bytes that come from now on, on live connections too.
    pub fn set(&self, faults: Faults) {
        self.state.set(faults);
    }

    /// Does nothing any more; what was stalled goes on.
    pub fn clear(&self) {
        self.state.set(Faults::default());
    }

    /// Sends new connections there from now on.
    pub fn retarget(&self, target: SocketAddr) {
        self.state.retarget(target);
    }

    /// Ends every live connection and says how many there were.
    pub fn cut(&self, how: How) -> usize {
        self.state.cut(how, None)
    }

    /// The connections.
    pub fn connections(&self) -> Connections {
        self.state.connections()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl ProxyState ===

impl ProxyState {
    /// A proxy to `target`; what its faults leave to chance is drawn from the seed.
    pub fn new(target: SocketAddr, faults: Faults, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            target: Mutex::new(target),
            faults: watch::Sender::new(faults),
            totals: Totals::default(),
            open: Mutex::default(),
        })
    }

    /// What it does now.
    pub fn faults(&self) -> Faults {
        self.faults.borrow().clone()
    }

    /// Does this to the bytes that come from now on, on live connections too.
    pub fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// Sends new connections there from now on.
    pub fn retarget(&self, target: SocketAddr) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Ends the live connection of this number, or each, and says how many that were. Whatever is not
    /// [`How::Reset`] is a cut.
    pub fn cut(&self, how: How, id: Option<u64>) -> usize {
        let mut open = self.open();
        let chosen = open.iter_mut().filter(|(other, _)| id.is_none_or(|id| id == **other));
        let ends = chosen.filter_map(|(_, connection)| connection.end.take());
        ends.filter_map(|end| end.send(how).ok()).count()
    }

    /// The connections.
    pub fn connections(&self) -> Connections {
        let open = self.open();
        let open = open.iter().map(|(id, connection)| Connection {
            id: *id,
            peer: connection.peer,
            to_server: connection.passed.to_server.load(Ordering::Relaxed),
            to_client: connection.passed.to_client.load(Ordering::Relaxed),
        });
        let [cut, reset] = &self.totals.ended;
        Connections {
            opened: self.totals.opened.load(Ordering::Relaxed),
            refused: self.totals.refused.load(Ordering::Relaxed),
            cut: cut.load(Ordering::Relaxed),
            reset: reset.load(Ordering::Relaxed),
            struck: self.totals.struck.load(Ordering::Relaxed),
            open: open.collect(),
        }
    }

    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Passed ===

impl Passed {
    fn toward(&self, direction: Toward) -> &AtomicU64 {
        match direction {
            Toward::Server => &self.to_server,
            Toward::Client => &self.to_client,
        }
    }
}

/// One of the two directions of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    Server,
    Client,
}
