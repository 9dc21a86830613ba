//! Cuts a relayed stream into whole events and forwards their bytes untouched.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{BOM, Block, Keep, TooLong};

/// Finds the events in a stream that is passed on; hands out slices of what came in wherever it can.
///
/// What is no event is absorbed: a leading byte order mark, blank lines too many, comment lines before an event. So a
/// backend's heartbeats end here. An unfinished event waits until its rest arrives. The bytes forwarded, and the events
/// visited, are the same for every split of the stream into chunks.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    /// The bytes of the unfinished event; of an unfinished comment only its colon.
    tail: BytesMut,
    bom_matched: Option<usize>,
    after_cr: AfterCr,
    stopped: bool,
}

/// Looks at the events of a stream as they are cut.
pub trait Visit {
    /// Says what to do with an event.
    fn visit(&mut self, block: Block<'_>) -> Keep;

    /// Do `bytes` begin with a whole event that need not be cut out to be seen through? It has been visited then. It ends
    /// in LF, with its closing blank line.
    fn skim(&mut self, _bytes: &[u8]) -> Option<Skimmed> {
        None
    }
}

/// An event that was seen through as it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skimmed {
    /// Its length in bytes.
    pub length: usize,
    /// What of it is not sent on; empty: nothing is left out.
    pub without: Range<usize>,
}

/// A visitor that is a closure.
struct Each<'a, F>(&'a mut F);

/// The last chunk may have ended between the CR and the LF of a closing blank line.
#[derive(Debug, Clone, Copy)]
enum AfterCr {
    No,
    ForwardLf,
    DropLf,
}

/// What stands at the start of some bytes.
enum Unit {
    /// Nothing to forward in the first bytes: a blank line or a comment.
    Skip(usize),
    /// An event whose lines end where the closing blank line starts.
    Event { blank: Range<usize> },
    /// No end in sight yet.
    Unfinished,
}

// === impl Splitter ===

impl Splitter {
    /// A splitter that accepts events of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, tail: BytesMut::new(), bom_matched: Some(0), after_cr: AfterCr::No, stopped: false }
    }

    /// How many bytes of an unfinished event wait for their rest.
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    /// Takes the next chunk, shows each event that is now whole to `visit`, and returns the bytes to forward.
    ///
    /// The result is a slice of `chunk` unless it has to begin with bytes of an earlier chunk, or something inside it
    /// was left out or replaced.
    ///
    /// # Errors
    /// [`TooLong`] when an event passes the limit; it carries what is to be forwarded before that event. Later calls
    /// return nothing.
    pub fn scan(&mut self, chunk: Bytes, visit: &mut impl FnMut(Block<'_>) -> Keep) -> Result<Bytes, TooLong> {
        self.scan_for(chunk, &mut Each(visit))
    }

    /// The same for a visitor that may skim.
    ///
    /// # Errors
    /// See [`scan`](Self::scan).
    pub fn scan_for(&mut self, chunk: Bytes, visitor: &mut impl Visit) -> Result<Bytes, TooLong> {
        if self.stopped {
            return Ok(Bytes::new());
        }
        let mut output = Output::default();
        let mut at = self.skip_bom(&chunk);
        at += self.skip_lf(&chunk, at, &mut output);
        while at < chunk.len() && !self.stopped {
            let rest = &chunk[at..];
            if self.tail.is_empty()
                && let Some(skimmed) = visitor.skim(&rest[..rest.len().min(self.limit)])
            {
                output.push_skimmed(&chunk, at, &skimmed);
                at += skimmed.length;
                continue;
            }
            at += match self.unit(rest) {
                Unit::Skip(length) => {
                    self.tail.clear();
                    self.note_cr(&rest[..length], length == rest.len(), AfterCr::DropLf);
                    length
                }
                Unit::Event { blank } if self.tail.len() + blank.start <= self.limit => {
                    self.deliver(&chunk, at, &blank, &mut output, visitor);
                    blank.end
                }
                Unit::Unfinished if self.tail.len() + rest.len() <= self.limit || self.in_comment(rest) => {
                    self.hold(rest);
                    rest.len()
                }
                Unit::Event { .. } | Unit::Unfinished => {
                    self.stopped = true;
                    self.tail = BytesMut::new();
                    return Err(TooLong { limit: self.limit, before: output.finish(chunk) });
                }
            };
        }
        Ok(output.finish(chunk))
    }

    /// Returns how many of the first bytes belong to a byte order mark at the start of the stream.
    fn skip_bom(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while let (Some(matched), Some(&byte)) = (self.bom_matched, chunk.get(at)) {
            if byte == BOM[matched] {
                at += 1;
                self.bom_matched = Some(matched + 1).filter(|&matched| matched < BOM.len());
            } else {
                self.tail.extend_from_slice(&BOM[..matched]);
                self.bom_matched = None;
            }
        }
        at
    }

    /// Deals with an LF whose CR ended the last chunk; returns its length.
    fn skip_lf(&mut self, chunk: &[u8], at: usize, output: &mut Output) -> usize {
        let Some(&byte) = chunk.get(at) else { return 0 };
        let after_cr = std::mem::replace(&mut self.after_cr, AfterCr::No);
        match after_cr {
            AfterCr::ForwardLf if byte == b'\n' => output.push_run(chunk, at..at + 1),
            AfterCr::DropLf if byte == b'\n' => {}
            AfterCr::No | AfterCr::ForwardLf | AfterCr::DropLf => return 0,
        }
        1
    }

    /// Says what the bytes, together with the tail, begin with.
    fn unit(&self, rest: &[u8]) -> Unit {
        match rest {
            _ if self.in_comment(rest) => match memchr::memchr2(b'\n', b'\r', rest) {
                Some(end) => Unit::Skip(end + line_end_width(&rest[end..])),
                None => Unit::Unfinished,
            },
            [b'\n' | b'\r', ..] if self.tail.is_empty() => Unit::Skip(line_end_width(rest)),
            _ => match find_blank_line(self.tail.last().copied(), rest) {
                Some(blank) => Unit::Event { blank },
                None => Unit::Unfinished,
            },
        }
    }

    fn in_comment(&self, rest: &[u8]) -> bool {
        self.tail.first().or(rest.first()) == Some(&b':')
    }

    fn hold(&mut self, rest: &[u8]) {
        if !self.in_comment(rest) {
            self.tail.extend_from_slice(rest);
        } else if self.tail.is_empty() {
            self.tail.extend_from_slice(b":");
        }
    }

    /// Shows the event to the visitor and puts it, or what replaces it, into the output.
    fn deliver(
        &mut self,
        chunk: &Bytes,
        at: usize,
        blank: &Range<usize>,
        output: &mut Output,
        visitor: &mut impl Visit,
    ) {
        let (blank, end) = (at + blank.start, at + blank.end);
        // Taken, not cleared: a stream that had one big event must not keep its memory.
        let mut head = std::mem::take(&mut self.tail);
        let keep = if head.is_empty() {
            visitor.visit(Block::new(&chunk[at..blank]))
        } else {
            head.extend_from_slice(&chunk[at..blank]);
            visitor.visit(Block::new(&head))
        };
        let mut lf = AfterCr::DropLf;
        match keep {
            Keep::Forward if head.is_empty() => {
                output.push_run(chunk, at..end);
                lf = AfterCr::ForwardLf;
            }
            Keep::Forward => {
                output.adopt(head);
                output.push_run(chunk, blank..end);
                lf = AfterCr::ForwardLf;
            }
            Keep::Drop => {}
            Keep::Replace(bytes) => output.push_bytes(chunk, &bytes),
            Keep::Stop => self.stopped = true,
        }
        self.note_cr(&chunk[blank..end], end == chunk.len(), lf);
    }

    fn note_cr(&mut self, unit: &[u8], is_last: bool, lf: AfterCr) {
        if is_last && unit.last() == Some(&b'\r') {
            self.after_cr = lf;
        }
    }
}

