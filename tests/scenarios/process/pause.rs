//! O5: the whole process stands still for two seconds.

use std::time::Duration;

use ntonix_tests::client::{Ask, Connection, Socket};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{MODEL, MockLlm, Pace, Script};
use rustix::process::Signal;
use serde_json::json;

use crate::stage::{assert_fine, config};

const STREAMS: usize = 20;
const HEALTH: &str = "health: { every: 100ms, timeout: 200ms, unhealthy_after: 1 }, breaker: { failures: 1 }";

#[tokio::test]
async fn a_pause_of_the_process_ejects_no_backend_and_ends_no_stream() {
    let mock = MockLlm::start().unwrap();
    let route = "retries: 0, deadlines: { first_token: 10s, idle: 5s }";
    let gateway = Gateway::start(&config(&[&mock], HEALTH, route, ""), &[]).await.unwrap();
    mock.always(Script::Answer { tokens: 200, pace: Pace::Every(Duration::from_millis(20)) });
    let mut streams = Vec::new();
    for index in 0..STREAMS {
        let mut connection = match index % 2 {
            0 => Connection::open(gateway.address()).await.unwrap(),
            _ => Connection::open_http2(gateway.address()).await.unwrap(),
        };
        let mut stream = connection.stream(Ask::streamed_chat()).await.unwrap();
        stream.take(2).await.unwrap();
        streams.push(stream);
    }
    let mut socket = Socket::open(gateway.address(), &[]).await.unwrap();
    let body = json!({ "model": MODEL, "stream": true, "messages": [] });
    socket.send(&json!({ "t": "create", "id": "a", "op": "chat.completions", "body": body })).await.unwrap();

    gateway.process().signal(Signal::STOP).unwrap();
    // The fault itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    gateway.process().signal(Signal::CONT).unwrap();

    for stream in streams {
        let transcript = stream.rest().await.unwrap();
        assert!(transcript.is_done(), "{}", transcript.text());
    }
    let last = loop {
        let frame = socket.next().await.unwrap();
        if frame["t"] == "done" || frame["t"] == "error" {
            break frame;
        }
    };
    assert_eq!(last["t"], "done", "{last}");
    let log = gateway.process().log();
    assert!(!log.contains("Backend is unhealthy"), "{log}");
    let failures = "ntonix_backend_failures_total{pool=\"llama\",backend=\"gpu-0\"}";
    assert_eq!(gateway.metric(failures).await.unwrap(), 0.0);
    mock.always(Script::answer(1));
    let answer = Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap();
    assert_fine(&answer);
}
