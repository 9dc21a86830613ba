//! One stream of a socket: the stack's answer first, then its events one by one.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::StatusCode;
use ntonix_llm::{
    Usage, reply,
    sse::{Block, Keep, Splitter},
    watch,
};
use serde_json::value::RawValue;

use crate::{
    exchange::{Reply, ReplyBody},
    refusal::{Kind, Refusal},
};

/// What a relay passes on in one piece is at most an event of the largest size. A body in one piece has the same limit:
/// it leaves in one frame.
const EVENT_MOST: usize = 16 * 1024 * 1024;

/// What the stack is about to answer.
pub(super) type Answer = BoxFuture<'static, Result<Reply, Refusal>>;

/// One stream of a socket.
pub(super) struct Stream {
    request_id: Arc<str>,
    streams: bool,
    state: State,
    /// Events that came together and were not all sent yet.
    events: VecDeque<Box<RawValue>>,
}

enum State {
    Asked(Answer),
    Events(Box<ReplyBody>, Box<Splitter>),
    Whole(Box<ReplyBody>, StatusCode, Vec<u8>),
    /// Its one event is made; it may not have left yet.
    Last(Box<ReplyBody>),
    Ended,
}

/// What a stream has for its client.
#[derive(Debug)]
pub(super) enum Turn {
    /// The answer has begun.
    Open(StatusCode),
    /// An event.
    Event(Box<RawValue>),
    /// It is complete.
    Done(Option<Usage>),
    /// It has failed.
    Failed(Refusal),
}

// === impl Stream ===

impl Stream {
    /// A stream that was asked for; `streams`: in events rather than in one piece.
    pub(super) fn new(request_id: Arc<str>, streams: bool, answer: Answer) -> Self {
        Self { request_id, streams, state: State::Asked(answer), events: VecDeque::new() }
    }

    /// What names it in the log.
    pub(super) fn request_id(&self) -> &Arc<str> {
        &self.request_id
    }

    /// Is the next turn one that costs credit?
    pub(super) fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Looks for an event without handing it out, or for anything else that the client must hear. With `Ready(None)`
    /// an event is there.
    pub(super) fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        while self.events.is_empty() {
            let turn = match &mut self.state {
                State::Ended => Turn::Done(None),
                State::Last(body) => delivered(body),
                State::Asked(answer) => match ready!(answer.poll_unpin(cx)) {
                    Ok(reply) => self.begin(reply),
                    Err(refusal) => Turn::Failed(refusal),
                },
                State::Events(body, splitter) => match ready!(body.poll_next(cx)) {
                    Some(Ok(bytes)) => match events(splitter, bytes, &mut self.events) {
                        Ok(()) => continue,
                        Err(refusal) => {
                            body.abort(&refusal);
                            Turn::Failed(refusal)
                        }
                    },
                    Some(Err(refusal)) => Turn::Failed(refusal),
                    None => delivered(body),
                },
                State::Whole(body, status, gathered) => match ready!(body.poll_next(cx)) {
                    Some(Ok(bytes)) if gathered.len() + bytes.len() <= EVENT_MOST => {
                        gathered.extend_from_slice(&bytes);
                        continue;
                    }
                    Some(Ok(_)) => {
                        let public = "the backend's answer is too large for a frame: ask for it over HTTP";
                        let refusal = Refusal::new(Kind::UpstreamProtocol, public);
                        body.abort(&refusal);
                        Turn::Failed(refusal)
                    }
                    Some(Err(refusal)) => Turn::Failed(refusal),
                    None => match whole(*status, gathered) {
                        Ok(object) => {
                            self.events.push_back(object);
                            self.last();
                            continue;
                        }
                        Err(refusal) => {
                            body.settle();
                            Turn::Failed(refusal)
                        }
                    },
                },
            };
            return Poll::Ready(Some(turn));
        }
        Poll::Ready(None)
    }

    /// Hands out the event that `poll_look` found.
    pub(super) fn take_event(&mut self) -> Option<Box<RawValue>> {
        self.events.pop_front()
    }

    /// The gateway ends it: this is what the log says of it.
    pub(super) fn abort(&mut self, refusal: &Refusal) {
        self.hold_back();
        if let State::Events(body, _) | State::Whole(body, ..) | State::Last(body) = &mut self.state {
            body.abort(refusal);
        }
    }

    fn begin(&mut self, reply: Reply) -> Turn {
        let status = reply.status;
        let mut body = Box::new(reply.body);
        // An event has left when it was taken, which may be long after its bytes were pulled.
        body.settle_when_told();
        self.state = if self.streams && status == StatusCode::OK {
            State::Events(body, Box::new(Splitter::new(EVENT_MOST)))
        } else {
            State::Whole(body, status, Vec::new())
        };
        Turn::Open(status)
    }

    fn last(&mut self) {
        if let State::Whole(body, ..) = std::mem::replace(&mut self.state, State::Ended) {
            self.state = State::Last(body);
        }
    }

    /// What was pulled and will not leave any more is not delivered.
    fn hold_back(&mut self) {
        if self.events.is_empty() {
            return;
        }
        match &mut self.state {
            State::Events(body, _) => {
                body.held_back(self.events.iter().map(|event| watch::tokens_in(event.get().as_bytes())).sum());
            }
            State::Last(body) => body.held_back(u64::MAX),
            State::Asked(_) | State::Whole(..) | State::Ended => {}
        }
        self.events.clear();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hold_back();
    }
}

