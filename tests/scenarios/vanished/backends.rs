//! B2, and B4 to B7 when neither a FIN nor an RST arrives: backends that vanish.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use ntonix_tests::cable::{Cable, FAR};
use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Script};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;
use serde_json::json;

use super::{STALL, far_mock, took, worker};
use crate::stage::{assert_fine, assert_refused, connect};

/// How long the gateway waits for a sign of life of a backend on a connection.
const SILENT: Duration = Duration::from_secs(15);
/// The latest that it may have given up: the system looks every five seconds. What remains is for a machine under load.
/// No deadline of these routes would have ended the wait before a minute was over.
const GIVEN_UP: Duration = Duration::from_secs(40);

/// A pool of these backends, the first one asked first, and one route to it.
fn config(mocks: &[&MockLlm], http2: bool, route: &str) -> String {
    let backends = mocks.iter().enumerate();
    let backends: Vec<_> = backends
        .map(|(index, mock)| format!("{{ name: gpu-{index}, url: \"{}\", http2: {http2} }}", mock.url()))
        .collect();
    format!(
        "pools: [{{ name: llama, backends: [{}], breaker: {{ failures: 1000 }}, balance: weighted-round-robin, \
         health: {{ every: 1h }} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], {route} }}]\n",
        backends.join(", ")
    )
}

/// The only record after `before` of them, when it has come.
async fn record(worker: &TestWorker, before: usize) -> serde_json::Value {
    worker.until_records(before + 1).await.unwrap().pop().unwrap()
}

#[test]
fn b2_a_backend_whose_packets_are_dropped_is_given_up_after_the_connect_deadline() {
    Cable::lay(async |cable| {
        let (far, near) = (far_mock(cable), MockLlm::start().unwrap());
        cable.pull().unwrap();
        let alone = worker(&config(&[&far], false, "retries: 0, deadlines: { connect: 300ms }"), STALL).await;
        assert_refused(&connect(&alone).await.ask(Ask::streamed_chat()).await.unwrap(), 502, "upstream_connect");
        let gone = record(&alone, 0).await;
        assert!(gone["attempts"] == 1 && gone["outcome"] == "upstream_connect", "{gone:#}");
        assert!((Duration::from_millis(300)..SILENT).contains(&took(&gone)), "{gone:#}");

        let both = worker(&config(&[&far, &near], false, "retries: 1, deadlines: { connect: 300ms }"), STALL).await;
        assert!(connect(&both).await.transcript(Ask::streamed_chat()).await.unwrap().is_done());
        let done = record(&both, 0).await;
        assert!(done["attempts"] == 2 && done["backend"] == "gpu-1", "{done:#}");
        assert!((Duration::from_millis(300)..SILENT).contains(&took(&done)), "{done:#}");
        assert_eq!(far.counts().requests, 0);
    });
}

/// A client gets two tokens, and then the backend is gone. What it was told at the end, and the record.
async fn lost_in_mid_stream(cable: &Cable, http2: bool, route: &str) -> (String, serde_json::Value) {
    let (far, gate) = (far_mock(cable), Gate::new());
    let worker = worker(&config(&[&far], http2, route), STALL).await;
    far.next(Script::gated(5, &gate));
    gate.open(2);
    let mut stream = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
    stream.until(|transcript| transcript.content().contains("t1 ")).await.unwrap();
    cable.pull().unwrap();
    gate.open_for_good();
    let transcript = stream.rest().await.unwrap();
    assert_eq!((transcript.status(), transcript.content().as_str()), (200, "t0 t1 "), "{}", transcript.text());
    assert!(!transcript.is_done() && !transcript.text().contains("[DONE]"), "{}", transcript.text());
    assert_eq!(far.counts().cut, 0, "the cable carried the end to the backend");
    let record = record(&worker, 0).await;
    assert_eq!((&record["generated"], &record["delivered"]), (&2.into(), &2.into()), "{record:#}");
    (transcript.code(), record)
}

#[test]
fn b7_a_backend_that_vanishes_in_mid_stream_ends_it_at_the_idle_deadline() {
    Cable::lay(async |cable| {
        let (code, record) = lost_in_mid_stream(cable, false, "retries: 2, deadlines: { idle: 1s }").await;
        assert_eq!((code.as_str(), &record["outcome"]), ("upstream_timeout", &"upstream_timeout".into()));
        assert!((Duration::from_secs(1)..SILENT).contains(&took(&record)), "{record:#}");
    });
}

/// B4 with a route that has patience: a model may think for minutes, but its system answers.
#[test]
fn b4_a_backend_that_vanishes_in_mid_stream_is_missed_before_a_long_idle_deadline() {
    for http2 in [false, true] {
        Cable::lay(async |cable| {
            let (code, record) =
                lost_in_mid_stream(cable, http2, "retries: 2, heartbeat: 1s, deadlines: { idle: 10m }").await;
            assert_eq!((code.as_str(), &record["outcome"]), ("upstream_reset", &"upstream_reset".into()));
            assert!((SILENT - Duration::from_secs(5)..GIVEN_UP).contains(&took(&record)), "{record:#}");
        });
    }
}

