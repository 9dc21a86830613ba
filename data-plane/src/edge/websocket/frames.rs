//! The frames of `ntonix.v1`: JSON texts, told apart by their member `t`.

use ntonix_llm::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

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

/// `delta`: one event of the stream, its object as the backend wrote it. `id` is a checked one: it needs no escaping.
pub(super) fn delta(id: &str, seq: u64, object: &str) -> String {
    let mut frame = String::with_capacity(object.len() + id.len() + 48);
    frame.push_str(r#"{"t":"delta","id":""#);
    frame.push_str(id);
    frame.push_str(r#"","seq":"#);
    frame.push_str(&seq.to_string());
    frame.push_str(r#","d":"#);
    frame.push_str(object);
    frame.push('}');
    frame
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
