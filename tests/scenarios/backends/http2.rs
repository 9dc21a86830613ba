//! B21 to B24: what HTTP/2 can do to the streams that share a connection.

use ntonix_tests::client::{Ask, Connection, EventStream};
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Script};
use ntonix_tests::worker::TestWorker;
use serde_json::json;

use super::books::{Books, Left};
use super::{PATIENT, assert_broken, row};
use crate::stage::{assert_fine, assert_refused};

/// One thread and one backend over HTTP/2, so that streams share a connection.
async fn stage(route: &str) -> (MockLlm, TestWorker) {
    let mock = MockLlm::start().unwrap();
    let worker = TestWorker::start_with(&config(&mock, route), |traffic| traffic.threads = Some(1)).await.unwrap();
    // The first check of its health goes over a connection of its own.
    mock.until(|counts| counts.requests > 0).await;
    (mock, worker)
}

fn config(mock: &MockLlm, route: &str) -> String {
    format!(
        "pools: [{{ name: llama, backends: [{{ name: gpu-0, url: \"{}\", http2: true }}], {PATIENT}, \
         health: {{ every: 1h }} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], {route} }}]\n",
        mock.url()
    )
}

async fn connect(worker: &TestWorker) -> Connection {
    Connection::open(worker.address()).await.unwrap()
}

/// So many streams that have begun and wait at a gate.
async fn begun(mock: &MockLlm, worker: &TestWorker, count: usize, gate: &Gate) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        mock.next(Script::gated(5, gate));
        let mut stream = connect(worker).await.stream(Ask::streamed_chat()).await.unwrap();
        stream.take(1).await.unwrap();
        streams.push(stream);
    }
    streams
}

async fn assert_all_done(streams: Vec<EventStream>) {
    for stream in streams {
        let transcript = stream.rest().await.unwrap();
        assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 t3 t4 ", "{}", transcript.text());
    }
}

#[tokio::test]
async fn b21_streams_up_to_the_last_of_a_goaway_finish_and_others_go_elsewhere() {
    let (mock, worker) = stage("retries: 1").await;
    let gate = Gate::new();
    let streams = begun(&mock, &worker, 3, &gate).await;
    let books = Books::after(&worker, 0).await;
    mock.next(row("B21"));
    let transcript = connect(&worker).await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 t3 t4 ", "{}", transcript.text());
    books.gained(Left { outcome: "completed", attempts: 1, failures: 0 }).await;
    assert_eq!(mock.counts().connections_ever, 2, "they share a connection");
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
    assert_eq!((mock.counts().connections_ever, mock.counts().attempts), (3, 5), "the next goes over a new one");
    gate.open_for_good();
    assert_all_done(streams).await;
    assert_eq!(mock.counts().cut, 0);
}

#[tokio::test]
async fn b21_a_request_that_a_goaway_says_was_not_looked_at_is_asked_again() {
    let (mock, worker) = stage("retries: 1").await;
    let gate = Gate::new();
    let streams = begun(&mock, &worker, 2, &gate).await;
    let books = Books::after(&worker, 0).await;
    mock.next(row("B21-before"));
    let transcript = connect(&worker).await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done(), "{}", transcript.text());
    assert_eq!(transcript.text().matches("\"role\"").count(), 1, "no event twice");
    let record = books.gained(Left { outcome: "completed", attempts: 2, failures: 1 }).await;
    assert_eq!(record["generated"], 5);
    gate.open_for_good();
    assert_all_done(streams).await;
}

#[tokio::test]
async fn b22_a_refused_stream_is_asked_again_and_its_neighbours_go_on() {
    let (mock, worker) = stage("retries: 1").await;
    let gate = Gate::new();
    let streams = begun(&mock, &worker, 2, &gate).await;
    for (round, ask) in [Ask::streamed_chat(), Ask::chat()].into_iter().enumerate() {
        let books = Books::after(&worker, round).await;
        mock.next(row("B22"));
        assert_fine(&connect(&worker).await.ask(ask).await.unwrap());
        books.gained(Left { outcome: "completed", attempts: 2, failures: 1 }).await;
    }
    gate.open_for_good();
    assert_all_done(streams).await;
    assert_eq!(mock.counts().attempts, 6);
}