/// All events have left, and with them the answer.
fn delivered(body: &mut ReplyBody) -> Turn {
    body.settle();
    Turn::Done(body.usage())
}

/// Cuts what came into the objects of its events. `[DONE]` is the end of the body, not an event.
fn events(splitter: &mut Splitter, bytes: Bytes, events: &mut VecDeque<Box<RawValue>>) -> Result<(), Refusal> {
    let mut fault = None;
    let scanned = splitter.scan(bytes, &mut |block: Block<'_>| {
        let data = block.data();
        if data.trim_ascii() != b"[DONE]" {
            match object(&data) {
                Ok(object) => events.push_back(object),
                Err(refusal) => fault = Some(refusal),
            }
        }
        if fault.is_some() { Keep::Stop } else { Keep::Drop }
    });
    match (fault, scanned) {
        (Some(refusal), _) => Err(refusal),
        (None, Ok(_)) => Ok(()),
        (None, Err(too_long)) => {
            Err(Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is too large").because(too_long))
        }
    }
}

/// A frame is JSON: what a backend says must be, before it is put into one.
fn object(data: &[u8]) -> Result<Box<RawValue>, Refusal> {
    serde_json::from_slice(data).map_err(|error| {
        Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is not JSON").because(error)
    })
}

/// A body in one piece, or the error that it is.
fn whole(status: StatusCode, body: &[u8]) -> Result<Box<RawValue>, Refusal> {
    if status.is_success() {
        return object(body);
    }
    match reply::backend_error(body) {
        Some(error) => Err(Refusal::from_backend(error).with_status(status)),
        None => Err(Refusal::new(Kind::UpstreamError, format!("the backend answered {}", status.as_u16()))),
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::ready;
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_body_in_one_piece_that_no_frame_can_carry_fails_its_stream_alone() {
        let body = Bytes::from(format!("\"{}\"", "a".repeat(EVENT_MOST)));
        let answer = ready(Ok(Reply::full(StatusCode::OK, HeaderMap::new(), body))).boxed();
        let mut stream = Stream::new("r".into(), false, answer);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(stream.poll_look(&mut cx), Poll::Ready(Some(Turn::Open(StatusCode::OK)))));
        let Poll::Ready(Some(Turn::Failed(refusal))) = stream.poll_look(&mut cx) else { panic!("it went on") };
        assert!(refusal.public().contains("too large"), "{refusal}");
    }
}
