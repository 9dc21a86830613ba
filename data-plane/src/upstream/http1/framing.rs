//! Where the body of an answer ends (RFC 9112 §6 and §7), as a state machine over bytes: no socket, no clock.

use bytes::{BufMut as _, BytesMut};

/// A line with the size of a chunk, or the trailers: none of it is of use to us, so it need not be long.
const SKIPPED_MOST: u32 = 16 * 1024;

/// Finds the body in what follows a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// All up to the end of the connection.
    UntilClose,
    /// The body is over.
    Ended,
}

/// Where in chunks we are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    part: Part,
    /// The size as far as it is known; later, what is still to come.
    left: u64,
    /// How much of this line, or of the trailers, was skipped.
    skipped: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first digit of the size.
    Size,
    /// More digits, or the end of the line.
    Digits,
    /// What follows the size on its line: blanks and extensions.
    Extension,
    /// The LF of that line.
    SizeLf,
    Data,
    /// The CR after the data.
    DataCr,
    DataLf,
    /// The start of a line after the last chunk.
    Trailer,
    /// Inside of a trailer.
    TrailerText,
    /// The LF after a trailer.
    TrailerLf,
    /// The LF that ends it all.
    LastLf,
}

/// What came is not framed as RFC 9112 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// The size of a chunk is no hexadecimal number.
    #[error("the size of a chunk is no number")]
    Size,
    /// The size of a chunk needs more than 64 bits.
    #[error("the size of a chunk is too large")]
    TooLarge,
    /// A line does not end with CR LF, or a chunk is longer than its size.
    #[error("a chunk does not end where its size says")]
    LineEnd,
    /// Extensions of a chunk, or trailers, that are too long.
    #[error("what surrounds a chunk is too long")]
    TooLong,
}

// === impl Framing ===

impl Framing {
    /// Chunks that have not begun.
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunk { part: Part::Size, left: 0, skipped: 0 })
    }

    /// Is the body over?
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Ended | Self::Length(0))
    }

    /// May the connection end here?
    pub(crate) fn may_end(&self) -> bool {
        self.is_end() || *self == Self::UntilClose
    }

    /// Adds what `input` has of the body to `body`; says how many bytes of `input` that took. What it leaves comes after
    /// the end of the body.
    pub(crate) fn decode(&mut self, input: &[u8], body: &mut BytesMut) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                body.put_slice(&input[..taken]);
                *left -= taken as u64;
                Ok(taken)
            }
            Self::UntilClose => {
                body.put_slice(input);
                Ok(input.len())
            }
            Self::Chunked(chunk) => {
                let (taken, is_end) = chunk.decode(input, body)?;
                if is_end {
                    *self = Self::Ended;
                }
                Ok(taken)
            }
            Self::Ended => Ok(0),
        }
    }
}

// === impl Chunk ===

impl Chunk {
    /// What was taken, and whether that was all.
    fn decode(&mut self, input: &[u8], body: &mut BytesMut) -> Result<(usize, bool), Malformed> {
        let mut at = 0;
        while at < input.len() {
            if self.part == Part::Data {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                body.put_slice(&input[at..at + taken]);
                at += taken;
                self.left -= taken as u64;
                if self.left == 0 {
                    self.part = Part::DataCr;
                }
                continue;
            }
            let byte = input[at];
            at += 1;
            match self.step(byte)? {
                Some(part) => self.part = part,
                None => return Ok((at, true)),
            }
        }
        Ok((at, false))
    }

    /// One byte that is no data. `None`: it was the last.
    fn step(&mut self, byte: u8) -> Result<Option<Part>, Malformed> {
        Ok(Some(match (self.part, byte) {
            (Part::Size, _) => {
                (self.left, self.skipped) = (digit(byte).ok_or(Malformed::Size)?, 0);
                Part::Digits
            }
            (Part::Digits | Part::Extension, b'\r') => Part::SizeLf,
            (Part::Digits, b';' | b' ' | b'\t') => Part::Extension,
            (Part::Digits, _) => {
                let digit = digit(byte).ok_or(Malformed::Size)?;
                self.left = self.left.checked_mul(16).ok_or(Malformed::TooLarge)? + digit;
                Part::Digits
            }
            (Part::Extension, b'\n') => return Err(Malformed::LineEnd),
            (Part::Extension, _) => self.skip(Part::Extension)?,
            (Part::SizeLf, b'\n') if self.left == 0 => {
                self.skipped = 0;
                Part::Trailer
            }
            (Part::SizeLf, b'\n') => Part::Data,
            (Part::DataCr, b'\r') => Part::DataLf,
            (Part::DataLf, b'\n') => Part::Size,
            (Part::Trailer, b'\r') => Part::LastLf,
            (Part::TrailerText, b'\r') => Part::TrailerLf,
            (Part::Trailer | Part::TrailerText, b'\n') => return Err(Malformed::LineEnd),
            (Part::Trailer | Part::TrailerText, _) => self.skip(Part::TrailerText)?,
            (Part::TrailerLf, b'\n') => Part::Trailer,
            (Part::LastLf, b'\n') => return Ok(None),
            _ => return Err(Malformed::LineEnd),
        }))
    }

