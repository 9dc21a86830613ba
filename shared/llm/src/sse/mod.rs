//! Server-sent events: a decoder for readers, a splitter for relays, the same lines and limits for both.
//!
//! Rules are those of the WHATWG stream format: lines end in LF, CR or CRLF wherever the bytes were split, one leading
//! byte order mark is skipped, a blank line ends an event, an event that the stream's end cuts off does not count.

mod block;
mod decoder;
mod mould;
mod splitter;
#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::block::{Block, Keep};
pub use self::decoder::{Decoder, Event};
pub use self::mould::{Casting, Mould};
pub use self::splitter::{Skimmed, Splitter, Visit};

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// One event is longer than the limit; nothing of the stream after it can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("one event is longer than {limit} bytes")]
pub struct TooLong {
    /// The limit that was passed, in bytes.
    pub limit: usize,
    /// What the same scan had to forward before this event; empty from a decoder, which still hands out its events.
    pub before: Bytes,
}

/// Cuts the first line off `bytes`: the line without its end, and what follows; `None` when no line ends in `bytes`.
fn cut_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr2(b'\n', b'\r', bytes)?;
    let width = if bytes[end..].starts_with(b"\r\n") { 2 } else { 1 };
    Some((&bytes[..end], &bytes[end + width..]))
}

/// Cuts a line into field name and value; a line without a colon is a name with an empty value.
fn cut_field(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b':', line) {
        None => (line, b""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}
