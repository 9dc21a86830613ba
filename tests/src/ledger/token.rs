//! The text of a token that can be checked: whose it is, which attempt wrote it, its number, when, and a checksum.
//!
//! `<stream>.<attempt>.<number>.<ns since 1970>.<CRC-32 of all before as 8 hex digits>`, followed by one blank.

use std::fmt::{self, Display, Formatter, Write as _};

/// One token. Displayed it ends with a blank, as the mock writes it; parsed it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// The stream that it belongs to: the `user` of its request. Only letters, digits and `-`.
    pub stream: &'a str,
    /// The attempt that wrote it, unique over all mocks of a run. Only letters, digits and `-`.
    pub attempt: &'a str,
    /// Its number in that attempt, from 0.
    pub number: u64,
    /// When it was written, in ns since 1970.
    pub sent_ns: u64,
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// It does not have the parts of a token.
    #[error("not a token")]
    Form,
    /// Its checksum is that of another text.
    #[error("a token with a wrong checksum")]
    Check,
}

// === impl Token ===

impl<'a> Token<'a> {
    /// Reads one token, without the blank behind it.
    ///
    /// # Errors
    /// When the text is not what [`Token::write_to`] writes, to the byte.
    pub fn parse(text: &'a [u8]) -> Result<Self, Corrupt> {
        let text = std::str::from_utf8(text).map_err(|_| Corrupt::Form)?;
        let (checked, check) = text.rsplit_once('.').ok_or(Corrupt::Form)?;
        let mut parts = checked.split('.');
        let mut part = || parts.next().filter(|part| is_name(part)).ok_or(Corrupt::Form);
        let (stream, attempt, number, sent_ns) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some() {
            return Err(Corrupt::Form);
        }
        let number = number.parse().map_err(|_| Corrupt::Form)?;
        let sent_ns = sent_ns.parse().map_err(|_| Corrupt::Form)?;
        // Compared as text, so that no other way to write the same number passes.
        if check != format!("{:08x}", crc32(checked.as_bytes())) {
            return Err(Corrupt::Check);
        }
        Ok(Self { stream, attempt, number, sent_ns })
    }

    /// Reads every token of a text in which each is followed by a blank.
    pub fn all(text: &'a [u8]) -> impl Iterator<Item = Result<Self, Corrupt>> {
        text.split(|byte| *byte == b' ').filter(|token| !token.is_empty()).map(Self::parse)
    }

    /// Appends the token and the blank behind it.
    pub fn write_to(&self, out: &mut String) {
        let start = out.len();
        // Writing into a string cannot fail.
        let _ = write!(out, "{}.{}.{}.{}", self.stream, self.attempt, self.number, self.sent_ns);
        let check = crc32(&out.as_bytes()[start..]);
        let _ = write!(out, ".{check:08x} ");
    }
}

impl Display for Token<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(80);
        self.write_to(&mut text);
        f.write_str(&text)
    }
}

/// Whether a token can carry this as its stream or its attempt.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// CRC-32 as IEEE 802.3 has it (the one of gzip and PNG).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

/// What each value of a byte does to the remainder.
static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        // `from` is not const yet; the index is below 256.
        let mut remainder = index as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = if remainder & 1 == 1 { (remainder >> 1) ^ POLYNOMIAL } else { remainder >> 1 };
            bit += 1;
        }
        table[index] = remainder;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token<'static> = Token { stream: "u-1", attempt: "mock-7", number: 12, sent_ns: 99 };

    #[test]
    fn the_checksum_is_the_one_that_everybody_else_computes() {
        // The check value that catalogues of CRCs give.
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let text = TOKEN.to_string();
        assert!(text.starts_with("u-1.mock-7.12.99.") && text.ends_with(' '), "{text}");
        assert_eq!(Token::parse(text.trim_end().as_bytes()), Ok(TOKEN));
        let two = format!("{text}{text}");
        assert_eq!(Token::all(two.as_bytes()).collect::<Vec<_>>(), [Ok(TOKEN), Ok(TOKEN)]);
    }

    #[test]
    fn a_token_with_any_byte_changed_is_none() {
        let text = TOKEN.to_string();
        let text = text.trim_end().as_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.to_vec();
                changed[at] ^= 1 << bit;
                assert!(Token::parse(&changed).is_err(), "{}", String::from_utf8_lossy(&changed));
            }
        }
    }

    #[test]
    fn half_a_token_and_two_in_one_are_none() {
        let text = TOKEN.to_string();
        let text = text.trim_end();
        for length in 0..text.len() {
            assert!(Token::parse(&text.as_bytes()[..length]).is_err(), "{length}");
        }
        assert_eq!(Token::parse(format!("{text}{text}").as_bytes()), Err(Corrupt::Form));
        assert_eq!(Token::parse(b"t0"), Err(Corrupt::Form));
    }
}
