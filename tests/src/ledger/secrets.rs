//! I5: looks for the secrets of a run where they must not be.

use memchr::memmem::Finder;

use super::violation::{Invariant, Violation};

/// The secrets of a run: keys, credentials, prompts.
#[derive(Debug, Default)]
pub struct Secrets(Vec<(String, Finder<'static>)>);

// === impl Secrets ===

impl Secrets {
    /// Adds one; `name` is how a violation calls it, as it must not be shown there either.
    #[must_use]
    pub fn and(mut self, name: &str, secret: &str) -> Self {
        self.0.push((name.to_owned(), Finder::new(secret.as_bytes()).into_owned()));
        self
    }

    /// Looks at something that people or machines read; `place` is its name.
    pub fn look(&self, place: &str, text: &[u8]) -> Vec<Violation> {
        let found = self.0.iter().filter_map(|(name, secret)| Some((name, secret.find(text)?)));
        found.map(|(name, at)| Violation::new(Invariant::NoSecrets, place, format!("{name} at byte {at}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_a_secret_in_a_log_is_found_and_not_repeated() {
        let secrets = Secrets::default().and("a key", "ntx_hush").and("a prompt", "canary");
        assert_eq!(secrets.look("log", b"nothing to see"), []);
        let found = secrets.look("log", b"authorization: ntx_hush");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].invariant, found[0].what.as_str()), (Invariant::NoSecrets, "a key at byte 15"));
        assert_eq!(secrets.look("log", b"ntx_hush canary").len(), 2);
    }
}
