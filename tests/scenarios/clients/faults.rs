//! Clients that vanish, pipeline, lie about lengths, or ask in ways that HTTP has and nobody uses.

use ntonix_tests::client::{Ask, Connection, RawConnection, Socket};
use ntonix_tests::ledger::token::Token;
use ntonix_tests::mock_llm::{Gate, MODEL, Script};
use serde_json::json;

use crate::stage::{Stage, assert_fine, nothing_is_active};

/// C1: over each transport the backend is cut, the books say so, and the next request works.
#[tokio::test]
async fn a_client_that_vanishes_mid_stream_is_settled_as_cancelled_on_every_transport() {
    let stage = Stage::with("breaker: { failures: 1 }", "", "").await;
    let address = stage.worker.address();
    let gate = Gate::new();
    stage.mock.always(Script::gated(10, &gate));

    let mut raw = RawConnection::open(address).await.unwrap();
    raw.send(Ask::streamed_chat().wire()).await.unwrap();
    stage.mock.attempts(1).await;
    gate.open(2);
    raw.read_until("t1 ").await.unwrap();
    raw.reset_when_dropped().unwrap();
    drop(raw);
    stage.mock.cancelled(1).await;

    let mut stream = Connection::open_http2(address).await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    gate.open(2);
    stream.until(|transcript| transcript.content().contains("t1 ")).await.unwrap();
    drop(stream);
    stage.mock.cancelled(2).await;

    let mut socket = Socket::open(address, &[]).await.unwrap();
    let body = json!({ "model": MODEL, "stream": true, "messages": [] });
    socket.send(&json!({ "t": "create", "id": "a", "op": "chat.completions", "body": body })).await.unwrap();
    gate.open(2);
    while !socket.next().await.unwrap().to_string().contains("t1 ") {}
    drop(socket);
    stage.mock.cancelled(3).await;

    let records = stage.worker.until_records(3).await.unwrap();
    for (record, transport) in records.iter().zip(["http1", "http2", "websocket"]) {
        assert_eq!((&record["transport"], &record["outcome"]), (&json!(transport), &json!("cancelled")), "{record}");
        assert_eq!((&record["generated"], &record["delivered"]), (&json!(2), &json!(2)), "{record}");
        let sample =
            format!("ntonix_exchanges_total{{route=\"{MODEL}\",transport=\"{transport}\",outcome=\"cancelled\"}}");
        assert_eq!(stage.worker.metric(&sample).await.unwrap(), 1.0, "{sample}");
    }
    nothing_is_active(&stage.worker).await;
    // A failure of the backend would have opened its breaker.
    stage.mock.always(Script::answer(1));
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

/// C4: one answer after the other, and no token of one in the other.
#[tokio::test]
async fn streams_that_are_pipelined_come_one_after_the_other_and_are_never_mixed() {
    let stage = Stage::new().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let ask = |user: &str| Ask::chat_with(json!({ "stream": true, "max_tokens": 20, "user": user })).wire();
    let asks: Vec<u8> = (0..5).flat_map(|index| ask(&format!("u{index}"))).collect();
    raw.send(asks).await.unwrap();
    for index in 0..5 {
        let answer = raw.read_until("0\r\n\r\n").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("data: [DONE]"), "{answer}");
        let name = format!("u{index}");
        let tokens: Vec<_> = answer.split("\"content\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let tokens: Vec<_> = tokens.iter().filter(|text| !text.is_empty()).map(|text| text.trim().as_bytes()).collect();
        assert_eq!(tokens.len(), 20, "{answer}");
        for (number, token) in tokens.into_iter().enumerate() {
            let token = Token::parse(token).unwrap();
            assert_eq!((token.stream, token.number), (name.as_str(), number as u64));
        }
    }
    stage.worker.until_records(5).await.unwrap();
}

/// C8: what is shorter than it says is no request; what is longer is one, and no second one hides behind it.
#[tokio::test]
async fn an_upload_of_another_length_than_it_says_is_never_taken_for_a_whole_one() {
    let stage = Stage::new().await;
    let head =
        |length: usize| format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let body = json!({ "model": MODEL }).to_string();

    let mut short = RawConnection::open(stage.worker.address()).await.unwrap();
    short.send(head(body.len() + 1) + &body).await.unwrap();
    short.finish().await.unwrap();
    let answer = short.read_to_end().await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let records = stage.worker.until_records(1).await.unwrap();
    assert_eq!(records[0]["attempts"], 0, "{records:?}");

    let mut long = RawConnection::open(stage.worker.address()).await.unwrap();
    long.send(head(body.len()) + &body + "rubbish\r\n\r\n").await.unwrap();
    let answer = long.read_to_end().await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "and the rest is refused: {answer}");
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    assert_eq!(stage.mock.counts().attempts, 1);
}

async fn answer_to(stage: &Stage, request: &str) -> String {
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(request).await.unwrap();
    let head = raw.read_until("\r\n\r\n").await.unwrap();
    head.lines().next().unwrap_or_default().to_owned()
}

/// C13. RFC 9112 §3.2.2 wants the absolute form to be taken, and RFC 9110 §7.8 an upgrade that is not spoken to be
/// passed over.
#[tokio::test]
async fn forms_of_http_that_nobody_uses_have_a_clear_answer() {
    let stage = Stage::new().await;
    let models = "host: x\r\n\r\n";
    let upgrade = "host: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n";
    let cases = [
        (format!("GET http://somewhere/v1/models HTTP/1.1\r\n{models}"), 200),
        (format!("GET /v1/models HTTP/1.1\r\n{upgrade}"), 200),
        (format!("TRACE /v1/models HTTP/1.1\r\n{models}"), 405),
        (format!("TRACE / HTTP/1.1\r\n{models}"), 404),
        (format!("CONNECT example.com:443 HTTP/1.1\r\n{models}"), 404),
        (format!("OPTIONS * HTTP/1.1\r\n{models}"), 404),
    ];
    for (request, status) in cases {
        let line = answer_to(&stage, &request).await;
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {line}");
    }
    assert_eq!(stage.mock.counts().attempts, 0);
}

/// C13: who waits for leave to send its body is given it, once; and not when its key is no good.
#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_its_body_is_given_it() {
    let stage = Stage::new().await;
    let body = json!({ "model": MODEL }).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(&head).await.unwrap();
    assert_eq!(raw.read_until("\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send(&body).await.unwrap();
    assert!(raw.read_until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 200 "));

    let locked = Stage::with("", "", "tenants: [{ name: t }]").await;
    let line = answer_to(&locked, &head).await;
    assert!(line.starts_with("HTTP/1.1 401 "), "{line}");
}