    fn skip(&mut self, part: Part) -> Result<Part, Malformed> {
        self.skipped += 1;
        if self.skipped > SKIPPED_MOST { Err(Malformed::TooLong) } else { Ok(part) }
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces that end at `cuts`; gives the body, and what came after it.
    pub(super) fn decode(
        mut framing: Framing,
        input: &[u8],
        cuts: &[usize],
    ) -> Result<(Vec<u8>, usize, Framing), Malformed> {
        let mut body = BytesMut::new();
        let mut taken = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
        ends.sort_unstable();
        for end in ends {
            if end > taken && !framing.is_end() {
                taken += framing.decode(&input[taken..end], &mut body)?;
            }
        }
        Ok((body.to_vec(), input.len() - taken, framing))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let cases: [(Framing, &str, &str, usize, bool); 9] = [
            (Framing::Length(2), "okHTTP", "ok", 4, true),
            (Framing::Length(0), "HTTP", "", 4, true),
            (Framing::Length(9), "ok", "ok", 0, false),
            (Framing::UntilClose, "all of it", "all of it", 0, false),
            (Framing::chunked(), "2\r\nok\r\n0\r\n\r\n", "ok", 0, true),
            (Framing::chunked(), "02 ;a=b\r\nok\r\n1\r\n!\r\n0\r\nx: y\r\nz: \r\n\r\nHTTP", "ok!", 4, true),
            (Framing::chunked(), "a\r\n0123456789\r\n", "0123456789", 0, false),
            (Framing::chunked(), "0\r\n\r", "", 0, false),
            (Framing::chunked(), "000A\r\n0123456789\r\n0;last\r\n\r\n", "0123456789", 0, true),
        ];
        for (framing, input, body, after, is_end) in cases {
            let (seen, left, framing) = decode(framing, input.as_bytes(), &[]).unwrap();
            assert_eq!((&*seen, left, framing.is_end()), (body.as_bytes(), after, is_end), "{input:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_told() {
        let long = format!("1;{}\r\n", "x".repeat(20_000));
        let trailers = format!("0\r\n{}", "x: y\r\n".repeat(5_000));
        let cases = [
            ("ok\r\n", Malformed::Size),
            ("\r\n", Malformed::Size),
            ("-1\r\n", Malformed::Size),
            ("0x2\r\nok", Malformed::Size),
            ("1g\r\n", Malformed::Size),
            ("10000000000000000\r\n", Malformed::TooLarge),
            ("2\nok\r\n", Malformed::Size),
            ("2\r\nokay\r\n", Malformed::LineEnd),
            ("2\r\nok\n", Malformed::LineEnd),
            ("2\r\nok\rx", Malformed::LineEnd),
            ("2;a\n", Malformed::LineEnd),
            ("0\r\n\n", Malformed::LineEnd),
            ("0\r\nx: y\n", Malformed::LineEnd),
            (&long, Malformed::TooLong),
            (&trailers, Malformed::TooLong),
        ];
        for (input, malformed) in cases {
            assert_eq!(decode(Framing::chunked(), input.as_bytes(), &[]).unwrap_err(), malformed, "{input:?}");
        }
    }

    #[test]
    fn only_what_has_no_length_of_its_own_may_end_with_the_connection() {
        assert!(Framing::UntilClose.may_end() && Framing::Length(0).may_end() && Framing::Ended.may_end());
        assert!(!Framing::Length(1).may_end() && !Framing::chunked().may_end());
    }
}

/// Over all there may be, with more cases in the stage `fuzz`.
#[cfg(test)]
mod fuzz {
    use proptest::prelude::*;

    use super::{tests::decode, *};

    proptest! {
        #[test]
        fn it_does_not_matter_where_chunks_are_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
            after in "[ -~]{0,8}",
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            input.extend_from_slice(after.as_bytes());
            let (body, left, framing) = decode(Framing::chunked(), &input, &cuts).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!((left, framing), (after.len(), Framing::Ended));
        }

        #[test]
        fn bytes_are_never_made_up(input in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
            let whole = decode(Framing::chunked(), &input, &[]);
            let pieces = decode(Framing::chunked(), &input, &cuts);
            if let Ok((body, left, _)) = &whole {
                prop_assert!(body.len() + left <= input.len());
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
