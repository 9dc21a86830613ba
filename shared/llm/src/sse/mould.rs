//! Knows an event again that differs from an earlier one in its text alone, as those of a stream do.

use std::ops::Range;

use memchr::{memchr2, memmem};

use super::Block;

/// What follows a text's name: a key ends in it, whatever stands before.
const TEXTS: [&[u8]; 2] = [br#"content":"#, br#"text":"#];

/// The largest event that is a mould, without its text: a mould is kept as long as its stream.
const MOULD_MOST: usize = 1024;

/// After so many casts in a row into which nothing fitted no further one is made: the events of this stream differ in
/// more than a text.
const MISSES_MOST: u8 = 16;

/// An event of one `data` line, but for the text in its JSON. The next events of its stream are mostly like it: a watch
/// that sees that takes 490 instructions for one, with the splitter's, where it took 1,655 to search it for signs, and
/// 580 instead of 2,950 when a `usage` is to be left out (`tests/instructions`, rows `sse-watch`).
///
/// Whatever fits has the payload of the event that was cast, with another text in it that needs no escapes: it is JSON
/// when that one was (RFC 8259 §7), has the same members, and no key more.
#[derive(Debug, Default)]
pub struct Mould {
    /// What stands before the text and after it, with the blank line that closes the event.
    bytes: Vec<u8>,
    /// Where the text stood; 0: nothing fits.
    at: usize,
    /// Where the payload begins.
    payload: usize,
    /// Of the line end of the `data` line, and of the blank line after it.
    ending: usize,
    misses: u8,
}

/// An event that fits, at the start of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Casting {
    /// Where its payload stands.
    pub payload: Range<usize>,
    /// Length of the whole event in bytes, with the blank line that closes it.
    pub length: usize,
}

// === impl Mould ===

impl Mould {
    /// Is it the event that was cast, with this or that text in it, that `bytes` begin with? All of it must be there.
    pub fn fits(&mut self, bytes: &[u8]) -> Option<Casting> {
        if self.at == 0 {
            return None;
        }
        let (before, after) = self.bytes.split_at(self.at);
        let rest = bytes.strip_prefix(before)?;
        let text = rest.iter().position(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\'))?;
        if !rest[text..].starts_with(after) || std::str::from_utf8(&rest[..text]).is_err() {
            return None;
        }
        self.misses = 0;
        let length = self.bytes.len() + text;
        Some(Casting { payload: self.payload..length - self.ending, length })
    }

    /// Takes the form of an event, if it has a text, is one line that ends in LF, and is not large without its text.
    /// Nothing fits otherwise.
    pub fn cast(&mut self, block: &Block<'_>) {
        self.at = 0;
        let raw = block.raw();
        if self.misses > MISSES_MOST || !block.is_single_data_line() || !raw.ends_with(b"\n") {
            return;
        }
        let Some((start, end)) = TEXTS.iter().find_map(|name| text_after(name, raw)) else { return };
        if raw.len() - (end - start) > MOULD_MOST {
            return;
        }
        self.misses += 1;
        self.bytes.clear();
        self.bytes.extend_from_slice(&raw[..start]);
        self.bytes.extend_from_slice(&raw[end..]);
        self.bytes.extend_from_slice(block.line_end());
        self.at = start;
        self.payload = raw.len() - block.line_end().len() - block.data().len();
        self.ending = 2 * block.line_end().len();
    }
}

/// Where the first text begins and ends that follows `name`, without its quotes. In JSON a quote after a letter closes a
/// string, and one that a colon follows closes a key: the next quote opens a value. What follows the value says once
/// more that it is one.
fn text_after(name: &[u8], json: &[u8]) -> Option<(usize, usize)> {
    let start = memmem::find_iter(json, name).find_map(|at| {
        let value = &json[at + name.len()..];
        let text = value.trim_ascii_start().strip_prefix(b"\"")?;
        Some(json.len() - text.len())
    })?;
    let mut end = start;
    loop {
        end += memchr2(b'"', b'\\', json.get(end..)?)?;
        if json[end] == b'"' {
            let is_value = matches!(json.get(end + 1), Some(b',' | b'}' | b']'));
            return is_value.then_some((start, end));
        }
        // The backslash, and what it escapes.
        end += 2;
    }
}

#[cfg(test)]
#[path = "mould_tests.rs"]
mod tests;
