//! The planes apart, as processes: a change reaches the workers, and nothing that goes wrong between them reaches a client.

mod books;
mod scripted;

mod push;
mod away;
mod killed;
mod full;
mod refused;
mod simulated;
mod writers;

use ntonix_tests::client::Ask;
use ntonix_tests::cluster::WorkerProcess;
use ntonix_tests::mock_llm::MockLlm;

use crate::stage::{assert_fine, config};

/// A configuration that sends everything to one mock.
fn to(mock: &MockLlm) -> String {
    config(&[mock], "", "", "")
}

/// A new client is served.
async fn assert_serves(worker: &WorkerProcess) {
    assert_fine(&worker.connect().await.unwrap().ask(Ask::chat()).await.unwrap());
}

/// How many answers a mock has begun.
fn asked(mock: &MockLlm) -> usize {
    mock.counts().attempts
}