// === impl Each ===

impl<F: FnMut(Block<'_>) -> Keep> Visit for Each<'_, F> {
    fn visit(&mut self, block: Block<'_>) -> Keep {
        (self.0)(block)
    }
}

/// Length of the line end at the start of `bytes`.
fn line_end_width(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\r\n") { 2 } else { 1 }
}

/// Finds the blank line that closes an event whose earlier bytes end in `before`.
fn find_blank_line(before: Option<u8>, bytes: &[u8]) -> Option<Range<usize>> {
    let mut at = usize::from(before == Some(b'\r') && bytes.first() == Some(&b'\n'));
    let mut at_line_start = matches!(before, Some(b'\n' | b'\r'));
    loop {
        let rest = &bytes[at..];
        if at_line_start && matches!(rest.first(), Some(b'\n' | b'\r')) {
            return Some(at..at + line_end_width(rest));
        }
        let end = memchr::memchr2(b'\n', b'\r', rest)?;
        at += end + line_end_width(&rest[end..]);
        at_line_start = true;
    }
}

/// What one scan forwards: one run of the chunk while that suffices, otherwise a buffer that is built up.
#[derive(Default)]
struct Output {
    built: BytesMut,
    run: Range<usize>,
}

// === impl Output ===

impl Output {
    fn push_run(&mut self, chunk: &[u8], run: Range<usize>) {
        if self.run.is_empty() {
            self.run = run;
        } else if self.run.end == run.start {
            self.run.end = run.end;
        } else {
            self.flush(chunk);
            self.run = run;
        }
    }

    fn push_skimmed(&mut self, chunk: &[u8], at: usize, Skimmed { length, without }: &Skimmed) {
        if without.is_empty() {
            return self.push_run(chunk, at..at + length);
        }
        self.push_run(chunk, at..at + without.start);
        self.push_run(chunk, at + without.end..at + length);
    }

    fn push_bytes(&mut self, chunk: &[u8], bytes: &[u8]) {
        self.flush(chunk);
        self.built.extend_from_slice(bytes);
    }

    /// Begins with the bytes of an event that started in an earlier chunk; it is the first of this scan.
    fn adopt(&mut self, head: BytesMut) {
        self.built = head;
    }

    fn flush(&mut self, chunk: &[u8]) {
        self.built.extend_from_slice(&chunk[std::mem::take(&mut self.run)]);
    }

    fn finish(mut self, chunk: Bytes) -> Bytes {
        if self.built.is_empty() {
            // A whole chunk is handed on as it is, without touching its reference count.
            return if self.run.len() == chunk.len() { chunk } else { chunk.slice(self.run) };
        }
        self.flush(&chunk);
        self.built.freeze()
    }
}
