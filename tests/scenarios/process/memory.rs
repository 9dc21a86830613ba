//! What streams that wait hold, and that it is given back to the next ones. How much it is in a build that is shipped, and
//! beside others, `tests/compare` measures; here the bounds are wide.

use ntonix_tests::client::{Ask, Connection, EventStream};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use ntonix_tests::wait::eventually;

use crate::stage::config;

const STREAMS: u64 = 300;
/// Three times what one holds: one buffer of 64 KiB that stays with each would be over it.
const KIB_MOST: u64 = 75;

/// Opens the streams, up to a token of each.
async fn crowd(gateway: &Gateway, mock: &MockLlm, gate: &Gate) -> Vec<EventStream> {
    mock.always(Script::gated(2, gate));
    gate.open(usize::try_from(STREAMS).unwrap());
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        streams.push(connection.stream(Ask::streamed_chat()).await.unwrap());
    }
    for stream in &mut streams {
        stream.take(1).await.unwrap();
    }
    streams
}

#[tokio::test]
async fn streams_that_wait_hold_little_and_the_next_crowd_takes_the_same_memory() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let at_rest = gateway.process().resident_kib().unwrap();
    let mut grown = Vec::new();
    for _ in 0..2 {
        let gate = Gate::new();
        let streams = crowd(&gateway, &mock, &gate).await;
        grown.push(gateway.process().resident_kib().unwrap().saturating_sub(at_rest));
        drop(streams);
        let all_left = async || gateway.metric("ntonix_active_streams").await.is_ok_and(|streams| streams == 0.0);
        eventually("all have left", all_left).await.unwrap();
    }
    println!("{grown:?} KiB for {STREAMS} streams");
    assert!(grown[0] < STREAMS * KIB_MOST, "{} KiB for each", grown[0] / STREAMS);
    assert!(grown[1] < grown[0] + grown[0] / 2, "{grown:?} KiB: the second crowd took more");
}

/// A system that gives huge pages to whoever does not ask for them would make a stream cost megabytes.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worker_has_small_pages_only() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let id = gateway.process().id().unwrap().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
}
