//! One whole event as it came off the wire, and what shall become of it.

use std::borrow::Cow;

use bytes::Bytes;

use super::{cut_field, cut_line};

/// What a visitor wants done with one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Send it on as it is.
    Forward,
    /// Leave it out.
    Drop,
    /// Send these bytes in its place; they must be whole events, closing blank line included.
    Replace(Bytes),
    /// Send nothing of this event nor of anything after it.
    Stop,
}

/// The lines of one event, each with its line end, without the blank line that closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    raw: &'a [u8],
}

// === impl Block ===

impl<'a> Block<'a> {
    /// Takes the lines of one event; the closing blank line may be there or not.
    pub fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes as they came.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The payload: the values of all `data` lines, joined by LF; empty when there is none.
    ///
    /// One data line is borrowed, several are copied.
    pub fn data(&self) -> Cow<'a, [u8]> {
        let mut values = self.fields().filter(|(name, _)| *name == b"data").map(|(_, value)| value);
        let Some(first) = values.next() else { return Cow::Borrowed(b"") };
        let Some(second) = values.next() else { return Cow::Borrowed(first) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.push(b'\n');
            joined.extend_from_slice(value);
        }
        Cow::Owned(joined)
    }

    /// The event's name: the value of the last `event` line; `None` when it has none or an empty one.
    pub fn name(&self) -> Option<&'a [u8]> {
        self.field(b"event").filter(|name| !name.is_empty())
    }

    /// The value of the last line with this field name.
    pub(crate) fn field(&self, wanted: &[u8]) -> Option<&'a [u8]> {
        self.fields().filter(|(name, _)| *name == wanted).last().map(|(_, value)| value)
    }

    /// True for the form that nearly every event has: exactly one line, a `data` line.
    pub(crate) fn is_single_data_line(&self) -> bool {
        self.raw.starts_with(b"data:") && cut_line(self.raw).is_some_and(|(_, rest)| rest.is_empty())
    }

    /// The end of the last line, which is also how the closing blank line is best written.
    pub(crate) fn line_end(&self) -> &'static [u8] {
        match self.raw {
            [.., b'\r', b'\n'] => b"\r\n",
            [.., b'\r'] => b"\r",
            _ => b"\n",
        }
    }

    fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (line, after) = cut_line(rest).unwrap_or((rest, b""));
                rest = after;
                // A comment has an empty name and is nobody's field.
                if !line.is_empty() && line[0] != b':' {
                    return Some(cut_field(line));
                }
            }
            None
        })
    }
}
