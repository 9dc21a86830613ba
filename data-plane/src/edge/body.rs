//! The body that hyper pulls: a whole one, or a reply whose errors become the last event of the stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{respond, stopping::Notice};
use crate::{exchange::ReplyBody, refusal::Refusal};

/// What an answer to an HTTP client consists of.
#[derive(Debug)]
pub(crate) enum EdgeBody {
    /// All of it.
    Whole(Bytes),
    /// A stream of events.
    Events(Events),
    /// Bytes of a backend's body.
    Bytes(ReplyBody),
}

/// A stream of events on its way to an HTTP client.
#[derive(Debug)]
pub(crate) struct Events {
    body: ReplyBody,
    id: Arc<str>,
    /// The gateway goes away now: what is left of the stream is an error.
    stopping: Notice,
    ended: bool,
}

// === impl EdgeBody ===

impl EdgeBody {
    /// A body that is all here.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }

    /// A stream of events; `id` names the exchange in an error, `stopping` ends it.
    pub(crate) fn events(body: ReplyBody, id: Arc<str>, stopping: Notice) -> Self {
        Self::Events(Events { body, id, stopping, ended: false })
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Events(events) => events.poll_next(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            // An error cuts the connection: a body that is not whole must never look whole.
            Self::Bytes(body) => body.poll_next(cx).map(|item| item.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Events(events) => events.ended || events.body.is_end(),
            Self::Bytes(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(_) => SizeHint::default(),
            Self::Bytes(body) => body.size().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

// === impl Events ===

impl Events {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.stopping.has_come() && !self.body.is_end() {
            return Poll::Ready(Some(self.stop()));
        }
        match self.body.poll_next(cx) {
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(bytes)),
            Poll::Ready(Some(Err(refusal))) => Poll::Ready(Some(self.last(&refusal))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.stopping.comes(cx) => Poll::Ready(Some(self.stop())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn stop(&mut self) -> Bytes {
        let refusal = Refusal::stopped();
        self.body.abort(&refusal);
        self.last(&refusal)
    }

    fn last(&mut self, refusal: &Refusal) -> Bytes {
        self.ended = true;
        respond::event(refusal, &self.id)
    }
}
