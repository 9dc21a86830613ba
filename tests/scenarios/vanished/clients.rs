//! C2: clients that vanish.

use std::time::Duration;

use ntonix_tests::cable::Cable;
use ntonix_tests::client::{Ask, Connection, RawConnection, Socket};
use ntonix_tests::mock_llm::{Ended, MODEL, MockLlm, Pace, Script};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;
use serde_json::{Value, json};

use super::{STALL, took, worker};
use crate::stage::{assert_fine, assert_refused, config, connect, nothing_is_active};

/// The latest that a client which vanished may be let go: its time is up in [`STALL`], and the system looks each second.
/// What remains is for a machine under load. Left alone the system takes a quarter of an hour.
const LET_GO: Duration = Duration::from_secs(15);

/// So many exchanges are admitted as vanish.
fn settings(mock: &MockLlm, streams: usize) -> String {
    let limits = format!("limits: {{ streams: {streams}, queue: 0 }}");
    config(&[mock], "breaker: { failures: 1 }", "heartbeat: 0s", &limits)
}

fn create() -> Value {
    json!({ "t": "create", "id": "a", "op": "chat.completions",
        "body": { "model": MODEL, "stream": true, "messages": [] } })
}

/// Every place is taken, the cable is pulled, and in time all is as it was: backends cut, one record for each, places free.
async fn assert_all_let_go(cable: &Cable, mock: &MockLlm, worker: &TestWorker, outcome: &str) {
    let count = mock.counts().attempts;
    let mut near = connect(worker).await;
    assert_refused(&near.ask(Ask::chat()).await.unwrap(), 503, "overloaded");
    worker.until_records(1).await.unwrap();
    assert_eq!(mock.counts().cut, 0);
    cable.pull().unwrap();
    mock.cancelled(count).await;
    for record in &worker.until_records(1 + count).await.unwrap()[1..] {
        assert_eq!(record["outcome"], outcome, "{record:#}");
        // The system counts from when it heard the client last, and the exchange may begin a little later.
        assert!((STALL / 2..LET_GO).contains(&took(record)), "{record:#}");
    }
    nothing_is_active(worker).await;
    let connections = "ntonix_client_connections";
    eventually("only the near one is left", async || worker.metric(connections).await.unwrap() == 1.0).await.unwrap();
    // No failure of the backend: one would have opened its breaker.
    mock.always(Script::answer(1));
    assert_fine(&near.ask(Ask::chat()).await.unwrap());
}

/// Of a stream that is more than all buffers on the way hold.
const EVENTS: usize = 8000;

#[test]
fn c2_a_client_that_vanishes_in_mid_stream_is_let_go_when_it_took_nothing_for_too_long() {
    Cable::lay(async |cable| {
        let mock = MockLlm::start().unwrap();
        let worker = worker(&settings(&mock, 3), STALL).await;
        // So few bytes that no buffer is full before the time is up.
        mock.always(Script::Answer { tokens: 100_000, pace: Pace::Every(Duration::from_millis(50)) });

        let mut raw = RawConnection::over(cable.connect(worker.address()).unwrap());
        raw.send(Ask::streamed_chat().wire()).await.unwrap();
        raw.read_until("t1 ").await.unwrap();
        let mut http2 = Connection::over_http2(cable.connect(worker.address()).unwrap()).await.unwrap();
        let mut stream = http2.stream(Ask::streamed_chat()).await.unwrap();
        stream.until(|transcript| transcript.content().contains("t1 ")).await.unwrap();
        let mut socket = Socket::over(cable.connect(worker.address()).unwrap(), &[]).await.unwrap();
        socket.send(&create()).await.unwrap();
        while !socket.next().await.unwrap().to_string().contains("t1 ") {}

        assert_all_let_go(cable, &mock, &worker, "client_stalled").await;
        for record in &worker.records().unwrap()[1..4] {
            assert!(record["delivered"].as_u64() >= Some(2), "{record:#}");
        }
        assert!(!http2.is_closed(), "the cable carried the end to the client");
    });
}

/// Before the first token, with nothing to send: it is the system's own probes that nobody answers.
#[test]
fn c2_a_client_that_vanishes_while_the_backend_thinks_is_let_go_too() {
    Cable::lay(async |cable| {
        let mock = MockLlm::start().unwrap();
        let worker = worker(&settings(&mock, 4), STALL).await;
        mock.always(Script::hang());

        let mut streamed = RawConnection::over(cable.connect(worker.address()).unwrap());
        streamed.send(Ask::streamed_chat().wire()).await.unwrap();
        let mut whole = RawConnection::over(cable.connect(worker.address()).unwrap());
        whole.send(Ask::chat().wire()).await.unwrap();
        let mut socket = Socket::over(cable.connect(worker.address()).unwrap(), &[]).await.unwrap();
        socket.send(&create()).await.unwrap();
        let mut http2 = Connection::over_http2(cable.connect(worker.address()).unwrap()).await.unwrap();
        let asking = async { http2.send(Ask::streamed_chat()).await.map(drop) };
        let vanishing = async {
            mock.attempts(4).await;
            assert_all_let_go(cable, &mock, &worker, "cancelled").await;
        };
        // Its client waits for an answer that cannot come.
        tokio::select! {
            answered = asking => panic!("the cable carried something to the client: {answered:?}"),
            () = vanishing => {}
        }
    });
}

/// C3: the system ends a connection whose peer makes no room, even when it says that it is there; who makes some, stays.
#[test]
fn c2_a_client_that_is_there_and_reads_slowly_is_not_taken_for_one_that_vanished() {
    Cable::lay(async |cable| {
        let mock = MockLlm::start().unwrap();
        let worker = worker(&settings(&mock, 2), STALL).await;
        let text = "x".repeat(1000);
        let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        mock.next(Script::raw(vec![event; EVENTS]));
        let mut slow = RawConnection::over(cable.connect(worker.address()).unwrap());
        slow.send(Ask::streamed_chat().wire()).await.unwrap();
        slow.read_until("\r\n\r\n").await.unwrap();
        // The tokens of another stream are its clock: it reads for three times as long as it may read nothing.
        mock.next(Script::Answer { tokens: 60, pace: Pace::Every(STALL / 20) });
        let mut clock = connect(&worker).await.stream(Ask::streamed_chat()).await.unwrap();
        let mut read = 0;
        while clock.next().await.unwrap().is_some() {
            for _ in 0..8 {
                slow.read_until("xxx\"}}]}\n\n").await.unwrap();
                read += 1;
            }
        }
        assert_eq!(mock.ledger()[0].ended, Ended::Open, "the backend waits for it all the time");
        for _ in read..EVENTS {
            slow.read_until("xxx\"}}]}\n\n").await.unwrap();
        }
    });
}
