//! C6, O1 and O2: no descriptors, or no places, are left.

use std::time::Duration;

use ntonix_tests::client::{Ask, Connection, EventStream, RawConnection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MockLlm, Pace, Script};
use ntonix_tests::wait::eventually;

use crate::stage::{assert_fine, config};

/// What a worker of two threads needs for itself (25), and little more.
const FEW: u32 = 44;
/// More than half of what is left, so that there is not a second one for each.
const CLIENTS: u32 = 12;
/// Checks come often, so that one that finds no descriptor would take the backend out.
const WATCHED: &str = "health: { every: 100ms, timeout: 100ms, unhealthy_after: 1 }, breaker: { failures: 1 }";

/// A live stream that gives a token each 20 ms: a clock that also shows that streams live on.
async fn ticking(mock: &MockLlm, gateway: &Gateway) -> EventStream {
    mock.next(Script::Answer { tokens: 100_000, pace: Pace::Every(Duration::from_millis(20)) });
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    connection.stream(Ask::streamed_chat()).await.unwrap()
}

async fn assert_backend_is_well(gateway: &Gateway) {
    let healthy = "ntonix_backend_state{pool=\"llama\",backend=\"gpu-0\",state=\"healthy\"}";
    assert_eq!(gateway.metric(healthy).await.unwrap(), 1.0);
    let failures = "ntonix_backend_failures_total{pool=\"llama\",backend=\"gpu-0\"}";
    assert_eq!(gateway.metric(failures).await.unwrap(), 0.0, "no failure of the backend");
    assert!(!gateway.process().log().contains("Backend is unhealthy"), "{}", gateway.process().log());
}

/// O1 and O2 together, as they come: each stream takes two descriptors until none is left.
#[tokio::test]
async fn a_worker_without_descriptors_keeps_its_streams_blames_no_backend_does_not_spin_and_recovers() {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    let gateway = Gateway::start_limited(&config(&[&mock], WATCHED, "retries: 0", ""), &[], FEW).await.unwrap();
    let mut clock = ticking(&mock, &gateway).await;
    mock.always(Script::gated(3, &gate));

    // Whoever is accepted and finds no descriptor for its backend is told so; then nobody is accepted any more.
    let (mut streams, mut refused, mut waiting) = (Vec::new(), 0, Vec::new());
    while !gateway.process().log().contains("Accept failed") {
        assert!(streams.len() + waiting.len() < FEW as usize, "it takes everyone: {}", gateway.process().log());
        let mut raw = RawConnection::open(gateway.address()).await.unwrap();
        raw.send(Ask::chat_with(serde_json::json!({ "stream": true })).wire()).await.unwrap();
        waiting.push(raw);
        let before = mock.counts().attempts;
        let decided = async || {
            mock.counts().attempts > before
                || gateway.process().log().contains("Accept failed")
                || gateway.process().log().matches("\"outcome\":\"overloaded\"").count() > refused
        };
        eventually("the gateway decides", decided).await.unwrap();
        if mock.counts().attempts > before {
            streams.extend(waiting.pop());
        } else if gateway.process().log().matches("\"outcome\":\"overloaded\"").count() > refused {
            refused += 1;
            let head = waiting.last_mut().unwrap().read_until("\r\n\r\n").await.unwrap();
            assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: "), "{head}");
        }
    }
    println!("{} streams, {refused} refused, {} wait", streams.len(), waiting.len() - refused);
    assert!(streams.len() >= 3);

    // A second of it, told by a stream that lives on.
    let before = gateway.process().cpu_time().unwrap();
    clock.take(50).await.unwrap();
    let used = gateway.process().cpu_time().unwrap() - before;
    // It is a twentieth in an unoptimised build; a loop that spins takes one or two whole processors.
    assert!(used < Duration::from_millis(400), "{used:?} in a second");

    // All that was refused or waits goes, and one stream after the other ends: there are descriptors again.
    drop(waiting);
    gate.open_for_good();
    for mut stream in streams {
        let answer = stream.read_until("[DONE]").await.unwrap();
        assert!(answer.contains("t2 "), "{answer}");
    }
    clock.take(1).await.unwrap();
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    drop(clock);
    assert_backend_is_well(&gateway).await;
}

/// O2 alone: the sockets of backends are the ones that are missing. The clients are all there before the first request,
/// so that it does not depend on how many descriptors the worker itself has who is left without one.
#[tokio::test]
async fn a_request_that_finds_no_descriptor_for_its_backend_is_refused_as_overloaded() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start_limited(&config(&[&mock], WATCHED, "retries: 0", ""), &[], FEW).await.unwrap();
    mock.always(Script::hang());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(RawConnection::open(gateway.address()).await.unwrap());
    }
    let accepted = async || gateway.metric("ntonix_client_connections").await.unwrap() == f64::from(CLIENTS);
    eventually("all are accepted", accepted).await.unwrap();

    let mut asked = Vec::new();
    let refused = loop {
        let mut client = clients.pop().expect("a backend's socket for everyone");
        client.send(Ask::chat().wire()).await.unwrap();
        let head = tokio::select! {
            head = client.read_until("\r\n\r\n") => Some(head.unwrap()),
            _ = mock.attempts(asked.len() + 1) => None,
        };
        match head {
            Some(head) => break head + &client.read_until("}}").await.unwrap(),
            None => asked.push(client),
        }
    };
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\"code\":\"overloaded\""), "{refused}");
    assert!(refused.contains("retry-after: "), "{refused}");
    drop((asked, clients));
    mock.until(|counts| counts.active == 0).await;
    mock.always(Script::answer(1));
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    assert_backend_is_well(&gateway).await;
}

/// C6: beyond its places a worker leaves connections to the system, which holds them until there is one.
#[tokio::test]
async fn a_flood_of_connections_waits_outside_and_harms_nobody_inside() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start_limited(&config(&[&mock], "", "", ""), &[], 256).await.unwrap();
    let mut clock = ticking(&mock, &gateway).await;
    clock.take(1).await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..300 {
        flood.push(RawConnection::open(gateway.address()).await.unwrap());
    }
    // Of 256 descriptors 128 are the worker's own, and each connection may need a second one for its backend.
    eventually("its places are taken", async || gateway.metric("ntonix_client_connections").await.unwrap() == 64.0)
        .await
        .unwrap();
    let mut late = RawConnection::open(gateway.address()).await.unwrap();
    late.send(Ask::chat().wire()).await.unwrap();
    clock.take(50).await.unwrap();
    assert_eq!(gateway.metric("ntonix_client_connections").await.unwrap(), 64.0);
    assert_eq!(mock.counts().attempts, 1, "whoever waits outside is not served");
    drop(flood);
    assert!(late.read_until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 200 "));
    clock.take(1).await.unwrap();
    assert!(!gateway.process().log().contains("Accept failed"));
}
