//! Harness, scripted mock backend, scenarios, load driver.
//!
//! A scenario starts mocks and a worker (or whole processes), speaks to them over real sockets on port 0, and waits for
//! what happens: for the mock's counts, for a gate, or for a condition with a deadline. It never sleeps.

pub mod certs;
#[cfg(target_os = "linux")]
pub mod cable;
pub mod client;
pub mod fault_proxy;
pub mod gateway;
pub mod ledger;
pub mod cluster;
pub mod mock_llm;
pub mod process;
pub mod sandbox;
pub mod terminal;
pub mod wait;
pub mod worker;
