//! What the system is asked of sockets: seen from outside by tracing the process.

use std::collections::BTreeSet;
use std::fs;

use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::MockLlm;
use ntonix_tests::sandbox;
use ntonix_tests::wait::eventually;

use crate::stage::{assert_fine, config};

/// The descriptors that lines with `call` gave, or were about when it gives none.
fn descriptors(trace: &str, call: &str, about: &str) -> BTreeSet<u32> {
    let lines = trace.lines().filter(|line| line.contains(call) && line.contains(about));
    let descriptor = |line: &str| match call {
        // Its line is cut in two when another thread is traced in between; the address stands in the second part.
        "accept4" => line.rsplit("= ").next()?.trim().parse().ok(),
        _ => line.split(call).nth(1)?.split(',').next()?.parse().ok(),
    };
    lines.filter_map(descriptor).collect()
}

/// Item 40: a token is one small packet, which must not wait for the acknowledgement of the one before, on either side.
#[tokio::test]
async fn small_packets_leave_at_once_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let Some(wrapper) = sandbox::traced_calls("accept4,connect,setsockopt", &file) else { return };
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start_under(&wrapper, &config(&[&mock], "", "", ""), &[], &[]).await.unwrap();
    assert_fine(&Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap());

    let to_mock = format!("htons({})", mock.address().port());
    // The tracer writes in its own time.
    eventually("every socket is told", async || {
        let trace = fs::read_to_string(&file).unwrap_or_default();
        let prompt = descriptors(&trace, "setsockopt(", "TCP_NODELAY, [1]");
        let (clients, backends) =
            (descriptors(&trace, "accept4", "sin_port"), descriptors(&trace, "connect(", &to_mock));
        !clients.is_empty() && !backends.is_empty() && clients.is_subset(&prompt) && backends.is_subset(&prompt)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", fs::read_to_string(&file).unwrap_or_default()));
}
