//! The thread that writes lines, and says what becomes of them.

use std::{
    io,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    thread,
};

use super::{Order, PAUSE, State, WRITE_AT, sink::Sink};

/// Writes on a thread of its own. A failure is told and counted here: nobody else would hear of it.
pub(super) struct Writer {
    sink: Sink,
    pub(super) state: Arc<State>,
    /// Lines to be written next, and how many.
    buffer: Vec<u8>,
    lines: u64,
    /// The last thing that was written is half a line.
    pub(super) is_torn: bool,
    outage: Option<Outage>,
}

/// A time in which lines cannot be written, or not where they should be.
struct Outage {
    /// The lines that had been lost before.
    lost_before: u64,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(sink: Sink, state: Arc<State>) -> Self {
        Self { sink, state, buffer: Vec::with_capacity(WRITE_AT), lines: 0, is_torn: false, outage: None }
    }

    /// Writes what is ordered until it is closed.
    pub(super) fn follow(&mut self, orders: &Receiver<Order>) {
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

    pub(super) fn take(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
        self.lines += 1;
        if self.buffer.len() >= WRITE_AT {
            self.write_out();
        }
    }

    pub(super) fn write_out(&mut self) {
        if self.lines == 0 {
            return;
        }
        let is_where_it_should = self.follow_file();
        let lines = std::mem::take(&mut self.lines);
        match self.write_all() {
            Ok(()) if is_where_it_should => self.tell_end(),
            Ok(()) => {}
            Err((rest, error)) => {
                self.tell_failure(&error, "Lines cannot be written and are lost");
                let lost = self.buffer[rest..].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.state.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        self.state.waiting.fetch_sub(lines, Ordering::Relaxed);
        self.buffer.clear();
    }

    /// Returns whether lines go to the file that the path leads to.
    fn follow_file(&mut self) -> bool {
        let wanted = self.state.reopen.swap(false, Ordering::AcqRel);
        match self.sink.follow(wanted) {
            // Half a line stays in the file that it was written to.
            Ok(is_another) => {
                self.is_torn &= !is_another;
                true
            }
            Err(error) => {
                // Looked at again with the next lines.
                self.state.reopen.store(true, Ordering::Release);
                self.tell_failure(&error, "The lines' file cannot be opened again; lines go on to the old one");
                false
            }
        }
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
        if self.outage.is_none() {
            self.outage = Some(Outage { lost_before: self.state.lost.load(Ordering::Relaxed) });
            tracing::error!(destination = %self.sink, %error, "{what}");
        }
    }

    fn tell_end(&mut self) {
        if let Some(Outage { lost_before }) = self.outage.take() {
            let lost = self.state.lost.load(Ordering::Relaxed) - lost_before;
            tracing::info!(destination = %self.sink, lost, "Lines are written again");
        }
    }
}
