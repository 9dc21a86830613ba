//! A log of lines for machines: written beside the work, to a file that may be rotated or to standard output.
//!
//! Who writes a line never waits: lines that a slow disk does not take in time, or not at all, are counted as lost, and
//! the log says when that begins and when it is over.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

/// Lines that may wait for the disk; more are lost, and counted.
const LINES_MAX: usize = 65_536;
/// Bytes that are written at once while lines come faster than one by one.
pub(crate) const WRITE_AT: usize = 64 * 1024;
/// How long a writer looks away after it has written. A line that comes meanwhile costs its sender no call to wake it, and
/// leaves with others: with 64 clients that ask one thing after the other, a request took 79 µs of CPU before, and 46 since (ADR 22).
/// A process that is killed loses the lines of so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for the disk.
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
    let mut writer = Writer::new(Sink::open(destination)?, Arc::clone(&state));
    thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let _alive = alive;
        writer.follow(&orders);
    })?;
    let guard = LinesGuard { queue: queue.clone(), ended, state: Arc::clone(&state) };
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
        // A full queue means a disk that does not keep up: the writer is told nothing, and the wait below ends in time.
        let _ = self.queue.try_send(Order::Close);
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(LAST_LINES) {
            let lost = self.state.waiting.load(Ordering::Relaxed);
            tracing::error!(lost, "Lines that still waited for their disk are lost");
        }
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
                refuse_pipe(&path)?;
                let file = OpenOptions::new().append(true).create(true).open(&path)?;
                Self::File(path, file)
            }
        })
    }

    /// Opens the file again when `wanted`, or when its path leads elsewhere by now: whoever rotates logs moves it away, and
    /// the signal that says so reaches only one of the processes that write to it.
    fn follow(&mut self, wanted: bool) -> io::Result<()> {
        let Self::File(path, file) = self else { return Ok(()) };
        if wanted || leads_elsewhere(path, file) {
            *self = Self::open(Destination::File(path.clone()))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => {
                let written = stdout.write(bytes)?;
                stdout.flush().map(|()| written)
            }
            Self::File(_, file) => file.write(bytes),
        }
    }
}

/// Opening a pipe would wait for its reader, and stop the process from starting or from ending.
#[cfg(unix)]
fn refuse_pipe(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;

    match std::fs::metadata(path) {
        Ok(there) if there.file_type().is_fifo() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a named pipe; use - and a pipe of the shell"))
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn refuse_pipe(_path: &Path) -> io::Result<()> {
    Ok(())
}

impl std::fmt::Display for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout(_) => f.write_str("standard output"),
            Self::File(path, _) => path.display().fmt(f),
        }
    }
}

#[cfg(unix)]
fn leads_elsewhere(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let (Ok(there), Ok(here)) = (std::fs::metadata(path), file.metadata()) else { return true };
    (there.dev(), there.ino()) != (here.dev(), here.ino())
}

#[cfg(not(unix))]
fn leads_elsewhere(_path: &Path, _file: &File) -> bool {
    false
}

/// Writes on a thread of its own. A failure is told and counted here: nobody else would hear of it.
struct Writer {
    sink: Sink,
    state: Arc<State>,
    /// Lines to be written next, and how many.
    buffer: Vec<u8>,
    lines: u64,
    /// The last thing that was written is half a line.
    is_torn: bool,
    is_failing: bool,
}

// === impl Writer ===

impl Writer {
    fn new(sink: Sink, state: Arc<State>) -> Self {
        Self { sink, state, buffer: Vec::with_capacity(WRITE_AT), lines: 0, is_torn: false, is_failing: false }
    }

