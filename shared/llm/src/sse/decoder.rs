//! Decodes a stream into events as the WHATWG format says; the same events for every split of the bytes.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::{BOM, TooLong, cut_field};

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The value of the `event` field; `None` means the default, `message`.
    pub event: Option<String>,
    /// The payload; the values of several `data` lines are joined by LF.
    pub data: String,
    /// The last id seen in the stream so far; it sticks to later events.
    pub id: Option<String>,
    /// The reconnection time, when this event carried one.
    pub retry: Option<Duration>,
}

/// Takes bytes in any split and gives events; those that are ready come from its [`Iterator`].
///
/// The iterator ends when no further event is ready and goes on after the next [`Decoder::feed`].
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    bom_matched: Option<usize>,
    skip_lf: bool,
    line: Vec<u8>,
    data: Vec<u8>,
    current: Event,
    has_data: bool,
    ready: VecDeque<Event>,
}

// === impl Decoder ===

impl Decoder {
    /// A decoder that accepts events of up to `limit` bytes of payload, and lines of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bom_matched: Some(0),
            skip_lf: false,
            line: Vec::new(),
            data: Vec::new(),
            current: Event::default(),
            has_data: false,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`TooLong`] when a line or an event passes the limit; the events before it are still handed out.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let mut rest = self.skip_bom(bytes);
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.skip_lf) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                return self.extend_line(rest);
            };
            self.extend_line(&rest[..end])?;
            // The line counts at once: waiting for an LF after a CR would stall a stream that only uses CR.
            self.skip_lf = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.end_line()?;
        }
        Ok(())
    }

    fn skip_bom<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let (Some(matched), Some(&first)) = (self.bom_matched, bytes.first()) {
            if first == BOM[matched] {
                bytes = &bytes[1..];
                self.bom_matched = Some(matched + 1).filter(|&matched| matched < BOM.len());
            } else {
                self.line.extend_from_slice(&BOM[..matched]);
                self.bom_matched = None;
            }
        }
        bytes
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.check(self.line.len() + bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), TooLong> {
        let line = std::mem::take(&mut self.line);
        let result = self.take_line(&line);
        self.line = line;
        self.line.clear();
        result
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), TooLong> {
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (name, value) = cut_field(line);
        match name {
            b"data" => {
                self.check(self.data.len() + value.len() + 1)?;
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"event" => self.current.event = Some(text(value)).filter(|name| !name.is_empty()),
            b"id" if !value.contains(&0) => self.current.id = Some(text(value)),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.current.retry = text(value).parse().ok().map(Duration::from_millis);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let next = Event { id: self.current.id.clone(), ..Event::default() };
        let event = std::mem::replace(&mut self.current, next);
        // Without a `data` line nothing is dispatched and only the id stays; with an empty one an empty event is.
        if std::mem::take(&mut self.has_data) {
            let data = std::mem::take(&mut self.data);
            self.ready.push_back(Event { data: text(&data), ..event });
        }
    }

    fn check(&self, length: usize) -> Result<(), TooLong> {
        if length > self.limit { Err(TooLong { limit: self.limit, before: Bytes::new() }) } else { Ok(()) }
    }
}

impl Iterator for Decoder {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
