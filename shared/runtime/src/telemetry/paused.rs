//! A writer of lines that looks away after each time that it has written.

use std::{
    io::{self, Write},
    thread,
};

use crate::lines::{PAUSE, WRITE_AT};

/// Writes the lines that wait with one call, and then nothing for a while: a line that comes in the meantime wakes nobody.
#[derive(Debug)]
pub(super) struct Paused<W> {
    inner: W,
    buffer: Vec<u8>,
}

// === impl Paused ===

impl<W: Write> Paused<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, buffer: Vec::with_capacity(WRITE_AT) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let written = self.inner.write_all(&self.buffer).and_then(|()| self.inner.flush());
        // What could not be written now would be written twice, in part, if it were kept.
        self.buffer.clear();
        written
    }
}

impl<W: Write> Write for Paused<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(line);
        if self.buffer.len() >= WRITE_AT {
            self.write_out()?;
        }
        Ok(line.len())
    }

    /// Called when no line waits any more.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.write_out();
        thread::sleep(PAUSE);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each call wrote.
    #[derive(Default)]
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_wait_leave_together_and_none_is_lost() {
        let mut paused = Paused::new(Calls::default());
        for line in [b"one\n", b"two\n"] {
            paused.write_all(line).unwrap();
        }
        paused.flush().unwrap();
        paused.write_all(&[b'x'; WRITE_AT]).unwrap();
        assert_eq!(paused.inner.0, [b"one\ntwo\n".to_vec(), vec![b'x'; WRITE_AT]]);
    }
}
