//! Keys as clients show them, what is kept of them, and values that must not be printed.

use std::fmt;

use aws_lc_rs::digest;

/// What is kept of a key: the SHA-256 of all of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

/// A value that is shown to nobody but the one who needs it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

/// Makes a key from 32 random bytes: "ntx_" and 43 characters of base62, which hold all 256 bits.
#[must_use]
pub fn key_from_entropy(entropy: &[u8; 32]) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = *entropy;
    let digits: String = (0..43).map(|_| char::from(LETTERS[usize::from(divide_by_62(&mut number))])).collect();
    format!("ntx_{digits}")
}

/// Divides a big-endian number in place and returns the remainder.
fn divide_by_62(number: &mut [u8; 32]) -> u8 {
    let mut rest: u16 = 0;
    for byte in number {
        let part = (rest << 8) | u16::from(*byte);
        // Both fit: the remainder before was below 62, so the part is below 62 * 256.
        *byte = (part / 62) as u8;
        rest = part % 62;
    }
    rest as u8
}

// === impl KeyDigest ===

impl KeyDigest {
    /// The digest of a key as the client sends it.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(sha256([secret]))
    }

    /// Reads "sha256:" and 64 lower-case hex digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (hex_value(pair[0])? << 4) | hex_value(pair[1])?;
        }
        Some(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// SHA-256 over the parts, one after the other.
pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.into_iter().for_each(|part| context.update(part));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

// === impl SecretValue ===

impl SecretValue {
    /// Takes a value out of sight.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself; never for a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_digest_is_refused() {
        let good = KeyDigest::of(b"a").to_string();
        for bad in
            ["", "sha256:", &good[7..], &good[..70], &good.to_uppercase(), &good.replace('a', "g"), &format!("{good}0")]
        {
            assert_eq!(KeyDigest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_digest_is_read_back_as_it_was_written() {
        let digest = KeyDigest::of(b"test");
        assert_eq!(digest.to_string(), "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
        assert_eq!(KeyDigest::parse(&digest.to_string()), Some(digest));
    }

    #[test]
    fn a_key_holds_all_of_its_entropy() {
        assert_eq!(key_from_entropy(&[0; 32]), format!("ntx_{}", "0".repeat(43)));
        let mut one = [0; 32];
        one[31] = 61;
        assert_eq!(key_from_entropy(&one), format!("ntx_z{}", "0".repeat(42)));
        let most = key_from_entropy(&[255; 32]);
        assert_eq!(most.len(), 47);
        assert_ne!(most, key_from_entropy(&[254; 32]));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", SecretValue::new("hunter2".to_owned())), "…");
    }
}
