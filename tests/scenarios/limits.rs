//! Limits of the worker, of a tenant, of a backend: streams until they end, requests when they come.

use ntonix_config::KeyDigest;
use ntonix_runtime::tasks;
use ntonix_tests::client::{Ask, EventStream};
use ntonix_tests::mock_llm::{Gate, Script};
use ntonix_tests::wait::eventually;
use serde_json::json;

use crate::stage::{Stage, assert_fine, assert_refused, nothing_is_active};

/// A stream that has begun and ends when the gate lets it.
async fn held(stage: &Stage, gate: &Gate, ask: Ask) -> EventStream {
    stage.mock.next(Script::gated(1, gate));
    let mut stream = stage.connect().await.stream(ask).await.unwrap();
    stream.take(1).await.unwrap();
    stream
}

#[tokio::test]
async fn beyond_streams_and_queue_a_worker_says_that_it_is_full() {
    let stage = Stage::with("", "", "limits: { streams: 1, queue: 1, queue_wait: 30s }").await;
    let gate = Gate::new();
    let stream = held(&stage, &gate, Ask::streamed_chat()).await;

    let mut waiting = stage.connect().await;
    let waiting = tasks::spawn("test", async move { waiting.ask(Ask::chat()).await });
    let queued = async || stage.worker.metric("ntonix_queued_exchanges").await.unwrap() == 1.0;
    eventually("one waits in the queue", queued).await.unwrap();

    let mut connection = stage.connect().await;
    let answer = connection.ask(Ask::chat()).await.unwrap();
    assert_refused(&answer, 503, "overloaded");
    assert_eq!(answer.header("retry-after"), "1");

    // The place is taken until the stream has ended, not only until its head has left.
    assert_eq!(stage.mock.counts().attempts, 1);
    gate.open(1);
    assert!(stream.rest().await.unwrap().is_done());
    assert_fine(&waiting.await.unwrap().unwrap());
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn waiting_in_the_queue_has_an_end() {
    let stage = Stage::with("", "", "limits: { streams: 1, queue: 5, queue_wait: 50ms }").await;
    let gate = Gate::new();
    let stream = held(&stage, &gate, Ask::streamed_chat()).await;
    assert_refused(&stage.connect().await.ask(Ask::chat()).await.unwrap(), 503, "overloaded");
    drop(stream);
    // A client that leaves gives its place back.
    nothing_is_active(&stage.worker).await;
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

const ALICE: &str = "ntx_alice";
const BOB: &str = "ntx_bob";

async fn tenants(limits: &str) -> Stage {
    let digest = |key: &str| KeyDigest::of(key.as_bytes());
    let rest = format!(
        "tenants: [{{ name: research, limits: {limits} }}, {{ name: others }}]\n\
         keys: [{{ name: alice, tenant: research, digest: \"{}\" }}, {{ name: bob, tenant: others, digest: \"{}\" }}]\n",
        digest(ALICE),
        digest(BOB)
    );
    Stage::with("", "", &rest).await
}

#[tokio::test]
async fn a_tenant_has_so_many_streams_at_once_and_the_others_are_not_touched() {
    let stage = tenants("{ streams: 1 }").await;
    let gate = Gate::new();
    let stream = held(&stage, &gate, Ask::streamed_chat().key(ALICE)).await;
    let mut connection = stage.connect().await;
    let answer = connection.ask(Ask::chat().key(ALICE)).await.unwrap();
    assert_refused(&answer, 429, "rate_limited");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_fine(&connection.ask(Ask::chat().key(BOB)).await.unwrap());
    gate.open(1);
    assert!(stream.rest().await.unwrap().is_done());
    assert_fine(&connection.ask(Ask::chat().key(ALICE)).await.unwrap());
}

#[tokio::test]
async fn a_tenant_has_so_many_requests_a_minute_and_is_told_when_to_come_again() {
    let stage = tenants("{ requests_per_minute: 2 }").await;
    let mut connection = stage.connect().await;
    // What is refused before uses nothing up.
    for ask in [Ask::chat(), Ask::chat().key("ntx_nobody"), Ask::chat_with(json!({ "model": "none" })).key(ALICE)] {
        assert!(connection.ask(ask).await.unwrap().status() > 400);
    }
    for _ in 0..2 {
        assert_fine(&connection.ask(Ask::chat().key(ALICE)).await.unwrap());
    }
    let answer = connection.ask(Ask::streamed_chat().key(ALICE)).await.unwrap();
    assert_refused(&answer, 429, "rate_limited");
    assert!((1..=30).contains(&answer.header("retry-after").parse::<u64>().unwrap()));
    assert_fine(&connection.ask(Ask::chat().key(BOB)).await.unwrap());
    assert_eq!(stage.mock.counts().attempts, 3);
}

#[tokio::test]
async fn a_backend_takes_so_many_streams_and_a_full_pool_says_so() {
    let mock = ntonix_tests::mock_llm::MockLlm::start().unwrap();
    let config = format!(
        "pools: [{{ name: llama, backends: [{{ name: gpu, url: \"{}\", max_streams: 1 }}] }}]\n\
         routes: [{{ model: mock-model, targets: [{{ pool: llama }}] }}]\n",
        mock.url()
    );
    let worker = ntonix_tests::worker::TestWorker::start(&config).await.unwrap();
    let stage = Stage { mock, worker };
    let gate = Gate::new();
    let stream = held(&stage, &gate, Ask::streamed_chat()).await;
    let answer = stage.connect().await.ask(Ask::chat()).await.unwrap();
    assert_refused(&answer, 503, "overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    gate.open(1);
    assert!(stream.rest().await.unwrap().is_done());
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}
