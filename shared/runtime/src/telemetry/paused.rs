//! A writer of lines that looks away after each time that it has written.

use std::{
    io::{self, ErrorKind, Write},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::gaps::Gaps;
use crate::lines::{PAUSE, WRITE_AT};

/// What is written with one call at most: a pipe takes so much whole or not at all (`PIPE_BUF` of Linux), so that lines of two
/// processes that share one are not mixed while one of them takes over.
const PIECE: usize = 4096;

/// Writes the lines that wait together, and then nothing for a while: a line that comes in the meantime wakes nobody.
#[derive(Debug)]
pub(super) struct Paused<W> {
    inner: W,
    buffer: Vec<u8>,
    /// The last thing that was written is half a line.
    is_torn: bool,
    /// Lines that were not taken: nobody waits for whoever reads them.
    lost: &'static AtomicU64,
    /// Since the last rest there was such a line.
    is_refused: bool,
    gaps: Gaps,
}

// === impl Paused ===

impl<W: Write> Paused<W> {
    pub(super) fn new(inner: W, lost: &'static AtomicU64, gaps: Gaps) -> Self {
        Self { inner, buffer: Vec::with_capacity(WRITE_AT), is_torn: false, lost, is_refused: false, gaps }
    }

    fn write_out(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(end_of_piece(rest));
            self.write_piece(piece);
            rest = behind;
        }
        self.buffer = buffer;
        self.buffer.clear();
        // One huge line must not be kept room for.
        self.buffer.shrink_to(2 * WRITE_AT);
    }

    /// All that waited was taken: whoever reads it can be told what is missing.
    fn tell_gaps(&mut self) {
        let mut gaps = self.gaps;
        gaps.tell(|line| {
            self.write_piece(line.as_bytes());
            !self.is_refused
        });
        self.gaps = gaps;
    }

    fn write_piece(&mut self, piece: &[u8]) {
        if self.is_torn && self.write_some(b"\n") == 0 {
            // Whatever came behind half a line would be one line with it.
            return self.lose(piece);
        }
        self.is_torn = false;
        let mut written = 0;
        while written < piece.len() {
            match self.write_some(&piece[written..]) {
                0 => break,
                more => written += more,
            }
        }
        if written > 0 {
            self.is_torn = piece[written - 1] != b'\n';
        }
        self.lose(&piece[written..]);
    }

    fn lose(&mut self, lines: &[u8]) {
        let lost = lines.iter().filter(|byte| **byte == b'\n').count();
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
        self.is_refused |= lost > 0;
    }

    /// How much was written; nothing when nothing can be.
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        loop {
            match self.inner.write(bytes) {
                Ok(written) => return written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return 0,
            }
        }
    }
}

impl<W: Write> Write for Paused<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(line);
        if self.buffer.len() >= WRITE_AT {
            self.write_out();
        }
        Ok(line.len())
    }

    /// Called when no line waits any more. Never fails: what was lost is counted, and a failure here would keep the process
    /// from ending at once.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        if !self.is_refused {
            self.tell_gaps();
        }
        self.is_refused = false;
        thread::sleep(PAUSE);
        Ok(())
    }
}

/// Whole lines as far as they fit into a piece; a line that does not, alone.
fn end_of_piece(bytes: &[u8]) -> usize {
    let fitting = &bytes[..bytes.len().min(PIECE)];
    let end = memchr::memrchr(b'\n', fitting).or_else(|| memchr::memchr(b'\n', bytes));
    end.map_or(bytes.len(), |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::LogFormat;

    /// What each call wrote, and how much it takes before it refuses everything.
    struct Calls {
        calls: Vec<Vec<u8>>,
        room: usize,
        /// So many calls are refused first.
        refusals: usize,
    }

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.refusals > 0 || self.room == 0 {
                self.refusals = self.refusals.saturating_sub(1);
                return Err(ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.calls.push(bytes[..taken].to_owned());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn paused(room: usize) -> Paused<Calls> {
        let gaps = Gaps::new(|| 0, None);
        Paused::new(Calls { calls: Vec::new(), room, refusals: 0 }, Box::leak(Box::default()), gaps)
    }

    #[test]
    fn lines_that_wait_leave_together_as_far_as_a_pipe_takes_them_whole() {
        let mut paused = paused(usize::MAX);
        for line in [b"one\n", b"two\n"] {
            paused.write_all(line).unwrap();
        }
        paused.flush().unwrap();
        let long = [&[b'x'; PIECE][..], b"\n"].concat();
        for line in [&[&[b'y'; PIECE - 3][..], b"\n"].concat(), &b"z\n".to_vec(), &b"last\n".to_vec(), &long] {
            paused.write_all(line).unwrap();
        }
        paused.flush().unwrap();
        let sizes: Vec<usize> = paused.inner.calls.iter().map(Vec::len).collect();
        assert_eq!(paused.inner.calls[0], b"one\ntwo\n");
        assert_eq!(sizes, [8, PIECE, 5, PIECE + 1]);
        assert_eq!(paused.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_taken_is_counted_and_half_a_line_ends_before_the_next() {
        let mut paused = paused(6);
        paused.write_all(b"one\n").unwrap();
        paused.write_all(b"two\nthree\n").unwrap();
        paused.flush().unwrap();
        assert_eq!((paused.inner.calls.concat(), paused.lost.load(Ordering::Relaxed)), (b"one\ntw".to_vec(), 2));
        paused.inner.room = 100;
        paused.write_all(b"four\n").unwrap();
        paused.flush().unwrap();
        assert_eq!(paused.inner.calls.concat(), b"one\ntw\nfour\n");
    }

    #[test]
    fn half_a_line_is_not_joined_with_the_next_when_its_end_is_refused() {
        let mut paused = paused(2);
        paused.write_all(b"one\n").unwrap();
        paused.flush().unwrap();
        (paused.inner.room, paused.inner.refusals) = (100, 1);
        for line in [b"two\n", b"six\n"] {
            paused.write_all(line).unwrap();
            paused.flush().unwrap();
        }
        assert_eq!((paused.inner.calls.concat(), paused.lost.load(Ordering::Relaxed)), (b"on\nsix\n".to_vec(), 2));
    }

    #[test]
    fn a_huge_line_is_not_kept_room_for() {
        let mut paused = paused(usize::MAX);
        paused.write_all(&vec![b'x'; 100 * WRITE_AT]).unwrap();
        assert!(paused.buffer.capacity() <= 2 * WRITE_AT, "{}", paused.buffer.capacity());
    }

    #[test]
    fn whoever_reads_again_is_told_how_many_lines_are_missing() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let mut paused = paused(6);
        paused.lost = &LOST;
        paused.gaps = Gaps::new(|| LOST.load(Ordering::Relaxed), Some(LogFormat::Text));
        for line in [b"one\n", b"two\n", b"six\n"] {
            paused.write_all(line).unwrap();
            paused.flush().unwrap();
        }
        paused.inner.room = 200;
        for line in [b"ten\n", b"run\n"] {
            paused.write_all(line).unwrap();
            paused.flush().unwrap();
        }
        let written = String::from_utf8(paused.inner.calls.concat()).unwrap();
        let lines: Vec<_> = written.lines().collect();
        assert_eq!((&lines[..3], lines[4], lines.len()), (&["one", "tw", "ten"][..], "run", 5));
        assert!(lines[3].ends_with("WARN Log lines were lost lost=2"), "{written}");
    }
}
