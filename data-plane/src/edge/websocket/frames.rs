//! The frames of `ntonix.v1`: JSON texts, told apart by their member `t`.

use bytes::{BufMut as _, BytesMut};
use ntonix_llm::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A whole text frame (RFC 6455 §5.2); a server's are not masked.
const TEXT: u8 = 0x81;
/// The first byte and a length of eight more.
const HEAD_LONGEST: usize = 10;
/// The lengths that say that two or eight bytes of length follow.
const TWO_BYTES: u8 = 126;
const EIGHT_BYTES: u8 = 127;

const DIGITS: &[u8; 10] = b"0123456789";

/// A frame of the client, as far as the socket looks into it. Members that it does not know are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct ClientFrame<'a> {
    /// The kind.
    pub(super) t: String,
    /// The stream, by the client's name for it.
    pub(super) id: Option<String>,
    /// create: what is asked.
    pub(super) op: Option<String>,
    /// create: the body, as it would be sent over HTTP.
    #[serde(borrow)]
    pub(super) body: Option<&'a RawValue>,
    /// create: bytes that may be sent at first, with `flow` "credit".
    pub(super) window: Option<u64>,
    /// create: not served yet.
    #[serde(default)]
    pub(super) resumable: bool,
    /// window: further bytes.
    pub(super) add: Option<u64>,
    /// ping: comes back in the pong.
    #[serde(borrow)]
    pub(super) n: Option<&'a RawValue>,
    /// hello: "auto" or "credit".
    pub(super) flow: Option<String>,
}

/// What the socket allows, as `ready` tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Streams at once.
    pub(super) streams: usize,
    /// Bytes of a frame of the client.
    pub(super) frame: usize,
    /// Idle time in milliseconds without a stream before the socket is closed.
    pub(super) idle_ms: u64,
}

/// `ready`: the socket serves.
pub(super) fn ready(limits: Limits, flow: &str) -> String {
    let Limits { streams, frame, idle_ms } = limits;
    serde_json::json!({
        "t": "ready",
        "limits": { "streams": streams, "frame": frame, "idle_ms": idle_ms },
        "flow": flow,
    })
    .to_string()
}

/// `open`: the backend has begun to answer.
pub(super) fn open(id: &str, request_id: &str, status: u16) -> String {
    serde_json::json!({ "t": "open", "id": id, "request_id": request_id, "status": status }).to_string()
}

/// Puts a text frame into `out`.
pub(super) fn put_text(out: &mut BytesMut, text: &str) {
    put_head(out, text.len());
    out.put_slice(text.as_bytes());
}

/// Puts `delta` into `out` as a text frame: one event of the stream, its object as the backend wrote it. `id` is a checked
/// one: it needs no escaping. Returns the length of the text.
///
/// tungstenite takes 430 to 490 instructions more for the same, from a frame in memory of its own.
pub(super) fn put_delta(out: &mut BytesMut, id: &str, seq: u64, object: &[u8]) -> usize {
    const AROUND: usize = r#"{"t":"delta","id":"","seq":,"d":}"#.len();
    let mut digits = [b'0'; 20];
    let seq = number(&mut digits, seq);
    let length = AROUND + id.len() + seq.len() + object.len();
    put_head(out, length);
    out.put_slice(br#"{"t":"delta","id":""#);
    out.put_slice(id.as_bytes());
    out.put_slice(br#"","seq":"#);
    out.put_slice(seq);
    out.put_slice(br#","d":"#);
    out.put_slice(object);
    out.put_u8(b'}');
    length
}

/// Puts the head of a text frame of so many bytes into `out`, and makes room for all of it.
fn put_head(out: &mut BytesMut, length: usize) {
    out.reserve(HEAD_LONGEST + length);
    out.put_u8(TEXT);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..TWO_BYTES), _) => out.put_u8(length),
        (_, Ok(length)) => {
            out.put_u8(TWO_BYTES);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(EIGHT_BYTES);
            out.put_u64(length as u64);
        }
    }
}

/// Writes a number. With `write!` it took 240 of 9,800 instructions per token.
fn number(digits: &mut [u8; 20], mut number: u64) -> &[u8] {
    let mut at = digits.len() - 1;
    while number >= 10 {
        digits[at] = DIGITS[(number % 10) as usize];
        number /= 10;
        at -= 1;
    }
    digits[at] = DIGITS[number as usize];
    &digits[at..]
}

/// `done`: the stream is complete.
pub(super) fn done(id: &str, seq: u64, usage: Option<Usage>) -> String {
    let mut frame = serde_json::json!({ "t": "done", "id": id, "seq": seq });
    if let Some(usage) = usage {
        let total = usage.prompt_tokens + usage.completion_tokens;
        frame["usage"] = serde_json::json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": total,
        });
    }
    frame.to_string()
}

/// `pong`: with what the ping carried.
pub(super) fn pong(n: Option<&RawValue>) -> String {
    match n {
        Some(n) => format!(r#"{{"t":"pong","n":{}}}"#, n.get()),
        None => r#"{"t":"pong"}"#.to_owned(),
    }
}

/// `goaway`: no further streams; those that run have until the deadline.
pub(super) fn goaway() -> String {
    serde_json::json!({ "t": "goaway", "reason": "drain" }).to_string()
}

/// `error` about a frame or a stream that never began; the socket lives on.
pub(super) fn error(id: Option<&str>, seq: Option<u64>, status: u16, code: &str, message: &str) -> String {
    let class = if status == 499 { "cancelled" } else { "invalid_request_error" };
    let mut frame = serde_json::json!({
        "t": "error",
        "status": status,
        "retryable": false,
        "error": { "message": message, "type": class, "code": code, "param": null },
    });
    if let Some(id) = id {
        frame["id"] = id.into();
    }
    if let Some(seq) = seq {
        frame["seq"] = seq.into();
    }
    frame.to_string()
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };

    use super::*;

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for one in [0, 1, 9, 10, 19, 100, 12_345, u64::MAX - 1, u64::MAX] {
            assert_eq!(number(&mut [b'0'; 20], one), one.to_string().as_bytes());
        }
    }

    #[test]
    fn frames_of_every_length_are_those_that_tungstenite_writes() {
        let mut out = BytesMut::new();
        for length in [0, 1, 124, 125, 126, 127, 300, 65_000, 65_535, 65_536, 200_000] {
            let text = "x".repeat(length);
            let mut theirs = Vec::new();
            Frame::message(text.clone(), OpCode::Data(Data::Text), true).format(&mut theirs).unwrap();
            put_text(&mut out, &text);
            assert!(out.split() == theirs, "of {length} bytes");
        }
    }

    #[test]
    fn an_event_is_in_its_frame_as_it_is() {
        let long = format!("\"{}\"", "x".repeat(70_000));
        let mut out = BytesMut::new();
        for (seq, object) in [(0, "{}"), (9, &long), (u64::MAX, "[\"\u{e4}\"]")] {
            let text = format!(r#"{{"t":"delta","id":"a","seq":{seq},"d":{object}}}"#);
            assert_eq!(put_delta(&mut out, "a", seq, object.as_bytes()), text.len());
            let ours = out.split();
            put_text(&mut out, &text);
            assert!(ours == out.split(), "{seq}");
        }
    }
}
