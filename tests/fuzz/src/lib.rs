//! Random walks from a seed, and inputs made by mutating a kept corpus: the same small tool for the tests of every crate.
//!
//! Each case has a seed of its own. When a case fails, its seed is printed, and `FUZZ_SEED=<seed>` runs that case alone.
//! `PROPTEST_CASES` says how many cases each test runs, as it does for the property tests; `./tests/run fuzz` raises it.

mod corpus;
mod mutate;
mod seed;

pub use corpus::fuzz;
pub use fastrand::Rng;
pub use mutate::mutate;
pub use seed::{Seed, cases, walks};
