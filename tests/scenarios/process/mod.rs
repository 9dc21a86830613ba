//! What happens to the process: rows O1 to O15 of the fault matrix, beside those that have a place of their own.
//!
//! O8 stands in `drain.rs` (a second signal) and in `planes/` (SIGKILL); O12 beside the code that may panic, in the data
//! plane's unit tests; O15 in `settings.rs`.

mod clock;
mod crowded_drain;
mod descriptors;
mod log;
mod memory;
mod pause;
mod told;
