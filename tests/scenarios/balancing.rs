//! Which backend of a pool: by load, by weight, and only those that work.

use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;

use crate::stage::{assert_fine, assert_refused, attempts, backend_is, config, connect};

fn two() -> (MockLlm, MockLlm) {
    (MockLlm::start().unwrap(), MockLlm::start().unwrap())
}

#[tokio::test]
async fn round_robin_keeps_the_weights_exactly() {
    let (first, second) = two();
    let config = format!(
        "pools: [{{ name: p, balance: weighted-round-robin, backends: [\
         {{ name: a, url: \"{}\", weight: 3 }}, {{ name: b, url: \"{}\" }}] }}]\n\
         routes: [{{ model: mock-model, targets: [{{ pool: p }}] }}]\n",
        first.url(),
        second.url()
    );
    let worker = TestWorker::start(&config).await.unwrap();
    let mut connection = connect(&worker).await;
    for _ in 0..20 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    assert_eq!(attempts(&[&first, &second]), [15, 5]);
}

#[tokio::test]
async fn a_new_stream_goes_where_fewer_are_in_flight() {
    let (first, second) = two();
    let worker = TestWorker::start(&config(&[&first, &second], "balance: least-loaded", "", "")).await.unwrap();
    let gate = Gate::new();
    let mut held = Vec::new();
    for mock in [&first, &second] {
        mock.always(Script::gated(1, &gate));
    }
    for _ in 0..10 {
        let mut stream = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
        stream.take(1).await.unwrap();
        held.push(stream);
    }
    assert_eq!(attempts(&[&first, &second]), [5, 5]);
    gate.open_for_good();
    for stream in held {
        assert!(stream.rest().await.unwrap().is_done());
    }
}

#[tokio::test]
async fn an_unhealthy_backend_gets_no_traffic_until_it_is_healthy_again() {
    let (first, second) = two();
    let pool = "health: { every: 100ms, healthy_after: 2, unhealthy_after: 2 }, breaker: { slow_start: 0s }, \
                balance: weighted-round-robin";
    let worker = TestWorker::start(&config(&[&first, &second], pool, "", "")).await.unwrap();
    let mut connection = connect(&worker).await;
    first.for_path("/health", Script::status(503, "loading"));
    backend_is(&worker, "gpu-0", "unhealthy").await;
    for _ in 0..6 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    assert_eq!(attempts(&[&second]), [6]);
    first.for_path("/health", None);
    backend_is(&worker, "gpu-0", "healthy").await;
    let before = first.requests().iter().filter(|request| request.path != "/health").count();
    for _ in 0..6 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    let after = first.requests().iter().filter(|request| request.path != "/health").count();
    assert_eq!((before, after), (0, 3));
}

#[tokio::test]
async fn a_health_check_that_hangs_is_one_that_failed() {
    let (first, second) = two();
    first.for_path("/health", Script::hang());
    let pool = "health: { every: 100ms, timeout: 50ms, unhealthy_after: 1 }";
    let worker = TestWorker::start(&config(&[&first, &second], pool, "", "")).await.unwrap();
    backend_is(&worker, "gpu-0", "unhealthy").await;
    backend_is(&worker, "gpu-1", "healthy").await;
}

#[tokio::test]
async fn a_breaker_opens_after_failures_in_a_row_and_closes_after_a_success() {
    let mock = MockLlm::start().unwrap();
    let pool = "breaker: { failures: 2, open: 300ms, slow_start: 0s }, health: { every: 1h }";
    let worker = TestWorker::start(&config(&[&mock], pool, "retries: 0", "")).await.unwrap();
    let mut connection = connect(&worker).await;
    mock.always(Script::status(500, "broken"));
    for _ in 0..2 {
        assert_eq!(connection.ask(Ask::chat()).await.unwrap().status(), 500);
    }
    let answer = connection.ask(Ask::chat()).await.unwrap();
    // On a machine that stood still for a while it may be the trial already.
    if answer.status() == 503 {
        assert_refused(&answer, 503, "no_healthy_backend");
        assert_eq!(mock.counts().attempts, 2, "an open breaker lets nothing through");
    }
    mock.always(Script::answer(1));
    let recovered = async || connection.ask(Ask::chat()).await.unwrap().status() == 200;
    eventually("the trial succeeds", recovered).await.unwrap();
    backend_is(&worker, "gpu-0", "healthy").await;
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn streams_that_break_open_the_breaker_too() {
    let mock = MockLlm::start().unwrap();
    let pool = "breaker: { failures: 2, open: 1h }, health: { every: 1h }";
    let worker = TestWorker::start(&config(&[&mock], pool, "retries: 0", "")).await.unwrap();
    mock.always(Script::broken(2, []));
    let mut connection = connect(&worker).await;
    // A stream that begins well and breaks later must not count as a success.
    for _ in 0..2 {
        assert_eq!(connection.transcript(Ask::streamed_chat()).await.unwrap().code(), "upstream_reset");
    }
    backend_is(&worker, "gpu-0", "open").await;
}

#[tokio::test]
async fn a_backend_that_is_taken_out_finishes_its_streams() {
    let (old, new) = two();
    let gate = Gate::new();
    old.next(Script::gated(2, &gate));
    let worker = TestWorker::start(&config(&[&old], "", "", "")).await.unwrap();
    let mut stream = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
    stream.take(1).await.unwrap();

    worker.save(&config(&[&new], "", "", "")).unwrap();
    let mut connection = connect(&worker).await;
    let moved = async || {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        new.counts().attempts > 0
    };
    eventually("the new backend is asked", moved).await.unwrap();
    gate.open_for_good();
    let transcript = stream.rest().await.unwrap();
    assert_eq!(transcript.content(), "t0 t1 ");
    assert!(transcript.is_done());
}

#[tokio::test]
async fn what_is_known_of_a_backend_survives_a_change_of_the_configuration() {
    let mock = MockLlm::start().unwrap();
    let pool = "breaker: { failures: 1, open: 1h }, health: { every: 1h }";
    let worker = TestWorker::start(&config(&[&mock], pool, "retries: 0", "")).await.unwrap();
    mock.next(Script::status(500, "broken"));
    assert_eq!(connect(&worker).await.ask(Ask::chat()).await.unwrap().status(), 500);
    backend_is(&worker, "gpu-0", "open").await;
    worker.save(&config(&[&mock], pool, "retries: 0, aliases: [other]", "")).unwrap();
    let mut connection = connect(&worker).await;
    let applied = async || connection.ask(Ask::get("/v1/models/other")).await.unwrap().status() == 200;
    eventually("the change is applied", applied).await.unwrap();
    backend_is(&worker, "gpu-0", "open").await;
    assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 503, "no_healthy_backend");
}
