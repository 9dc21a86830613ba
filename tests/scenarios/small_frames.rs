//! The trap of small HTTP/2 frames: `h2` closes a whole connection when too many of them lie unread, and a client that
//! stalls leaves them unread. Decision 5 says how many streams may share a connection; here nobody's sibling fails.

use std::collections::BTreeMap;

use ntonix_tests::client::{Ask, Connection, EventStream, Socket};
use ntonix_tests::mock_llm::{Ended, Gate, MODEL, MockLlm, Pace, Script, Step};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;
use serde_json::json;

use crate::stage::{assert_fine, connect};

/// More than a stream's window of 64 KiB holds.
const TOKENS: u64 = 500;
/// What is surely in a window that is full.
const IN_A_WINDOW: u64 = 250;
/// Streams on a connection to a backend.
const SHARED: usize = 8;

/// Tokens in frames of at most so many bytes; the first at once and the others when `gate` lets them.
fn script(bytes: usize, gate: Option<&Gate>) -> Script {
    let pace = gate.map_or(Pace::Fast, |gate| Pace::Gate(gate.clone()));
    Script::Stream(vec![
        Step::Frames(bytes),
        Step::Role,
        Step::Tokens { count: TOKENS, pace },
        Step::finish("stop"),
        Step::Done,
    ])
}

/// A worker of one thread, so that its streams share connections.
async fn worker(mock: &MockLlm) -> TestWorker {
    let config = format!(
        "pools: [{{ name: llama, backends: [{{ name: gpu-0, url: \"{}\", http2: true }}], breaker: {{ failures: 1 }} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], retries: 0 }}]\n",
        mock.url()
    );
    TestWorker::start_with(&config, |traffic| traffic.threads = Some(1)).await.unwrap()
}

/// Streams of clients that give no credit, and one that reads beside each seven of them.
struct Party {
    socket: Socket,
    live: Vec<EventStream>,
}

/// Waits until the backend of every stalled stream can write no more.
async fn all_stand_still(mock: &MockLlm, stalled: usize) {
    let mut before = 0;
    let still = async || {
        let written: Vec<u64> = mock.ledger().iter().map(|attempt| attempt.tokens).collect();
        let total = written.iter().sum();
        let full = written.iter().filter(|tokens| **tokens >= IN_A_WINDOW).count();
        full == stalled && std::mem::replace(&mut before, total) == total
    };
    eventually("the windows are full", still).await.unwrap();
}

async fn gather(worker: &TestWorker, mock: &MockLlm, stalled: usize, bytes: usize, gate: &Gate) -> Party {
    let mut socket = Socket::open(worker.address(), &[]).await.unwrap();
    socket.send(&json!({ "t": "hello", "flow": "credit" })).await.unwrap();
    let mut live = Vec::new();
    for index in 0..stalled {
        if index % (SHARED - 1) == 0 {
            mock.next(script(bytes, Some(gate)));
            live.push(connect(worker).await.stream(Ask::streamed_chat()).await.unwrap());
        }
        let attempts = mock.counts().attempts;
        let body = json!({ "model": MODEL, "stream": true, "messages": [] });
        let create =
            json!({ "t": "create", "id": format!("s{index}"), "op": "chat.completions", "window": 1, "body": body });
        socket.send(&create).await.unwrap();
        mock.attempts(attempts + 1).await;
    }
    Party { socket, live }
}

/// Gives all streams of the socket credit and reads them to their ends.
async fn assert_all_end_well(mut socket: Socket, stalled: usize) {
    socket.send(&json!({ "t": "window", "add": 1_000_000_000 })).await.unwrap();
    for index in 0..stalled {
        socket.send(&json!({ "t": "window", "id": format!("s{index}"), "add": 1_000_000_000 })).await.unwrap();
    }
    let mut deltas: BTreeMap<String, u64> = BTreeMap::new();
    let mut done = 0;
    while done < stalled {
        let frame = socket.next().await.unwrap();
        match frame["t"].as_str().unwrap() {
            "delta" => *deltas.entry(frame["id"].to_string()).or_default() += 1,
            "done" => done += 1,
            "error" => panic!("{frame}"),
            _ => {}
        }
    }
    // The role and the finish are events too.
    assert!(deltas.len() == stalled && deltas.values().all(|count| *count == TOKENS + 2), "{deltas:?}");
}

async fn nobody_fails(stalled: usize, bytes: usize) {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    let worker = worker(&mock).await;
    mock.always(script(bytes, None));
    let Party { socket, live } = gather(&worker, &mock, stalled, bytes, &gate).await;
    all_stand_still(&mock, stalled).await;

    // Those who were there before, and those who come while the others stand still.
    gate.open_for_good();
    for stream in live {
        let transcript = stream.rest().await.unwrap();
        assert!(transcript.is_done(), "{stalled} stalled, {bytes} bytes: {}", transcript.text());
    }
    for _ in 0..3 {
        let mut connection = Connection::open_http2(worker.address()).await.unwrap();
        assert!(connection.transcript(Ask::streamed_chat()).await.unwrap().is_done());
    }
    assert!(mock.ledger().iter().all(|attempt| attempt.ended != Ended::Cut), "{stalled} stalled, {bytes} bytes");
    assert_all_end_well(socket, stalled).await;

    // One connection for each eight, and one for the checks: none had to be opened anew.
    let streams = stalled + stalled.div_ceil(SHARED - 1);
    let most = streams.div_ceil(SHARED) + 2;
    assert!(mock.counts().connections_ever <= most, "{:?} instead of {most}", mock.counts());
    assert_eq!(mock.counts().cut, 0);
    mock.always(Script::answer(1));
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn siblings_of_one_stalled_stream_live_whatever_size_the_frames_have() {
    for bytes in [20, 60, 100, 160] {
        nobody_fails(1, bytes).await;
    }
}

#[tokio::test]
async fn siblings_of_ten_stalled_streams_live_whatever_size_the_frames_have() {
    for bytes in [20, 60, 100, 160] {
        nobody_fails(10, bytes).await;
    }
}

#[tokio::test]
async fn siblings_of_fifty_stalled_streams_live_whatever_size_the_frames_have() {
    for bytes in [20, 60, 100, 160] {
        nobody_fails(50, bytes).await;
    }
}
