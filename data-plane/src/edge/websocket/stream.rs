//! One stream of a socket: the stack's answer first, then its events one by one.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::StatusCode;
use ntonix_llm::{Usage, reply, watch};

use super::events::{Cutter, object};
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
    /// Events that came together and were not all sent yet, each the JSON of its payload.
    events: VecDeque<Bytes>,
}

enum State {
    Asked(Answer),
    Events(Box<ReplyBody>, Box<Cutter>),
    Whole(Box<ReplyBody>, StatusCode, Vec<u8>),
    /// Its one event is made; it may not have left yet.
    Last(Box<ReplyBody>),
    Ended,
}

/// What a stream has for its client beside events.
#[derive(Debug)]
pub(super) enum Turn {
    /// The answer has begun.
    Open(StatusCode),
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
                State::Events(body, cutter) => match ready!(body.poll_next(cx)) {
                    Some(Ok(bytes)) => match cutter.cut(bytes, &mut self.events) {
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
    pub(super) fn take_event(&mut self) -> Option<Bytes> {
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
            State::Events(body, Box::new(Cutter::new(EVENT_MOST)))
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
                body.held_back(self.events.iter().map(|event| watch::tokens_in(event)).sum());
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

/// A body in one piece, or the error that it is.
fn whole(status: StatusCode, body: &[u8]) -> Result<Bytes, Refusal> {
    if status.is_success() {
        return object(body).map(Bytes::copy_from_slice);
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
