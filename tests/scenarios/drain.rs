//! The end of a process: what runs may finish, what is new is refused, and nothing ends silently.

use std::time::Duration;

use ntonix_tests::client::{Ask, Connection, EventStream, MODELS, RawConnection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use ntonix_tests::wait::eventually;
use rustix::process::Signal;

use crate::stage::{Stage, config};

/// Streams in flight on a gateway, all of which end when the gate opens.
async fn streams(gateway: &Gateway, count: usize) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for index in 0..count {
        let mut connection = match index % 2 {
            0 => Connection::open(gateway.address()).await.unwrap(),
            _ => Connection::open_http2(gateway.address()).await.unwrap(),
        };
        let mut stream = connection.stream(Ask::streamed_chat()).await.unwrap();
        stream.take(1).await.unwrap();
        streams.push(stream);
    }
    streams
}

async fn refuses_connections(gateway: &Gateway) {
    let refused = async || Connection::open(gateway.address()).await.is_err();
    eventually("new connections are refused", refused).await.unwrap();
}

#[tokio::test]
async fn after_sigterm_streams_finish_new_connections_are_refused_and_the_process_ends_well() {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    mock.always(Script::gated(3, &gate));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    assert_eq!(gateway.ops("/readyz").await.unwrap().0, 200);
    let mut idle = RawConnection::open(gateway.address()).await.unwrap();
    let streams = streams(&gateway, 10).await;

    gateway.process().signal(Signal::TERM).unwrap();
    refuses_connections(&gateway).await;
    let (status, text) = gateway.ops("/readyz").await.unwrap();
    assert_eq!((status, text.as_str()), (503, "draining\n"));
    assert_eq!(gateway.ops("/livez").await.unwrap().0, 200);
    assert_eq!(idle.read_to_end().await.unwrap(), "", "an idle connection is let go");

    gate.open_for_good();
    for stream in streams {
        let transcript = stream.rest().await.unwrap();
        assert_eq!(transcript.content(), "t0 t1 t2 ");
        assert!(transcript.is_done());
    }
    let ended = gateway.ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let last = ended.log.lines().last().unwrap();
    assert!(last.contains("\"Drained, exits\"") && !last.contains("cut"), "{last}");
}

#[tokio::test]
async fn an_idle_connection_that_asks_once_more_is_answered_and_told_that_it_was_the_last_time() {
    let stage = Stage::new().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut connection = stage.connect().await;
        connection.ask(Ask::get(MODELS)).await.unwrap();
        idle.push(connection);
    }
    stage.worker.drain(Duration::from_secs(20));
    let mut answered = 0;
    for mut connection in idle {
        // On a slow machine the second may be over in which idle connections are kept.
        let Ok(answer) = connection.ask(Ask::get(MODELS)).await else { continue };
        assert_eq!((answer.status(), answer.header("connection")), (200, "close"));
        answered += 1;
    }
    assert!(answered > 0, "nobody was answered");
}

#[tokio::test]
async fn who_was_answered_while_the_drain_began_may_ask_once_more_on_that_connection() {
    let stage = Stage::new().await;
    let mut asked = Vec::new();
    for _ in 0..20 {
        let gate = Gate::new();
        gate.open(1);
        stage.mock.next(Script::gated(2, &gate));
        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(Ask::streamed_chat().wire()).await.unwrap();
        let head = raw.read_until("t0 ").await.unwrap();
        assert!(!head.contains("connection: close"), "{head}");
        asked.push((raw, gate));
    }
    stage.worker.drain(Duration::from_secs(20));
    let mut answered = 0;
    for (mut raw, gate) in asked {
        gate.open_for_good();
        raw.read_until("data: [DONE]\n\n\r\n0\r\n\r\n").await.unwrap();
        // On a slow machine the second may be over in which idle connections are kept.
        if raw.send(Ask::get(MODELS).wire()).await.is_ok() {
            let answer = raw.read_to_end().await.unwrap();
            assert!(answer.is_empty() || answer.contains("connection: close"), "{answer}");
            answered += usize::from(!answer.is_empty());
        }
    }
    assert!(answered > 0, "nobody was answered");
}

#[tokio::test]
async fn a_second_sigterm_cuts_what_still_runs_and_says_so() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::gated(3, &Gate::new()));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let streams = streams(&gateway, 4).await;
    gateway.process().signal(Signal::TERM).unwrap();
    refuses_connections(&gateway).await;
    gateway.process().signal(Signal::TERM).unwrap();
    for stream in streams {
        let transcript = stream.rest().await.unwrap();
        assert_eq!(transcript.code(), "draining", "{}", transcript.text());
        assert!(!transcript.text().contains("[DONE]"));
    }
    mock.cancelled(4).await;
    let ended = gateway.ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[tokio::test]
async fn the_drain_has_an_end() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::gated(3, &Gate::new()));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &["--drain=300ms"]).await.unwrap();
    let streams = streams(&gateway, 2).await;
    gateway.process().signal(Signal::INT).unwrap();
    for stream in streams {
        assert_eq!(stream.rest().await.unwrap().code(), "draining");
    }
    assert_eq!(gateway.ended().await.unwrap().status.code(), Some(0));
}

#[tokio::test]
async fn answers_that_are_not_streamed_finish_too() {
    let (stage, gate) = (Stage::new().await, Gate::new());
    let body = vec![ntonix_tests::mock_llm::Step::Gate(gate.clone()), ntonix_tests::mock_llm::Step::Raw("{}".into())];
    stage.mock.next(Script::Stream(body).header("content-type", "application/json"));
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(Ask::chat().wire()).await.unwrap();
    stage.mock.attempts(1).await;
    stage.worker.drain(Duration::from_secs(60));
    gate.open_for_good();
    let answer = raw.read_to_end().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    stage.worker.ended().await.unwrap();
}
