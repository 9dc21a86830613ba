//! B8, B17, B18, B25 and B27: bytes in pieces, bytes that are no text, text that looks like events, and counts that are none.

use ntonix_tests::client::{Ask, Connection, Socket};
use ntonix_tests::mock_llm::{MODEL, Script};
use serde_json::{Value, json};

use super::books::{Books, Left};
use super::{row, stage};
use crate::stage::{Stage, assert_fine, assert_refused};

/// What the mock wrote when nothing is taken away and nothing put in.
const SPLIT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"😀é\"}}]}\r\n\r\n";

#[tokio::test]
async fn b8_a_byte_at_a_time_passes_whole() {
    let stage = stage().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B08"));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 ", "{}", transcript.text());
    let record = books.gained(Left { outcome: "completed", attempts: 1, failures: 0 }).await;
    assert_eq!((&record["generated"], &record["delivered"]), (&2.into(), &2.into()));
}

#[tokio::test]
async fn b17_items_31_32_40_and_41_pieces_of_one_byte_give_the_same_bytes_by_either_version() {
    let stage = stage().await;
    for mut connection in [stage.connect().await, Connection::open_http2(stage.worker.address()).await.unwrap()] {
        stage.mock.next(row("B17-split"));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.text().starts_with(SPLIT) && transcript.is_done(), "{}", transcript.text());
        assert_eq!(transcript.content(), "😀é");
    }
}

#[tokio::test]
async fn b17_what_is_no_utf8_passes_unchanged_and_fails_its_stream_on_a_websocket() {
    let stage = stage().await;
    stage.mock.always(row("B17-invalid"));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    let first = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xFF\xC3\"}}]}\n\n";
    assert!(transcript.bytes().starts_with(first) && transcript.is_done(), "{}", transcript.text());

    // A text frame must be UTF-8 (RFC 6455 §5.6); a failure there belongs to its stream, so that the socket lives.
    let mut socket = Socket::open(stage.worker.address(), &[]).await.unwrap();
    assert_eq!(end_of(&mut socket, "broken").await["error"]["code"], "upstream_protocol");
    stage.mock.always(Script::answer(1));
    assert_eq!(end_of(&mut socket, "fine").await["t"], "done");
}

/// The last frame of a stream that is opened for it.
async fn end_of(socket: &mut Socket, id: &str) -> Value {
    let body = json!({ "model": MODEL, "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
    socket.send(&json!({ "t": "create", "id": id, "op": "chat.completions", "body": body })).await.unwrap();
    loop {
        let frame = socket.next().await.unwrap();
        if matches!(frame["t"].as_str().unwrap(), "done" | "error") {
            assert_eq!(frame["id"], id);
            return frame;
        }
    }
}

#[tokio::test]
async fn b18_text_that_looks_like_events_stays_text() {
    let stage = stage().await;
    stage.mock.next(row("B18"));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.events().len(), 4, "{}", transcript.text());
    let text = "a\n\ndata: [DONE]\n\ndata: {\"error\":{\"message\":\"no\"}}\r\n\r\nevent: error";
    assert_eq!(transcript.content(), text, "the second has a raw control character and is no JSON");
    assert!(transcript.events()[1].contains("b\u{2028}c\u{b}"), "{}", transcript.text());
    assert!(transcript.is_done());
}

#[tokio::test]
async fn b25_a_compressed_stream_is_refused_before_anything_of_it_is_passed_on() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B25"));
    assert_refused(&connection.ask(Ask::streamed_chat()).await.unwrap(), 502, "upstream_protocol");
    books.gained(Left { outcome: "upstream_protocol", attempts: 1, failures: 1 }).await;
    stage.mock.cancelled(1).await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b27_usage_that_is_missing_or_nonsense_is_counted_by_the_gateway() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for (round, name) in ["B27-missing", "B27-negative", "B27-huge"].into_iter().enumerate() {
        println!("{name}");
        let books = Books::after(&stage.worker, round).await;
        stage.mock.next(row(name));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done() && !transcript.text().contains("usage"), "{}", transcript.text());
        let record = books.gained(Left { outcome: "completed", attempts: 1, failures: 0 }).await;
        assert_eq!((&record["completion_tokens"], &record["counted_by"]), (&4.into(), &"gateway".into()), "{record:#}");
    }
}
