//! The rules of one `ntonix.v1` socket: which frames mean what, who may send how much. Sans-IO.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use ntonix_llm::{Usage, call::Op};
use tokio::time::Instant;

use super::frames::{self, ClientFrame, Limits};

/// What a socket allows.
pub(super) const LIMITS: Limits =
    Limits { streams: 128, frame: 4 * 1024 * 1024, idle_ms: IDLE_AT_MOST.as_millis() as u64 };
/// Without a stream a socket is closed after this.
pub(super) const IDLE_AT_MOST: Duration = Duration::from_secs(5 * 60);
/// What a stream may send at first with credit flow, and a whole socket.
const STREAM_WINDOW: i64 = 64 * 1024;
const SOCKET_WINDOW: i64 = 1024 * 1024;
/// The largest window (as in HTTP/2, RFC 9113 §6.9.1).
const WINDOW_MOST: i64 = (1 << 31) - 1;
/// The longest name of a stream.
const ID_LONGEST: usize = 64;

/// The state of one socket.
#[derive(Debug)]
pub(super) struct Session {
    flow: Flow,
    window: i64,
    streams: HashMap<Arc<str>, Lane>,
    draining: bool,
    /// A stream that may not send for so long is given up.
    stall: Duration,
}

/// Who says how much may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// The socket itself: as much as the client reads.
    Auto,
    /// The client, in bytes of `delta` frames, for each stream and for the socket.
    Credit,
}

/// One stream of the socket.
#[derive(Debug)]
struct Lane {
    window: i64,
    seq: u64,
    /// Since when it may not send although it could.
    stalled: Option<Instant>,
}

/// One stream's right to send.
pub(super) struct Sender<'a> {
    flow: Flow,
    /// Of the socket.
    window: &'a mut i64,
    lane: &'a mut Lane,
}

/// What to do about a frame of the client.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Send this.
    Say(String),
    /// Begin a stream.
    Create {
        /// The client's name for it.
        id: Arc<str>,
        /// What is asked.
        op: Op,
        /// The body.
        body: Bytes,
    },
    /// Drop the stream, and send this.
    Cancel(Arc<str>, String),
    /// This stream may send again; `None`: any may.
    Wake(Option<Arc<str>>),
    /// Nothing.
    Nothing,
    /// Close the socket.
    Close(u16, &'static str),
}

// === impl Session ===

impl Session {
    /// A fresh socket.
    pub(super) fn new(stall: Duration) -> Self {
        Self { flow: Flow::Auto, window: SOCKET_WINDOW, streams: HashMap::new(), draining: false, stall }
    }

    /// The first frame, sent without being asked: a client may wait for it.
    pub(super) fn greeting(&self) -> String {
        frames::ready(LIMITS, self.flow.as_str())
    }

    /// Streams under way.
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// No further streams. Returns what to say.
    pub(super) fn drain(&mut self) -> String {
        self.draining = true;
        frames::goaway()
    }