    /// Writes what is ordered until it is closed.
    fn follow(&mut self, orders: &Receiver<Order>) {
        while let Ok(mut order) = orders.recv() {
            loop {
                match order {
                    Order::Line(line) => self.take(&line),
                    Order::Close => return self.write_out(),
                }
                match orders.try_recv() {
                    Ok(next) => order = next,
                    Err(_) => break,
                }
            }
            self.write_out();
            thread::sleep(PAUSE);
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
        self.lines += 1;
        if self.buffer.len() >= WRITE_AT {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.lines == 0 {
            return;
        }
        let wanted = self.state.reopen.swap(false, Ordering::AcqRel);
        if let Err(error) = self.sink.follow(wanted) {
            // Looked at again with the next lines.
            self.state.reopen.store(true, Ordering::Release);
            self.tell_failure(&error, "The lines' file cannot be opened again; lines go on to the old one");
        }
        let lines = std::mem::take(&mut self.lines);
        match self.write_all() {
            Ok(()) if std::mem::replace(&mut self.is_failing, false) => {
                tracing::info!(lost = self.state.lost.load(Ordering::Relaxed), "Lines are written again");
            }
            Ok(()) => {}
            Err((rest, error)) => {
                let lost = self.buffer[rest..].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.state.lost.fetch_add(lost, Ordering::Relaxed);
                self.tell_failure(&error, "Lines cannot be written and are lost");
            }
        }
        self.state.waiting.fetch_sub(lines, Ordering::Relaxed);
        self.buffer.clear();
    }

    /// On failure also where the rest begins that was not written.
    fn write_all(&mut self) -> Result<(), (usize, io::Error)> {
        if self.is_torn {
            self.write_at(b"\n", 0).map_err(|(_, error)| (0, error))?;
            self.is_torn = false;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = 0;
        let written = loop {
            if rest == buffer.len() {
                break Ok(());
            }
            match self.write_at(&buffer, rest) {
                Ok(next) => rest = next,
                Err(fault) => break Err(fault),
            }
        };
        self.is_torn = rest > 0 && buffer[rest - 1] != b'\n';
        self.buffer = buffer;
        written
    }

    fn write_at(&mut self, bytes: &[u8], from: usize) -> Result<usize, (usize, io::Error)> {
        match self.sink.write(&bytes[from..]) {
            Ok(0) => Err((from, io::ErrorKind::WriteZero.into())),
            Ok(written) => Ok(from + written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(from),
            Err(error) => Err((from, error)),
        }
    }

    /// Once until it is over: a full disk must not fill the log as well.
    fn tell_failure(&mut self, error: &io::Error, what: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(file = %self.sink, %error, "{what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn writer(path: &Path) -> Writer {
        Writer::new(Sink::open(Destination::File(path.to_owned())).unwrap(), Arc::default())
    }

    fn write(writer: &mut Writer, lines: &[&str]) {
        lines.iter().for_each(|line| writer.take(line.as_bytes()));
        writer.write_out();
    }

    #[test]
    fn what_waits_is_written_when_the_guard_goes_and_appended_to_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.jsonl");
        for round in ["1\n", "2\n"] {
            let (lines, guard) = open(Destination::File(path.clone())).unwrap();
            (0..3).for_each(|_| lines.write(round.into()));
            drop(guard);
            assert_eq!((lines.lost(), lines.state.waiting.load(Ordering::Relaxed)), (0, 0));
        }
        assert_eq!(written(&path), "1\n1\n1\n2\n2\n2\n");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file_whether_or_not_somebody_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut writer = writer(&path);
        write(&mut writer, &["old\n"]);
        fs::rename(&path, &moved).unwrap();
        write(&mut writer, &["new\n"]);
        assert_eq!((written(&moved).as_str(), written(&path).as_str()), ("old\n", "new\n"));
        fs::remove_file(&path).unwrap();
        writer.state.reopen.store(true, Ordering::Release);
        write(&mut writer, &["newer\n"]);
        assert_eq!(written(&path), "newer\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_tried_with_the_next_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (logs, away) = (folder.path().join("logs"), folder.path().join("away"));
        fs::create_dir(&logs).unwrap();
        let mut writer = writer(&logs.join("log"));
        fs::rename(&logs, &away).unwrap();
        write(&mut writer, &["1\n"]);
        assert_eq!(written(&away.join("log")), "1\n", "to the old one, rather than nowhere");
        fs::create_dir(&logs).unwrap();
        write(&mut writer, &["2\n"]);
        assert_eq!(written(&logs.join("log")), "2\n");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_refuses_is_counted_line_by_line() {
        let mut writer = writer(Path::new("/dev/full"));
        for lines in [&["a\n", "b\n"][..], &["c\n"]] {
            write(&mut writer, lines);
        }
        assert_eq!(writer.state.lost.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_line_that_was_torn_ends_before_the_next_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = writer(&path);
        fs::write(&path, "ha").unwrap();
        writer.is_torn = true;
        write(&mut writer, &["whole\n"]);
        assert_eq!(written(&path), "ha\nwhole\n");
    }

    #[test]
    fn a_queue_that_is_full_loses_lines_and_counts_them() {
        let (queue, _orders) = sync_channel(1);
        let lines = Lines { queue, state: Arc::default() };
        (0..3).for_each(|_| lines.write(b"x\n".into()));
        assert_eq!(lines.lost(), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_named_pipe_is_refused_instead_of_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(open(Destination::File(path)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_at_once() {
        assert!(open(Destination::File("/nowhere/at/all".into())).is_err());
    }
}
