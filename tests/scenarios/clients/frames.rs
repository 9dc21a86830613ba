//! C11 and item 78: frames that RFC 6455 forbids are answered with its codes, and frames that it allows are read
//! however they come.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::raw_socket::{CLOSE, FIN, PING, PONG, RawSocket, TEXT, frame};
use crate::stage::{Stage, assert_fine, nothing_is_active};
use ntonix_tests::client::Ask;

const BINARY: u8 = 0x02;
const CONTINUATION: u8 = 0x00;
const PROTOCOL_ERROR: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_BIG: u16 = 1009;
const MESSAGE_MOST: usize = 4 * 1024 * 1024;

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Only the head of a text frame, which declares this length.
fn head_of(length: u64) -> Vec<u8> {
    [&[FIN | TEXT, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat()
}

async fn assert_closes(stage: &Stage, what: &str, bytes: &[u8], code: Option<u16>) {
    let mut socket = RawSocket::open(stage.worker.address()).await;
    socket.send(bytes).await;
    assert_eq!(socket.closes_with().await, code, "{what}");
}

#[tokio::test]
async fn frames_that_are_forbidden_close_with_a_protocol_error() {
    let stage = Stage::new().await;
    let mut cases = vec![
        ("without a mask", vec![FIN | TEXT, 2, b'{', b'}']),
        ("a fragmented ping", frame(PING, b"")),
        ("a fragmented close", frame(CLOSE, b"")),
        ("a ping of 126 bytes", frame(FIN | PING, &[b'p'; 126])),
        ("a close of 126 bytes", close(1000, &[b'r'; 124])),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"x")),
        ("a message inside of a message", [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat()),
        ("half a close code", frame(FIN | CLOSE, &[3])),
    ];
    for bit in [0x40, 0x20, 0x10] {
        cases.push(("a reserved bit", frame(FIN | bit | TEXT, b"{}")));
    }
    for opcode in (0x03..=0x07).chain(0x0B..=0x0F) {
        cases.push(("a reserved opcode", frame(FIN | opcode, b"")));
    }
    // RFC 6455 §7.4: reserved, or for use inside a program alone.
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        cases.push(("a close code that none may send", close(code, b"")));
    }
    // All at once: after a broken frame a socket stays for a second, to read what it was not to be told.
    join_all(cases.iter().map(|(what, bytes)| assert_closes(&stage, what, bytes, Some(PROTOCOL_ERROR)))).await;
    nothing_is_active(&stage.worker).await;
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code() {
    let stage = Stage::new().await;
    assert_closes(&stage, "no code", &frame(FIN | CLOSE, b""), None).await;
    for code in [1000, 1001, 1003, 1008, 1011, 3000, 3999, 4000, 4999] {
        assert_closes(&stage, "a code", &close(code, b"bye"), Some(code)).await;
    }
}

#[tokio::test]
async fn text_that_is_none_and_messages_that_are_too_large_have_codes_of_their_own() {
    let stage = Stage::new().await;
    let half = vec![b'x'; MESSAGE_MOST / 2 + 1];
    let cases = [
        ("a byte that UTF-8 has not", frame(FIN | TEXT, b"\xFF"), NOT_UTF8),
        ("half of a surrogate pair", frame(FIN | TEXT, b"\xED\xA0\x80"), NOT_UTF8),
        ("half a character at the end", frame(FIN | TEXT, b"\xE2\x82"), NOT_UTF8),
        ("half a character and then another", [frame(TEXT, b"\xE2"), frame(FIN, b"x")].concat(), NOT_UTF8),
        ("a reason that is no text", close(1000, b"\xFF"), NOT_UTF8),
        ("a frame over the limit, by its head alone", head_of(MESSAGE_MOST as u64 + 1), TOO_BIG),
        ("a frame of all that can be said", head_of(u64::MAX / 2), TOO_BIG),
        ("fragments over the limit", [frame(TEXT, &half), frame(FIN, &half)].concat(), TOO_BIG),
        ("binary", frame(FIN | BINARY, b"{}"), 1003),
    ];
    join_all(cases.iter().map(|(what, bytes, code)| assert_closes(&stage, what, bytes, Some(*code)))).await;
}

/// A text as fragments of one byte, with a ping after each thousandth.
fn crumbs(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, byte) in text.iter().enumerate() {
        let first = if index == 0 { TEXT } else { CONTINUATION };
        let last = if index + 1 == text.len() { FIN } else { 0 };
        bytes.extend(frame(first | last, &[*byte]));
        if index % 1000 == 999 && last == 0 {
            bytes.extend(frame(FIN | PING, b"between"));
        }
    }
    bytes
}

#[tokio::test]
async fn ten_thousand_fragments_of_one_byte_are_one_message_and_pings_between_them_are_answered() {
    let stage = Stage::new().await;
    let mut socket = RawSocket::open(stage.worker.address()).await;
    let mut text = json!({ "t": "ping", "n": 7, "x": "" }).to_string();
    // Characters of several bytes are cut in the middle.
    let filler = "é€".repeat((10_000 - text.len()) / 5);
    text = text.replace("\"x\":\"\"", &format!("\"x\":\"{filler}\""));
    assert!((9_990..10_010).contains(&text.len()), "{}", text.len());
    socket.send(&crumbs(text.as_bytes())).await;
    let mut pongs = 0;
    let answer: Value = loop {
        let (first, payload) = socket.next().await.expect("the socket lives");
        if first == FIN | PONG {
            assert_eq!(payload, b"between");
            pongs += 1;
        } else {
            break serde_json::from_slice(&payload).unwrap();
        }
    };
    assert_eq!((&answer["t"], &answer["n"]), (&json!("pong"), &json!(7)), "{answer}");
    // RFC 6455 §5.5.3: of pings that came together the last one's pong is enough.
    assert!((1..=9).contains(&pongs), "{pongs}");
    socket.send(&frame(FIN | PING, &[b'p'; 125])).await;
    assert_eq!(socket.next().await.unwrap(), (FIN | PONG, vec![b'p'; 125]));
}

#[tokio::test]
async fn a_broken_frame_cuts_the_backends_of_the_sockets_streams() {
    let stage = Stage::new().await;
    stage.mock.always(ntonix_tests::mock_llm::Script::hang());
    let mut socket = RawSocket::open(stage.worker.address()).await;
    let body = json!({ "model": ntonix_tests::mock_llm::MODEL, "stream": true, "messages": [] });
    let create = json!({ "t": "create", "id": "a", "op": "chat.completions", "body": body });
    socket.send(&frame(FIN | TEXT, create.to_string().as_bytes())).await;
    stage.mock.attempts(1).await;
    socket.send(&frame(FIN | 0x40 | TEXT, b"{}")).await;
    stage.mock.cancelled(1).await;
    assert_eq!(socket.closes_with().await, Some(PROTOCOL_ERROR));
    let records = stage.worker.until_records(1).await.unwrap();
    assert_eq!((&records[0]["outcome"], &records[0]["transport"]), (&json!("cancelled"), &json!("websocket")));
}