#[tokio::test]
async fn b23_a_stalled_stream_of_small_frames_does_not_cost_its_neighbours_their_connection() {
    let (mock, worker) = stage("retries: 0").await;
    mock.next(row("B23"));
    let mut stalled = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
    stalled.take(1).await.unwrap();
    let members = json!({ "stream": true, "max_tokens": 2000 });
    for _ in 0..14 {
        let transcript = connect(&worker).await.transcript(Ask::chat_with(members.clone())).await.unwrap();
        assert!(transcript.is_done(), "{}", transcript.code());
    }
    assert_eq!(mock.counts().connections_ever, 2, "they shared the connection all the time");
    let transcript = stalled.rest().await.unwrap();
    assert!(transcript.is_done() && transcript.content().ends_with("t19999 "), "{}", transcript.code());
    assert_eq!(mock.counts().cut, 0);
}

#[tokio::test]
async fn b23_a_backend_that_has_had_enough_ends_its_streams_with_an_error_each() {
    let (mock, worker) = stage("retries: 1").await;
    let books = Books::after(&worker, 0).await;
    mock.next(row("B23-calm"));
    let mut connection = connect(&worker).await;
    assert_broken(&connection.transcript(Ask::streamed_chat()).await.unwrap(), "t0 t1 ", "upstream_reset");
    books.gained(Left { outcome: "upstream_reset", attempts: 1, failures: 1 }).await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b24_a_request_that_finds_no_window_is_a_504_and_lets_go_of_the_backend() {
    let (mock, worker) = stage("retries: 1, deadlines: { first_token: 500ms }").await;
    mock.always(row("B24"));
    let books = Books::after(&worker, 0).await;
    let large = json!({ "stream": true, "padding": "x".repeat(1024 * 1024) });
    assert_refused(&connect(&worker).await.ask(Ask::chat_with(large)).await.unwrap(), 504, "upstream_timeout");
    books.gained(Left { outcome: "upstream_timeout", attempts: 1, failures: 1 }).await;
    assert_eq!(mock.counts().attempts, 0, "it never had all of the request");
}

#[tokio::test]
async fn a_stream_reset_in_the_middle_and_empty_frames_end_nobody_elses() {
    let (mock, worker) = stage("retries: 1").await;
    let gate = Gate::new();
    let streams = begun(&mock, &worker, 2, &gate).await;
    let mut connection = connect(&worker).await;
    mock.next("role\ntokens 2\nh2 reset".parse().unwrap());
    assert_broken(&connection.transcript(Ask::streamed_chat()).await.unwrap(), "t0 t1 ", "upstream_reset");
    mock.next("role\nh2 empty 100\ntokens 2\nfinish stop\ndone".parse().unwrap());
    let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 ", "{}", transcript.text());
    gate.open_for_good();
    assert_all_done(streams).await;
    assert_eq!(mock.counts().connections_ever, 2);
}

#[tokio::test]
async fn a_backend_that_allows_few_streams_on_a_connection_is_given_more_connections() {
    let options = ntonix_tests::mock_llm::Options { http2_streams: Some(2), ..Default::default() };
    let mock = MockLlm::start_with(options).unwrap();
    let worker =
        TestWorker::start_with(&config(&mock, "retries: 0"), |traffic| traffic.threads = Some(1)).await.unwrap();
    mock.until(|counts| counts.requests > 0).await;
    let gate = Gate::new();
    // None of them waits for another to end.
    let streams = begun(&mock, &worker, 7, &gate).await;
    gate.open_for_good();
    assert_all_done(streams).await;
    assert_eq!(mock.counts().connections_ever, 1 + 4);
}
