//! How many tokens a text is about, for when the backend does not say.

/// Bytes of a token, on average; OpenAI's rule of thumb for English text ("1 token ~= 4 chars").
const BYTES_PER_TOKEN: usize = 4;

/// The tokens of a text of so many bytes, rounded up. An estimate: off by half for code, by more for other scripts.
pub fn tokens(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}
