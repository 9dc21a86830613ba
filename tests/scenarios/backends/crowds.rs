//! B12, B26 and B28: backends that fail now and then, that flap, and that go on when nobody listens.

use ntonix_tests::client::{Ask, Connection, RawConnection};
use ntonix_tests::mock_llm::{MODEL, MockLlm};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;

use super::books::{Books, Left, sum};
use super::row;
use crate::stage::{Stage, assert_fine, backend_is, config, connect, nothing_is_active};

#[tokio::test]
async fn b12_a_backend_that_fails_every_second_time_costs_no_request_when_another_is_healthy() {
    let (flaky, good) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    flaky.always(row("B12"));
    let worker = TestWorker::start(&config(&[&flaky, &good], "", "retries: 1", "")).await.unwrap();
    let mut connection = connect(&worker).await;
    for _ in 0..200 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    let page = worker.metrics().await.unwrap();
    let failures = sum(&page, "ntonix_backend_failures_total", "gpu-0");
    assert!(failures > 0.0 && sum(&page, "ntonix_backend_failures_total", "gpu-1") == 0.0, "{page}");
    assert_eq!(sum(&page, "ntonix_backend_attempts_total", ""), 200.0 + failures, "each failure is asked again once");

    // Five in a row take it out.
    flaky.always("status 500".parse().unwrap());
    for _ in 0..200 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    backend_is(&worker, "gpu-0", "open").await;
}

#[tokio::test]
async fn b26_a_backend_that_goes_on_when_its_client_has_left_loses_its_connection() {
    let stage = Stage::new().await;
    stage.mock.next(row("B26"));
    let books = Books::after(&stage.worker, 0).await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(Ask::streamed_chat().wire()).await.unwrap();
    raw.read_until("t1 ").await.unwrap();
    drop(raw);
    stage.mock.cancelled(1).await;
    // It would write on for more than an hour; only a connection that is gone ends it.
    stage.mock.until(|counts| counts.active == 0).await;
    let cut = stage.mock.cuts().remove(0);
    assert!(cut.written_after < 16 * 1024, "{cut:?}");
    println!("{} bytes were written for nobody", cut.written_after);
    let record = books.gained(Left { outcome: "cancelled", attempts: 1, failures: 0 }).await;
    assert!(record["delivered"].as_u64().unwrap() >= 2, "{record:#}");
    nothing_is_active(&stage.worker).await;
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b26_over_http2_it_is_told_and_its_neighbours_go_on() {
    let mock = MockLlm::start().unwrap();
    let config = format!(
        "pools: [{{ name: llama, backends: [{{ name: gpu-0, url: \"{}\", http2: true }}] }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}] }}]\n",
        mock.url()
    );
    let worker = TestWorker::start_with(&config, |traffic| traffic.threads = Some(1)).await.unwrap();
    // The first check of its health goes over a connection of its own.
    mock.until(|counts| counts.requests > 0).await;
    mock.next(row("B26"));
    let mut stream = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
    stream.take(2).await.unwrap();
    drop(stream);
    mock.cancelled(1).await;
    eventually("it writes on", async || mock.cuts()[0].written_after > 4_096).await.unwrap();
    for _ in 0..5 {
        assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
    }
    assert_eq!(mock.counts().connections_ever, 2, "what it writes is thrown away, and the connection lives");
}

#[tokio::test]
async fn b28_a_backend_that_flaps_costs_few_requests_when_another_is_healthy() {
    let (flapping, good) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    flapping.always(row("B28"));
    good.always("answer 5 every 2ms".parse().unwrap());
    let pool = "breaker: { failures: 3, open: 100ms, slow_start: 1s }";
    let worker = TestWorker::start(&config(&[&flapping, &good], pool, "retries: 1", "")).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Connection::open(worker.address()).await.unwrap());
    }
    let mut fine = 0;
    for _ in 0..150 {
        let asked = clients.iter_mut().map(|client| client.ask(Ask::chat()));
        let answers = futures_util::future::join_all(asked).await;
        fine += answers.into_iter().filter(|answer| answer.as_ref().unwrap().status() == 200).count();
    }
    let page = worker.metrics().await.unwrap();
    println!("{fine} of 600; {} failures", sum(&page, "ntonix_backend_failures_total", "gpu-0"));
    assert!(fine >= 570, "{fine} of 600");
    assert!(sum(&page, "ntonix_backend_failures_total", "gpu-0") > 0.0, "it was met while it was away");
}
