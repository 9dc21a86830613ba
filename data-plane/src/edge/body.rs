//! The body of an answer over HTTP: a whole one, or a reply whose errors become the last event of the stream.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use ntonix_llm::{
    sse::{Block, Keep, Splitter},
    watch,
};

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

    /// The next bytes; an error cuts the connection.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Events(events) => events.poll_next(cx).map(|bytes| bytes.map(Ok)),
            // A body that is not whole must never look whole.
            Self::Bytes(body) => body.poll_next(cx),
        }
    }

    /// Will `poll_data` give nothing more? Known with the last bytes, so that the end can leave with them.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Events(events) => events.ended || events.body.is_end(),
            Self::Bytes(body) => body.is_end(),
        }
    }

    /// How many bytes are to come, when that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Events(_) => None,
            Self::Bytes(body) => body.size(),
        }
    }

    /// From now on the end of the bytes is not yet the end of the exchange: [`settle`](Self::settle) is.
    pub(crate) fn settle_when_told(&mut self) {
        if let Some(body) = self.reply() {
            body.settle_when_told();
        }
    }

    /// All that was pulled has left.
    pub(crate) fn settle(&mut self) {
        if let Some(body) = self.reply() {
            body.settle();
        }
    }

    /// Of `chunk`, which was pulled, only the bytes before `at` have left, and no more will.
    pub(crate) fn cut_off(&mut self, chunk: &Bytes, at: usize) {
        match self {
            Self::Whole(_) => {}
            Self::Events(events) => events.body.held_back(tokens_after(chunk, at)),
            // Half of it is no answer.
            Self::Bytes(body) => body.held_back(u64::MAX),
        }
    }

    fn reply(&mut self) -> Option<&mut ReplyBody> {
        match self {
            Self::Whole(_) => None,
            Self::Events(Events { body, .. }) | Self::Bytes(body) => Some(body),
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

/// The tokens of the events that are not whole before `at`.
fn tokens_after(events: &Bytes, at: usize) -> u64 {
    tokens_of(events.clone()).saturating_sub(tokens_of(events.slice(..at)))
}

/// The tokens of the events that are whole in these bytes, as the relay counts them.
fn tokens_of(events: Bytes) -> u64 {
    let mut tokens = 0;
    let mut count = |block: Block<'_>| {
        let data = block.data();
        if data.trim_ascii() != b"[DONE]" {
            tokens += watch::tokens_in(&data);
        }
        Keep::Drop
    };
    // No event is too long: the relay has passed it on.
    let _nothing = Splitter::new(usize::MAX).scan(events, &mut count);
    tokens
}
