//! One line of a script as a row of words, each with its column, so that a fault can say where it is.

use std::time::Duration;

use bytes::Bytes;
use ntonix_config::nearest;

use super::Fault;

/// A line that is read from left to right.
#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    number: usize,
    text: &'a str,
    /// How far it was read, in bytes.
    at: usize,
    /// Where the part that was read last begins, in bytes.
    begin: usize,
}

// === impl Line ===

impl<'a> Line<'a> {
    pub(super) fn new(number: usize, text: &'a str) -> Self {
        Self { number, text, at: 0, begin: 0 }
    }

    /// A fault at the part that was read last.
    pub(super) fn fault(&self, reason: impl Into<String>) -> Fault {
        let column = self.text[..self.begin].chars().count() + 1;
        Fault { line: self.number, column, reason: reason.into() }
    }

    /// The next word; `None` at the end of the line or at a comment.
    pub(super) fn word(&mut self) -> Option<&'a str> {
        self.skip_blanks();
        let rest = &self.text[self.at..];
        if rest.is_empty() || rest.starts_with('#') {
            return None;
        }
        let word = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
        self.at += word.len();
        Some(word)
    }

    /// The word that must stand here.
    pub(super) fn needed(&mut self, what: &str) -> Result<&'a str, Fault> {
        self.word().ok_or_else(|| self.fault(format!("{what} is missing")))
    }

    /// One of these words.
    pub(super) fn one_of<T: Copy>(&mut self, what: &str, known: &[(&'static str, T)]) -> Result<T, Fault> {
        let word = self.needed(what)?;
        if let Some((_, value)) = known.iter().find(|(name, _)| *name == word) {
            return Ok(*value);
        }
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(word, names.iter().copied()) {
            Some(name) => format!("did you mean {name:?}?"),
            None => format!("there are: {}", names.join(", ")),
        };
        Err(self.fault(format!("{word:?} is no {what}; {hint}")))
    }

    /// A whole number in a range.
    pub(super) fn number(&mut self, what: &str, most: u64) -> Result<u64, Fault> {
        let word = self.needed(what)?;
        let number = word.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| self.fault(format!("{what} is a whole number up to {most}, not {word:?}")))
    }

    /// A number of bytes: `1000`, `64KiB`, `100MiB`.
    pub(super) fn size(&mut self, what: &str) -> Result<usize, Fault> {
        let word = self.needed(what)?;
        let (digits, unit) = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
            .into_iter()
            .find_map(|(name, unit)| Some((word.strip_suffix(name)?, unit)))
            .unwrap_or((word, 1));
        let size = digits.parse::<usize>().ok().and_then(|count| count.checked_mul(unit));
        size.ok_or_else(|| self.fault(format!("{what} is a number of bytes such as 120 or 64KiB, not {word:?}")))
    }

    /// A time such as `20ms`.
    pub(super) fn time(&mut self, what: &str) -> Result<Duration, Fault> {
        let word = self.needed(what)?;
        humantime::parse_duration(word)
            .map_err(|_| self.fault(format!("{what} is a time such as 20ms or 1s, not {word:?}")))
    }

    /// Whether this word stands here; it is read then.
    pub(super) fn has(&mut self, word: &str) -> bool {
        let before = self.clone();
        if self.word() == Some(word) {
            return true;
        }
        *self = before;
        false
    }

    /// `every TIME`, when it stands here.
    pub(super) fn every(&mut self) -> Result<Option<Duration>, Fault> {
        if self.has("every") { self.time("the time between two").map(Some) } else { Ok(None) }
    }

    /// The rest of the line as it stands.
    pub(super) fn rest(&mut self) -> &'a str {
        self.skip_blanks();
        let rest = self.text[self.at..].trim_end();
        self.at = self.text.len();
        rest
    }

    /// Whether a text in quotes comes next.
    pub(super) fn has_quote(&mut self) -> bool {
        self.skip_blanks();
        self.text[self.at..].starts_with('"')
    }

    /// A text in quotes: `\n \r \t \0 \" \\` and `\xNN`, which is any byte.
    pub(super) fn quoted(&mut self) -> Result<Bytes, Fault> {
        if !self.has_quote() {
            return Err(self.fault("a text in quotes is missing"));
        }
        let mut bytes = Vec::new();
        let mut chars = self.text[self.at + 1..].char_indices();
        let start = self.at + 1;
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.at = start + at + 1;
                    return Ok(bytes.into());
                }
                '\\' => {
                    let escape = chars.next().map(|(_, char)| char);
                    let Some(byte) = unescape(escape, &mut chars) else {
                        self.begin = start + at;
                        return Err(self.fault("this escape is none of \\n \\r \\t \\0 \\\" \\\\ \\xNN"));
                    };
                    bytes.push(byte);
                }
                char => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Err(self.fault("this text has no closing quote"))
    }

    /// Nothing more stands here.
    pub(super) fn ended(&mut self) -> Result<(), Fault> {
        match self.word() {
            None => Ok(()),
            Some(word) => Err(self.fault(format!("{word:?} is one word too many"))),
        }
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.begin = self.at;
    }
}

fn unescape(escape: Option<char>, chars: &mut std::str::CharIndices<'_>) -> Option<u8> {
    match escape? {
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        '0' => Some(0),
        '"' => Some(b'"'),
        '\\' => Some(b'\\'),
        'x' => {
            let mut digit = || chars.next()?.1.to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()
        }
        _ => None,
    }
}
