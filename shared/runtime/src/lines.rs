//! A log of lines for machines: written beside the work, to a file that may be rotated or to standard output.
//!
//! Who writes a line never waits: lines that a slow disk does not take in time, or not at all, are counted as lost, and
//! the log says when that begins and when it is over.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Lines that may wait for the disk; more are lost, and counted.
const LINES_MAX: usize = 65_536;
/// Bytes that are written at once while lines come faster than one by one.
const WRITE_AT: usize = 64 * 1024;

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
    writer: NonBlocking,
    overflown: ErrorCounter,
    state: Arc<State>,
}

/// Writes what waits when it is dropped, for at most a second.
#[derive(Debug)]
#[must_use = "lines that wait are lost without it when the process ends"]
pub struct LinesGuard(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

#[derive(Debug, Default)]
struct State {
    reopen: AtomicBool,
    /// Lines that the system did not take.
    refused: AtomicU64,
}

/// Begins to write lines to `destination`.
///
/// # Errors
/// When the file cannot be opened for writing.
pub fn open(destination: Destination) -> io::Result<(Lines, LinesGuard)> {
    let state = Arc::<State>::default();
    let sink = Sink::open(destination)?;
    let buffer = Vec::with_capacity(WRITE_AT);
    let writer = Writer { sink, state: Arc::clone(&state), buffer, is_torn: false, is_failing: false };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("lines");
    let (writer, guard) = builder.finish(writer);
    Ok((Lines { overflown: writer.error_counter(), writer, state }, LinesGuard(guard)))
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
    pub fn write(&self, line: &[u8]) {
        // What does not fit is counted by the writer itself; it never fails otherwise.
        let _ = self.writer.clone().write(line);
    }

    /// Opens the file again before the next line: it was moved away.
    pub fn reopen(&self) {
        self.state.reopen.store(true, Ordering::Release);
    }

    /// Lines that never reached their destination.
    pub fn lost(&self) -> u64 {
        self.overflown.dropped_lines() as u64 + self.state.refused.load(Ordering::Relaxed)
    }
}

/// What is written to.
#[derive(Debug)]
enum Sink {
    Stdout(io::Stdout),
    File(PathBuf, File),
}

// === impl Sink ===

impl Sink {
    fn open(destination: Destination) -> io::Result<Self> {
        Ok(match destination {
            Destination::Stdout => Self::Stdout(io::stdout()),
            Destination::File(path) => {
                let file = OpenOptions::new().append(true).create(true).open(&path)?;
                Self::File(path, file)
            }
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(path, _) = self {
            *self = Self::open(Destination::File(path.clone()))?;
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Self::File(_, file) => file.write_all(bytes),
        }
    }
}

/// Writes on a thread of its own. A failure is told and counted here: nobody else would hear of it.
struct Writer {
    sink: Sink,
    state: Arc<State>,
    buffer: Vec<u8>,
    /// The last write may have ended in the middle of a line.
    is_torn: bool,
    is_failing: bool,
}

// === impl Writer ===

impl Writer {
    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.state.reopen.swap(false, Ordering::AcqRel)
            && let Err(error) = self.sink.reopen()
        {
            tracing::error!(%error, "The lines' file cannot be opened again; lines go on to the old one");
        }
        if std::mem::replace(&mut self.is_torn, false) {
            self.buffer.insert(0, b'\n');
        }
        match self.sink.write_all(&self.buffer) {
            Ok(()) if std::mem::replace(&mut self.is_failing, false) => {
                tracing::info!(lost = self.state.refused.load(Ordering::Relaxed), "Lines are written again");
            }
            Ok(()) => {}
            Err(error) => {
                let lines = self.buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.state.refused.fetch_add(lines, Ordering::Relaxed);
                self.is_torn = true;
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "Lines cannot be written and are lost");
                }
            }
        }
        self.buffer.clear();
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(line);
        if self.buffer.len() >= WRITE_AT {
            self.write_out();
        }
        Ok(line.len())
    }

    /// Called whenever no further line waits.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(path: &std::path::Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_waits_is_written_when_the_guard_goes_and_appended_to_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        for round in ["1\n", "2\n"] {
            let (lines, guard) = open(Destination::File(path.clone())).unwrap();
            (0..3).for_each(|_| lines.write(round.as_bytes()));
            drop(guard);
            assert_eq!(lines.lost(), 0);
        }
        assert_eq!(written(&path), "1\n1\n1\n2\n2\n2\n");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut sink = Writer {
            sink: Sink::open(Destination::File(path.clone())).unwrap(),
            state: Arc::default(),
            buffer: Vec::new(),
            is_torn: false,
            is_failing: false,
        };
        writeln!(sink, "old").unwrap();
        sink.flush().unwrap();
        fs::rename(&path, &moved).unwrap();
        writeln!(sink, "still old").unwrap();
        sink.flush().unwrap();
        sink.state.reopen.store(true, Ordering::Release);
        writeln!(sink, "new").unwrap();
        sink.flush().unwrap();
        assert_eq!((written(&moved).as_str(), written(&path).as_str()), ("old\nstill old\n", "new\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_refuses_is_counted_line_by_line() {
        let (lines, guard) = open(Destination::File("/dev/full".into())).unwrap();
        (0..5).for_each(|_| lines.write(b"x\n"));
        drop(guard);
        assert_eq!(lines.lost(), 5);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_at_once() {
        assert!(open(Destination::File("/nowhere/at/all".into())).is_err());
    }
}
