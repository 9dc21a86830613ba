//! Clients that do wrong: rows C1 to C13 of the fault matrix, beside those that have a place of their own.
//!
//! C2 (a client that vanishes without a word) needs a cable to pull, in `vanished`. C3, C8 and C9 also stand in
//! `records.rs` and `cancel.rs`; clocks of C5 and C11 in the listener's own tests.

mod raw_socket;

mod faults;
mod frames;
#[cfg(target_os = "linux")]
mod stalled;
mod fairness;
