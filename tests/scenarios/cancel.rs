//! A client that leaves: its backend sees the cut, its places are free, nobody else notices.

use ntonix_tests::client::{Ask, Connection, RawConnection};
use ntonix_tests::mock_llm::{Gate, Script, Step};

use crate::stage::{Stage, assert_fine, nothing_is_active};

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_cuts_its_backend() {
    let stage = Stage::with("breaker: { failures: 1 }", "", "").await;
    for (round, ask) in [Ask::chat(), Ask::streamed_chat()].into_iter().enumerate() {
        stage.mock.next(Script::hang());
        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(ask.wire()).await.unwrap();
        stage.mock.attempts(2 * round + 1).await;
        drop(raw);
        stage.mock.cancelled(round + 1).await;
        // Nothing was learned of the backend: one failure would have opened its breaker.
        assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
    }
    nothing_is_active(&stage.worker).await;
}

#[tokio::test]
async fn a_client_that_leaves_after_some_tokens_cuts_its_backend() {
    let stage = Stage::new().await;
    let gate = Gate::new();
    gate.open(2);
    stage.mock.next(Script::gated(5, &gate));
    let mut stream = stage.connect().await.stream(Ask::streamed_chat()).await.unwrap();
    stream.take(3).await.unwrap();
    drop(stream);
    stage.mock.cancelled(1).await;
    nothing_is_active(&stage.worker).await;
    let page = stage.worker.metrics().await.unwrap();
    let counted = |line: &str| line.starts_with("ntonix_exchanges") && line.contains("outcome=\"cancelled\"");
    assert!(page.lines().any(|line| counted(line) && line.ends_with(" 1")), "{page}");
}

#[tokio::test]
async fn a_reset_or_a_half_closed_connection_is_a_client_that_left() {
    let stage = Stage::new().await;
    for (round, resets) in [true, false].into_iter().enumerate() {
        let gate = Gate::new();
        gate.open(1);
        stage.mock.next(Script::gated(5, &gate));
        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(Ask::streamed_chat().wire()).await.unwrap();
        raw.read_until("t0 ").await.unwrap();
        if resets {
            raw.reset_when_dropped().unwrap();
            drop(raw);
        } else {
            raw.finish().await.unwrap();
        }
        stage.mock.cancelled(round + 1).await;
    }
}

#[tokio::test]
async fn one_stream_of_an_http2_connection_is_cut_alone() {
    let stage = Stage::new().await;
    let gate = Gate::new();
    stage.mock.always(Script::gated(2, &gate));
    let mut connection = Connection::open_http2(stage.worker.address()).await.unwrap();
    let mut staying = connection.stream(Ask::streamed_chat()).await.unwrap();
    let mut leaving = connection.stream(Ask::streamed_chat()).await.unwrap();
    staying.take(1).await.unwrap();
    leaving.take(1).await.unwrap();
    drop(leaving);
    stage.mock.cancelled(1).await;
    gate.open_for_good();
    let transcript = staying.rest().await.unwrap();
    assert!(transcript.is_done(), "{}", transcript.text());
    assert_eq!(stage.mock.counts().cut, 1);
}

#[tokio::test]
async fn a_client_that_leaves_between_attempts_is_not_asked_for_again() {
    let stage = Stage::with("", "retries: 10", "").await;
    let gate = Gate::new();
    stage.mock.always(Script::Stream(vec![Step::Gate(gate.clone()), Step::Cut]));
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(Ask::streamed_chat().wire()).await.unwrap();
    gate.open(1);
    stage.mock.attempts(2).await;
    drop(raw);
    stage.mock.until(|counts| counts.active == 0).await;
    nothing_is_active(&stage.worker).await;
    assert_eq!(stage.mock.counts().attempts, 2);
}

#[tokio::test]
async fn a_large_answer_is_cut_in_the_middle() {
    let stage = Stage::new().await;
    let pieces = std::iter::repeat_n(Step::Raw(vec![b'x'; 64 * 1024].into()), 800);
    let script = Script::Stream(pieces.collect()).header("content-type", "application/json");
    stage.mock.next(script);
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(Ask::chat().wire()).await.unwrap();
    raw.read_until("xxx").await.unwrap();
    drop(raw);
    stage.mock.cancelled(1).await;
    nothing_is_active(&stage.worker).await;
}
