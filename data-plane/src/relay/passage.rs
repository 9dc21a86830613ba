//! Brings a large body back that is not a stream: as it comes, with its usage read from the last bytes.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use ntonix_llm::{Usage, call::Op, estimate, reply};
use tokio::time::Instant;

use super::{
    Tally,
    nesting::Nesting,
    timers::{Alarm, Timers},
};
use crate::{
    balance::Picked,
    exchange::Exchange,
    refusal::{Kind, Refusal},
    routing::Route,
    upstream::Body,
};

/// Usage stands at the end of a body; so many of its last bytes are looked at.
const LAST: usize = 512;

/// A large body on its way to the client. A failure after its first byte can only cut the connection: the client sees
/// a transport error, never a clean end.
#[derive(Debug)]
pub(crate) struct Passage {
    start: Option<Bytes>,
    body: Body,
    timers: Timers,
    route: Arc<Route>,
    picked: Option<Picked>,
    last: Vec<u8>,
    bytes: u64,
    usage: Option<Usage>,
    /// What it holds was generated, and is not numbers.
    is_text: bool,
    /// Watched when nothing but the end of its connection ends the body: a backend that dies ends it too.
    nesting: Option<Nesting>,
}

// === impl Passage ===

impl Passage {
    /// A body of which `start` was read already; `nesting` says whether it is whole when its framing does not.
    pub(crate) fn new(
        exchange: &Exchange,
        route: &Arc<Route>,
        start: Bytes,
        body: Body,
        nesting: Option<Nesting>,
    ) -> Self {
        Self {
            start: Some(start),
            body,
            timers: Timers::new(route.spec.deadlines.idle, None, exchange.over_at),
            route: Arc::clone(route),
            picked: None,
            last: Vec::with_capacity(2 * LAST),
            bytes: 0,
            usage: None,
            is_text: exchange.call.op != Op::Embeddings,
            nesting,
        }
    }

    /// The stream in flight on the backend, to be held until this ends.
    pub(crate) fn hold(&mut self, picked: Picked) {
        self.picked = Some(picked);
    }

    /// The next bytes.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        let item = match self.start.take() {
            Some(start) => Some(Ok(start)),
            None => match self.body.poll_data(cx) {
                Poll::Ready(Some(data)) => Some(data.map_err(Refusal::from)),
                Poll::Ready(None) => self.cut_short().map(Err),
                Poll::Pending => match self.timers.poll_alarm(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(alarm) => Some(Err(self.too_late(alarm))),
                },
            },
        };
        match &item {
            Some(Ok(data)) => self.note(data),
            Some(Err(refusal)) => self.fail(refusal),
            None => self.end(),
        }
        Poll::Ready(item)
    }

    /// What has passed so far.
    pub(crate) fn tally(&self) -> Tally {
        let estimate =
            || if self.is_text { estimate::tokens(usize::try_from(self.bytes).unwrap_or(usize::MAX)) } else { 0 };
        let tokens = self.usage.map_or_else(estimate, |usage| usage.completion_tokens);
        Tally { generated: tokens, delivered: tokens, bytes: self.bytes, usage: self.usage, first_token: None }
    }

    fn note(&mut self, data: &[u8]) {
        self.timers.moved(Instant::now());
        if let Some(nesting) = &mut self.nesting {
            nesting.read(data);
        }
        self.bytes += data.len() as u64;
        let data = &data[data.len().saturating_sub(LAST)..];
        let too_many = (self.last.len() + data.len()).saturating_sub(LAST);
        self.last.drain(..too_many.min(self.last.len()));
        self.last.extend_from_slice(data);
    }

    /// What to say of the end of the connection when it came before the end of the body.
    fn cut_short(&self) -> Option<Refusal> {
        let is_whole = self.nesting.as_ref().is_none_or(Nesting::is_whole);
        let public = || format!("the backend's answer ended after {} bytes, before it was finished", self.bytes);
        (!is_whole).then(|| Refusal::new(Kind::UpstreamReset, public()))
    }

    fn end(&mut self) {
        self.usage = usage_at_the_end(&self.last);
        if let Some(picked) = &mut self.picked {
            picked.succeeded();
        }
    }

    fn too_late(&self, alarm: Alarm) -> Refusal {
        let deadlines = &self.route.spec.deadlines;
        match alarm {
            Alarm::Over => Refusal::new(Kind::DeadlineExceeded, format!("not finished within {:?}", deadlines.total)),
            Alarm::Idle | Alarm::Heartbeat => {
                Refusal::new(Kind::UpstreamTimeout, format!("the backend said nothing for {:?}", deadlines.idle))
            }
        }
    }

    fn fail(&mut self, refusal: &Refusal) {
        if let Some(picked) = &mut self.picked {
            picked.failed(refusal);
        }
    }
}

/// Reads `…,"usage":{…}}`: the object is made whole again and read as any other.
fn usage_at_the_end(last: &[u8]) -> Option<Usage> {
    let at = memchr::memmem::rfind(last, b"\"usage\"")?;
    reply::usage_of(&[b"{", &last[at..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_the_last_bytes_of_a_body() {
        let last = br#"0.25],"index":3}],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(usage_at_the_end(last).map(|usage| usage.prompt_tokens), Some(7));
        assert_eq!(usage_at_the_end(br#"0.25],"index":3}]}"#), None);
    }
}