    /// Takes a text frame of the client.
    pub(super) fn take(&mut self, text: &str) -> Action {
        let Ok(frame) = serde_json::from_str::<ClientFrame<'_>>(text) else {
            return Action::Close(4400, "malformed_frame");
        };
        match frame.t.as_str() {
            "hello" => self.hello(&frame),
            "create" => self.create(&frame),
            "cancel" => self.cancel(&frame),
            "window" => self.widen(&frame),
            "ping" => Action::Say(frames::pong(frame.n)),
            unknown => {
                let message = format!("there is no frame \"{unknown}\" in this version of ntonix.v1");
                Action::Say(frames::error(frame.id.as_deref(), None, 400, "unknown_frame", &message))
            }
        }
    }

    /// The stream's right to send; looked up once for all that it sends in a turn.
    pub(super) fn sender(&mut self, id: &str) -> Option<Sender<'_>> {
        let lane = self.streams.get_mut(id)?;
        Some(Sender { flow: self.flow, window: &mut self.window, lane })
    }

    /// Streams that have waited too long for the client's credit.
    pub(super) fn stalled(&self, now: Instant) -> Vec<Arc<str>> {
        let too_long = |lane: &Lane| lane.stalled.is_some_and(|since| now.duration_since(since) >= self.stall);
        self.streams.iter().filter(|(_, lane)| too_long(lane)).map(|(id, _)| Arc::clone(id)).collect()
    }

    /// The stream is complete: its name is free again.
    pub(super) fn done(&mut self, id: &str, usage: Option<Usage>) -> Option<String> {
        let lane = self.streams.remove(id)?;
        Some(frames::done(id, lane.seq, usage))
    }

    /// The stream has failed: its name is free again. Returns the number of the last frame.
    pub(super) fn fail(&mut self, id: &str) -> Option<u64> {
        self.streams.remove(id).map(|lane| lane.seq)
    }

    fn hello(&mut self, frame: &ClientFrame<'_>) -> Action {
        let flow = match frame.flow.as_deref() {
            None | Some("auto") => Flow::Auto,
            Some("credit") => Flow::Credit,
            Some(_) => {
                let message = "flow is \"auto\" or \"credit\"";
                return Action::Say(frames::error(None, None, 400, "bad_request", message));
            }
        };
        if !self.streams.is_empty() && flow != self.flow {
            let message = "hello comes before the first stream";
            return Action::Say(frames::error(None, None, 400, "bad_request", message));
        }
        self.flow = flow;
        Action::Say(self.greeting())
    }

    fn create(&mut self, frame: &ClientFrame<'_>) -> Action {
        let id = match frame.id.as_deref() {
            Some(id) if is_id(id) => id,
            id => {
                let message = "id is 1 to 64 of letters, digits, \"_\", \".\" and \"-\"";
                return Action::Say(frames::error(id, None, 400, "bad_request", message));
            }
        };
        let refuse = |status, code, message: &str| Action::Say(frames::error(Some(id), None, status, code, message));
        if self.streams.contains_key(id) {
            return refuse(409, "duplicate_id", "a stream of this id is under way");
        }
        if self.draining {
            return refuse(503, "draining", "the gateway is going away; open another socket");
        }
        if self.streams.len() >= LIMITS.streams {
            return refuse(429, "too_many_streams", "this socket has 128 streams under way, which is its limit");
        }
        if frame.resumable {
            return refuse(400, "unknown_frame", "streams cannot be resumed in this version of ntonix.v1");
        }
        let Some(op) = frame.op.as_deref().and_then(Op::from_name) else {
            return refuse(400, "unknown_op", "op is \"chat.completions\", \"completions\" or \"embeddings\"");
        };
        let Some(body) = frame.body else {
            return refuse(400, "bad_request", "body is missing: the JSON object that HTTP would take");
        };
        let window = frame.window.map_or(STREAM_WINDOW, |window| i64::try_from(window).unwrap_or(i64::MAX));
        if window > WINDOW_MOST {
            return refuse(400, "bad_request", "a window is at most 2147483647");
        }
        let id: Arc<str> = id.into();
        self.streams.insert(Arc::clone(&id), Lane { window, seq: 0, stalled: None });
        Action::Create { id, op, body: Bytes::copy_from_slice(body.get().as_bytes()) }
    }

    fn cancel(&mut self, frame: &ClientFrame<'_>) -> Action {
        // One that is over already has had its last frame.
        let Some((id, lane)) = frame.id.as_deref().and_then(|id| self.streams.remove_entry(id)) else {
            return Action::Nothing;
        };
        let last = frames::error(Some(&id), Some(lane.seq), 499, "cancelled", "the client cancelled this stream");
        Action::Cancel(id, last)
    }

    fn widen(&mut self, frame: &ClientFrame<'_>) -> Action {
        let add = i64::try_from(frame.add.unwrap_or(0)).unwrap_or(i64::MAX);
        let Some(id) = frame.id.as_deref() else {
            let window = self.window.saturating_add(add);
            if window > WINDOW_MOST {
                return Action::Close(4400, "window_too_large");
            }
            self.window = window;
            return Action::Wake(None);
        };
        let Some((id, lane)) = self.streams.get_key_value(id) else { return Action::Nothing };
        let (id, window) = (Arc::clone(id), lane.window.saturating_add(add));
        if window > WINDOW_MOST {
            let seq = self.fail(&id);
            let message = "a window is at most 2147483647";
            let last = frames::error(Some(&id), seq, 400, "window_too_large", message);
            return Action::Cancel(id, last);
        }
        if let Some(lane) = self.streams.get_mut(&id) {
            lane.window = window;
        }
        Action::Wake(Some(id))
    }
}

// === impl Sender ===

impl Sender<'_> {
    /// May it send now? With credit flow a stream and the socket both need some; the last frame may overdraw, so that no
    /// event is too large to ever be sent.
    pub(super) fn may_send(&self) -> bool {
        match self.flow {
            Flow::Auto => true,
            Flow::Credit => *self.window > 0 && self.lane.window > 0,
        }
    }

    /// The stream has something to send and may not.
    pub(super) fn stall(&mut self, now: Instant) {
        self.lane.stalled.get_or_insert(now);
    }

    /// Puts the next event of the stream, called `id`, into `out` as a frame; its bytes are spent. Returns how many.
    pub(super) fn delta(&mut self, out: &mut BytesMut, id: &str, object: &[u8]) -> usize {
        let bytes = frames::put_delta(out, id, self.lane.seq, object);
        self.lane.seq += 1;
        self.lane.stalled = None;
        if self.flow == Flow::Credit {
            let spent = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.lane.window = self.lane.window.saturating_sub(spent);
            *self.window = self.window.saturating_sub(spent);
        }
        bytes
    }
}

// === impl Flow ===

impl Flow {
    fn as_str(self) -> &'static str {
        match self {
            Flow::Auto => "auto",
            Flow::Credit => "credit",
        }
    }
}

fn is_id(id: &str) -> bool {
    (1..=ID_LONGEST).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "session_walk.rs"]
mod walk;

#[cfg(test)]
#[path = "session_fuzz.rs"]
mod fuzz;