/// A backend is asked, says nothing, and is gone once `is_time`; another one answers, before the route would have given up.
async fn lost_while_it_thinks(cable: &Cable, ask: Ask, is_time: impl AsyncFn() -> bool) {
    let (far, near) = (far_mock(cable), MockLlm::start().unwrap());
    let route = "retries: 1, deadlines: { first_token: 10m }";
    let worker = worker(&config(&[&far, &near], false, route), STALL).await;
    far.always(Script::hang());
    let mut connection = connect(&worker).await;
    let vanishing = async {
        far.attempts(1).await;
        eventually("it is time", is_time).await.unwrap();
        cable.pull().unwrap();
    };
    let (answer, ()) = tokio::join!(connection.ask(ask), vanishing);
    assert_fine(&answer.unwrap());
    let record = record(&worker, 0).await;
    assert!(record["attempts"] == 2 && record["backend"] == "gpu-1", "{record:#}");
    assert!((SILENT..GIVEN_UP).contains(&took(&record)), "{record:#}");
}

/// B3: nothing of an answer has come, so that another backend is asked.
#[test]
fn b3_a_backend_that_vanishes_while_it_thinks_is_missed_before_a_long_first_token_deadline() {
    Cable::lay(async |cable| {
        // An answer in one piece: the head of a stream would leave earlier.
        lost_while_it_thinks(cable, Ask::chat(), async || true).await;
    });
}

/// B3 with a prompt that a backend may be too busy to read: this one has read it, so that nothing is on its way whose
/// acknowledgement would be missed.
#[test]
fn b3_a_backend_that_vanishes_with_all_of_a_large_prompt_is_missed_as_soon() {
    Cable::lay(async |cable| {
        let large = Ask::chat_with(json!({ "messages": [{ "role": "user", "content": "x".repeat(1 << 20) }] }));
        lost_while_it_thinks(cable, large, async || unacknowledged().is_some_and(|bytes| bytes == "00000000")).await;
    });
}

/// A worker with a connection to a backend that lies idle and leads nowhere any more, and its client.
async fn idle_and_lost(cable: &Cable, far: &MockLlm, near: &MockLlm) -> (TestWorker, ntonix_tests::client::Connection) {
    let route = "retries: 1, deadlines: { connect: 300ms, first_token: 10m }";
    let worker = worker(&config(&[far, near], false, route), STALL).await;
    // The same client is served by the same thread, which has the connections that it opened.
    let mut connection = connect(&worker).await;
    for _ in 0..2 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    assert_eq!((far.counts().attempts, near.counts().attempts), (1, 1));
    cable.pull().unwrap();
    (worker, connection)
}

#[test]
fn b2_an_idle_connection_that_leads_nowhere_holds_the_next_request_up_for_a_bounded_time() {
    Cable::lay(async |cable| {
        let (far, near) = (far_mock(cable), MockLlm::start().unwrap());
        let (worker, mut connection) = idle_and_lost(cable, &far, &near).await;
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        let record = record(&worker, 2).await;
        assert!(record["attempts"] == 2 && record["backend"] == "gpu-1", "{record:#}");
        assert!(took(&record) < GIVEN_UP, "{record:#}");
        assert_eq!((far.counts().attempts, near.counts().attempts), (1, 2));
    });
}

#[test]
fn b2_an_idle_connection_that_leads_nowhere_is_found_before_the_next_request() {
    Cable::lay(async |cable| {
        let (far, near) = (far_mock(cable), MockLlm::start().unwrap());
        let (worker, mut connection) = idle_and_lost(cable, &far, &near).await;
        eventually("the system gives the connection up", async || unacknowledged().is_none()).await.unwrap();
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        let record = record(&worker, 2).await;
        assert!(record["attempts"] == 2 && record["backend"] == "gpu-1", "{record:#}");
        // Only the deadline of a new connection.
        assert!((Duration::from_millis(300)..SILENT - Duration::from_secs(5)).contains(&took(&record)), "{record:#}");
    });
}

/// B24 over HTTP/1.1: its system is there, but has no room for the rest of the request, and makes none. It may be busy, so
/// that only the route says how long it may take. No cable is needed.
#[tokio::test]
async fn a_backend_that_reads_nothing_of_a_large_request_has_until_the_first_token_deadline() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "pools: [{{ name: p, health: {{ every: 1h }}, backends: [{{ name: deaf, url: \"http://{}\" }}] }}]\n\
         routes: [{{ model: \"*\", retries: 1, deadlines: {{ first_token: 3s }}, targets: [{{ pool: p }}] }}]\n",
        deaf.local_addr().unwrap()
    );
    let worker = TestWorker::start(&config).await.unwrap();
    let large = Ask::chat_with(json!({ "messages": [{ "role": "user", "content": "x".repeat(16 << 20) }] }));
    let answer = connect(&worker).await.ask(large).await.unwrap();
    assert_eq!(answer.status(), 504, "{}", answer.text());
    assert!(answer.text().contains("no whole answer within 3s"), "{}", answer.text());
    let record = record(&worker, 0).await;
    assert!(record["attempts"] == 1 && record["outcome"] == "upstream_timeout", "{record:#}");
    assert!((Duration::from_secs(3)..SILENT).contains(&took(&record)), "{record:#}");
}

/// What of the connection from the near end to the far one is not acknowledged, in bytes as the system writes them; `None`
/// without one that is established as far as the system knows.
fn unacknowledged() -> Option<String> {
    let far = format!("{:08X}:", u32::from_ne_bytes(FAR.octets()));
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    // proc_net_tcp: number, local address, remote address, state, tx_queue:rx_queue; 01 is "established".
    let mut connections = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let there = connections.find(|fields| fields.len() > 4 && fields[2].starts_with(&far) && fields[3] == "01")?;
    there[4].split(':').next().map(str::to_owned)
}
