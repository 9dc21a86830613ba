//! The faults that can strike, and whom.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use ntonix_tests::fault_proxy::{Faults, How};

/// Backends of the run; the last is reached over TLS and HTTP/2, the one before over HTTP/2 in plain text.
pub(crate) const BACKENDS: usize = 4;
/// Workers of the run. The first lives from the beginning to the end.
pub(crate) const WORKERS: usize = 2;

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Strike {
    /// The next so many requests that reach a backend go wrong there.
    Backend { backend: usize, fault: BackendFault, times: u32 },
    /// A connection between two processes behaves badly for a while.
    Link { link: Link, kind: LinkFault, faults: Faults, lasts: Duration },
    /// The live connections between two processes end now.
    Cut { link: Link, how: How },
    /// A worker is stopped (SIGSTOP) and goes on.
    FreezeWorker { worker: usize, lasts: Duration },
    /// A worker drains (SIGTERM) and another takes its place.
    RestartWorker { worker: usize },
    /// The control plane is stopped (SIGSTOP) and goes on.
    FreezePlane { lasts: Duration },
    /// The control plane is killed (SIGKILL) and comes back after a while.
    KillPlane { lasts: Duration },
    /// The configuration changes.
    Push(Change),
}

/// What a backend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackendFault {
    /// FIN after so many tokens.
    Cut(u64),
    /// RST after so many tokens.
    Reset(u64),
    /// A clean end of the body after so many tokens.
    SilentEnd(u64),
    /// An error inside the stream after so many tokens, in the form of this number.
    ErrorEvent(u64, usize),
    /// Silence after so many tokens.
    HangMidway(u64),
    /// Silence instead of an answer.
    Hang,
    /// A status of an error.
    Status(u16),
    /// 429 or 503 with `retry-after`.
    RetryAfter(u16),
    /// A page for people.
    Html,
    /// Bytes that are not HTTP.
    Garbage,
    /// The end of the connection instead of an answer.
    NoReply,
    /// A body that is shorter than it says.
    WrongLength,
    /// One event of so many MiB.
    EndlessEvent(usize),
}

/// What a connection does wrong; its numbers are in the [`Faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkFault {
    Delay,
    Jitter,
    Slice,
    Rate,
    Cut,
    Reset,
    Stall,
    HalfClose,
    Corrupt,
}

/// Two processes with a proxy between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Link {
    /// Clients and this worker, in plain text.
    Clients(usize),
    /// Clients and this worker, over TLS.
    ClientsTls(usize),
    /// Both workers and this backend.
    Backend(usize),
    /// This worker and the control plane.
    Sync(usize),
}

/// A change of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The weights of the backends.
    Weights([u16; BACKENDS]),
    /// Streams that each worker admits.
    Limits(u32),
    /// Whether the route has another name too, and how often it retries.
    Routes { alias: bool, retries: u8 },
    /// Whether the guest's key is good.
    Keys { guest: bool },
}

// === impl Strike ===

impl Strike {
    /// Its kind, for counting.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Backend { fault, .. } => fault.kind(),
            Self::Link { kind, .. } => kind.kind(),
            Self::Cut { how: How::Reset, .. } => "link: reset now",
            Self::Cut { .. } => "link: cut now",
            Self::FreezeWorker { .. } => "process: SIGSTOP of a worker",
            Self::RestartWorker { .. } => "process: SIGTERM and restart of a worker",
            Self::FreezePlane { .. } => "process: SIGSTOP of the control plane",
            Self::KillPlane { .. } => "process: SIGKILL of the control plane",
            Self::Push(Change::Weights(_)) => "push: weights",
            Self::Push(Change::Limits(_)) => "push: limits",
            Self::Push(Change::Routes { .. }) => "push: routes",
            Self::Push(Change::Keys { .. }) => "push: keys",
        }
    }
}

impl Display for Strike {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { backend, fault, times } => write!(f, "backend {backend}: {fault:?}, {times} times"),
            Self::Link { link, faults, lasts, .. } => {
                let faults = serde_json::to_string(faults).map_err(|_| fmt::Error)?;
                write!(f, "{link:?}: {faults} for {lasts:?}")
            }
            Self::Cut { link, how } => write!(f, "{link:?}: {how:?} now"),
            Self::FreezeWorker { worker, lasts } => write!(f, "worker {worker}: SIGSTOP for {lasts:?}"),
            Self::RestartWorker { worker } => write!(f, "worker {worker}: SIGTERM and restart"),
            Self::FreezePlane { lasts } => write!(f, "control plane: SIGSTOP for {lasts:?}"),
            Self::KillPlane { lasts } => write!(f, "control plane: SIGKILL, back after {lasts:?}"),
            Self::Push(change) => write!(f, "push: {change:?}"),
        }
    }
}

// === impl BackendFault ===

impl BackendFault {
    fn kind(self) -> &'static str {
        match self {
            Self::Cut(_) => "backend: cut",
            Self::Reset(_) => "backend: reset",
            Self::SilentEnd(_) => "backend: silent end",
            Self::ErrorEvent(..) => "backend: error inside the stream",
            Self::HangMidway(_) => "backend: hangs midway",
            Self::Hang => "backend: hangs",
            Self::Status(_) => "backend: error status",
            Self::RetryAfter(_) => "backend: retry-after",
            Self::Html => "backend: HTML",
            Self::Garbage => "backend: garbage",
            Self::NoReply => "backend: no reply",
            Self::WrongLength => "backend: wrong length",
            Self::EndlessEvent(_) => "backend: endless event",
        }
    }
}

// === impl LinkFault ===

impl LinkFault {
    fn kind(self) -> &'static str {
        match self {
            Self::Delay => "link: delay",
            Self::Jitter => "link: jitter",
            Self::Slice => "link: slices",
            Self::Rate => "link: rate",
            Self::Cut => "link: cut after N bytes",
            Self::Reset => "link: reset after N bytes",
            Self::Stall => "link: stall",
            Self::HalfClose => "link: half-close",
            Self::Corrupt => "link: corruption",
        }
    }
}

// === impl Link ===

impl Link {
    /// Every one.
    pub(crate) fn all() -> Vec<Self> {
        let workers =
            (0..WORKERS).flat_map(|worker| [Self::Clients(worker), Self::ClientsTls(worker), Self::Sync(worker)]);
        workers.chain((0..BACKENDS).map(Self::Backend)).collect()
    }

    /// Whether a changed byte is noticed by somebody: TLS notices, and so do the digests of the sync protocol. In plain
    /// text between clients, workers and backends nobody can.
    pub(crate) fn is_checked(self) -> bool {
        match self {
            Self::Clients(_) => false,
            Self::ClientsTls(_) | Self::Sync(_) => true,
            Self::Backend(backend) => backend == BACKENDS - 1,
        }
    }
}
