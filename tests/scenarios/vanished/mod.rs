//! Peers that vanish without a word, as behind a pulled cable: every packet is dropped, in both directions. Rows C2, B2 and
//! what is left of the others when a backend says nothing because nothing of it arrives. They need root; without it they
//! say so.

mod clients;
mod backends;

use std::time::Duration;

use ntonix_tests::cable::{Cable, NEAR};
use ntonix_tests::mock_llm::{self, MockLlm};
use ntonix_tests::worker::TestWorker;

/// How long a client may take nothing in these scenarios.
const STALL: Duration = Duration::from_secs(2);

/// A worker that clients at the far end reach, too.
async fn worker(config: &str, stall: Duration) -> TestWorker {
    let reachable = |traffic: &mut ntonix_data_plane::TrafficArgs| {
        traffic.listen = (NEAR, 0).into();
        traffic.allow_anonymous = true;
        traffic.client_stall = stall;
    };
    TestWorker::start_with(config, reachable).await.unwrap()
}

/// A backend at the far end.
fn far_mock(cable: &Cable) -> MockLlm {
    MockLlm::start_on(cable.listen().unwrap(), mock_llm::Options::default()).unwrap()
}

/// How long an exchange took, as its record says.
fn took(record: &serde_json::Value) -> Duration {
    println!("{} after {} ms over {}", record["outcome"], record["total_ms"], record["transport"]);
    Duration::from_secs_f64(record["total_ms"].as_f64().unwrap() / 1000.0)
}
