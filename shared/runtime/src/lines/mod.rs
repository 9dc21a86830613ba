//! A log of lines for machines: written beside the work, to a file that may be rotated or to standard output.
//!
//! Who writes a line never waits: lines that a slow disk or reader does not take in time, or not at all, are counted as lost, and
//! the log says when that begins and when it is over.

mod sink;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use self::{sink::Sink, writer::Writer};

/// Lines that may wait to be written; more are lost, and counted.
const LINES_MAX: usize = 65_536;
/// Bytes that are written at once while lines come faster than one by one.
pub(crate) const WRITE_AT: usize = 64 * 1024;
/// How long a writer looks away after it has written. A line that comes meanwhile costs its sender no call to wake it, and
/// leaves with others: with 64 clients that ask one thing after the other, a request took 79 µs of CPU before, and 46 since (ADR 22).
/// A process that is killed loses the lines of so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// The end of this file, which is made when it is not there.
    File(PathBuf),
}

/// The writing end. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Order>,
    state: Arc<State>,
}

/// Writes what waits when it is dropped, for at most five seconds; then the log says how much was lost.
#[derive(Debug)]
#[must_use = "lines that wait are lost without it when the process ends"]
pub struct LinesGuard {
    destination: Destination,
    queue: SyncSender<Order>,
    /// Closed when the writer has ended.
    ended: Receiver<()>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    reopen: AtomicBool,
    /// Lines that wait, as far as is known.
    waiting: AtomicU64,
    /// Lines that never reached their destination.
    lost: AtomicU64,
}

/// What the writer is told.
#[derive(Debug)]
enum Order {
    Line(Vec<u8>),
    Close,
}

/// Begins to write lines to `destination`.
///
/// # Errors
/// When the file cannot be opened for writing, or the system has no thread left.
pub fn open(destination: Destination) -> io::Result<(Lines, LinesGuard)> {
    let state = Arc::<State>::default();
    let (queue, orders) = sync_channel(LINES_MAX);
    let (alive, ended) = sync_channel(0);
    let mut writer = Writer::new(Sink::open(&destination)?, Arc::clone(&state));
    thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let _alive = alive;
        writer.follow(&orders);
    })?;
    let guard = LinesGuard { destination, queue: queue.clone(), ended, state: Arc::clone(&state) };
    Ok((Lines { queue, state }, guard))
}

// === impl Destination ===

impl std::str::FromStr for Destination {
    type Err = std::convert::Infallible;

    /// `-` is standard output, anything else a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdout } else { Self::File(text.into()) })
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

// === impl Lines ===

impl Lines {
    /// Hands over a line, its line end included. Never waits.
    pub fn write(&self, line: Vec<u8>) {
        self.state.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(Order::Line(line)).is_err() {
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
            self.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file again before the next line: it was moved away.
    pub fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Release);
    }

    /// Lines that never reached their destination.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LinesGuard {
    fn drop(&mut self) {
        // A full queue means a disk or a reader that does not keep up: the writer is told nothing, and the wait below ends in
        // time.
        let _ = self.queue.try_send(Order::Close);
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(LAST_LINES) {
            let lost = self.state.waiting.load(Ordering::Relaxed);
            tracing::error!(destination = %self.destination, lost, "Lines that still waited are lost");
        }
    }
}
