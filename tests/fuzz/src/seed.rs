//! Seeds: where they come from, and how a failing one is told.

use std::thread;

use fastrand::Rng;

/// Cases of a test when nobody says how many.
const CASES: u32 = 256;

/// The seed of one case. When it is dropped by a panic, it is printed.
#[derive(Debug)]
pub struct Seed(u64);

// === impl Seed ===

impl Seed {
    /// The one in `FUZZ_SEED` (decimal), otherwise a new one.
    pub fn pick() -> Self {
        Self(given().unwrap_or_else(|| fastrand::u64(..)))
    }

    /// All that is random in the case comes from here.
    pub fn rng(&self) -> Rng {
        Rng::with_seed(self.0)
    }

    /// The number.
    pub fn number(&self) -> u64 {
        self.0
    }
}

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "it is for whoever reads why a test failed")]
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the failing case again, alone: FUZZ_SEED={}", self.0);
        }
    }
}

/// Walks again and again, each time from another seed.
pub fn walks(mut walk: impl FnMut(&mut Rng)) {
    for _ in 0..cases() {
        let seed = Seed::pick();
        walk(&mut seed.rng());
    }
}

/// How many cases a test runs: 1 for a given seed, otherwise `PROPTEST_CASES`.
pub fn cases() -> u32 {
    if given().is_some() { 1 } else { number("PROPTEST_CASES").and_then(|n| n.try_into().ok()).unwrap_or(CASES) }
}

fn given() -> Option<u64> {
    number("FUZZ_SEED")
}

#[expect(clippy::disallowed_methods, reason = "it is a setting of the tests, and no program reads it")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_leads_the_same_way_each_time() {
        let seed = Seed::pick();
        let way = || seed.rng().alphanumeric();
        assert_eq!(way(), way());
    }

    #[test]
    fn each_walk_is_another_one() {
        let mut first = Vec::new();
        walks(|rng| first.push(rng.u64(..)));
        assert_eq!(first.len(), cases() as usize);
        first.dedup();
        assert!(first.len() > 1 || cases() == 1);
    }
}
