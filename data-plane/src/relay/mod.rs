//! Brings a backend's stream back: pull-driven, byte for byte, watched but not rewritten.
//!
//! No task, no channel: whoever pulls the relay drives the backend's connection, and dropping it cuts the connection.
//! Only whole events leave, so that an error or a heartbeat can be put between them at any time.

pub(crate) mod opening;
pub(crate) mod nesting;
mod passage;
pub(crate) mod timers;

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ntonix_llm::{
    Usage, openai,
    sse::{Splitter, TooLong},
    watch::{Ending, Watch},
};
use ntonix_runtime::{metrics, tasks};
use tokio::time::{Instant, timeout};

pub(crate) use self::passage::Passage;
use self::timers::{Alarm, Timers};
use crate::{
    balance::Picked,
    exchange::Exchange,
    refusal::{Kind, Refusal},
    routing::Route,
    upstream::Body,
};

/// The largest event that a backend may send.
const EVENT_MOST: usize = 8 * 1024 * 1024;
/// Events that are there together leave in pieces of about this size.
const GATHERED_MOST: usize = 16 * 1024;
/// How long a backend that has said `[DONE]` may take to end its body, so that its connection can be used again.
const LINGER: Duration = Duration::from_secs(1);

/// A backend's stream on its way to the client.
pub(crate) struct Relay {
    body: Option<Body>,
    splitter: Splitter,
    watch: Watch,
    timers: Timers,
    route: Arc<Route>,
    /// The backend's stream in flight; there once the attempt has succeeded.
    picked: Option<Picked>,
    /// The first events, read before the client heard anything.
    first: Option<Bytes>,
    state: State,
    started: Instant,
    first_token: Option<Duration>,
    last_event: Instant,
    between: metrics::Tally,
    bytes: u64,
    /// Tokens in what was handed out.
    delivered: u64,
}

#[derive(Debug)]
enum State {
    Flowing,
    /// Events have left with which this error must follow.
    Failing(Box<Refusal>),
    Ended,
}

/// What passed, for the log and the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Tokens that the backend sent, as far as its events tell.
    pub(crate) generated: u64,
    /// Those that went to the client.
    pub(crate) delivered: u64,
    /// Bytes that went to the client.
    pub(crate) bytes: u64,
    /// What the backend counted, when it said so.
    pub(crate) usage: Option<Usage>,
    /// From the arrival of the request to the first event.
    pub(crate) first_token: Option<Duration>,
}

// === impl Relay ===

impl Relay {
    /// A relay of `body`, which is a stream of events. `ask_usage`: the usage was asked for by us, not by the client.
    pub(crate) fn new(exchange: &Exchange, route: &Arc<Route>, body: Body, ask_usage: bool) -> Self {
        Self {
            body: Some(body),
            splitter: Splitter::new(EVENT_MOST),
            watch: Watch::new(&exchange.call, ask_usage),
            timers: Timers::new(route.spec.deadlines.idle, route.spec.heartbeat, exchange.over_at),
            route: Arc::clone(route),
            picked: None,
            first: None,
            state: State::Flowing,
            started: exchange.started,
            first_token: None,
            last_event: exchange.started,
            between: metrics::Tally::default(),
            bytes: 0,
            delivered: 0,
        }
    }

    /// Waits for the first events. An error here is one that the client has not heard anything before.
    pub(crate) async fn open(&mut self) -> Result<(), Refusal> {
        let first = poll_fn(|cx| self.poll_events(cx)).await;
        match first {
            Some(Ok(events)) => self.first = Some(events),
            Some(Err(refusal)) => return Err(refusal),
            // `[DONE]` and nothing else was seen complete.
            None => {}
        }
        Ok(())
    }

    /// The stream in flight on the backend, to be held until this ends.
    pub(crate) fn hold(&mut self, mut picked: Picked) {
        if let State::Ended = self.state {
            // All of it came with the first event.
            picked.succeeded();
        }
        self.picked = Some(picked);
    }

    /// The next whole events, or a heartbeat.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        let item = match self.first.take() {
            Some(events) => Some(Ok(events)),
            None => match self.poll_events(cx) {
                Poll::Ready(Some(Ok(events))) => Some(Ok(self.gather(events, cx))),
                Poll::Ready(item) => item,
                Poll::Pending => return self.poll_alarm(cx).map(Some),
            },
        };
        match &item {
            Some(Ok(events)) => {
                self.bytes += events.len() as u64;
                // Nothing that was watched is kept back: only whole events are, and they leave at once.
                self.delivered = self.watch.tokens();
            }
            Some(Err(refusal)) => self.fail(refusal),
            None => {}
        }
        Poll::Ready(item)
    }

    /// Will `poll_next` give nothing more?
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.state, State::Ended) && self.first.is_none()
    }

    /// What has passed so far.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            generated: self.watch.tokens(),
            delivered: self.delivered,
            bytes: self.bytes,
            usage: self.watch.usage(),
            first_token: self.first_token,
        }
    }

    /// Adds what else is there already. Nothing is waited for: a burst leaves in one piece instead of many, which is
    /// what makes it cheap.
    fn gather(&mut self, events: Bytes, cx: &mut Context<'_>) -> Bytes {
        let mut first = events;
        let mut gathered = BytesMut::new();
        while first.len() + gathered.len() < GATHERED_MOST && !self.is_end() {
            match self.poll_events(cx) {
                // Looked for again when this is polled next: a wake-up in between may go by while the client is slow.
                Poll::Pending | Poll::Ready(None) => break,
                Poll::Ready(Some(Ok(more))) => {
                    if gathered.is_empty() {
                        gathered.reserve(GATHERED_MOST);
                        gathered.extend_from_slice(&std::mem::take(&mut first));
                    }
                    gathered.extend_from_slice(&more);
                }
                Poll::Ready(Some(Err(refusal))) => {
                    self.state = State::Failing(Box::new(refusal));
                    break;
                }
            }
        }
        if gathered.is_empty() { first } else { gathered.freeze() }
    }

    /// Pulls the backend until whole events are there.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        if let State::Failing(_) = self.state
            && let State::Failing(refusal) = std::mem::replace(&mut self.state, State::Ended)
        {
            return Poll::Ready(Some(Err(*refusal)));
        }
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let events = match body.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) => match self.take_in(data) {
                    Ok(events) if events.is_empty() && !self.is_over() => continue,
                    Ok(events) if matches!(self.state, State::Failing(_)) => return Poll::Ready(Some(Ok(events))),
                    Ok(events) => events,
                    Err(refusal) => return Poll::Ready(Some(Err(refusal))),
                },
                Poll::Ready(Some(Err(lost))) => match self.watch.ending() {
                    // The finish was here; what broke afterwards takes nothing away.
                    Ending::Complete { .. } => Bytes::new(),
                    _ => return Poll::Ready(Some(Err(self.stop(lost.into())))),
                },
                Poll::Ready(None) => Bytes::new(),
            };
            if self.is_over() || events.is_empty() {
                return Poll::Ready(self.end(events));
            }
            return Poll::Ready(Some(Ok(events)));
        }
    }

    /// Cuts what came into events and watches them.
    fn take_in(&mut self, data: Bytes) -> Result<Bytes, Refusal> {
        let before = self.watch.events();
        let events = match self.splitter.scan_for(data, &mut self.watch) {
            Ok(events) => events,
            Err(too_long) => return self.too_long(too_long),
        };
        let now = Instant::now();
        if Route::IS_OBSERVED && self.watch.events() > before {
            if self.first_token.is_none() {
                self.first_token = Some(now.duration_since(self.started));
            } else {
                let gap = now.duration_since(self.last_event);
                self.route.metrics.time_per_output_chunk.tally(&mut self.between, gap);
            }
            self.last_event = now;
        }
        // A comment of the backend is no sign that it generates.
        if !events.is_empty() {
            self.timers.moved(now);
        }
        Ok(events)
    }

    /// What came before the event that is too large still leaves.
    fn too_long(&mut self, mut too_long: TooLong) -> Result<Bytes, Refusal> {
        let before = std::mem::take(&mut too_long.before);
        let refusal = Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is too large");
        let refusal = self.stop(refusal.because(too_long));
        if before.is_empty() {
            return Err(refusal);
        }
        self.state = State::Failing(Box::new(refusal));
        Ok(before)
    }

    /// Was the terminal event, or an error, seen?
    fn is_over(&self) -> bool {
        self.watch.done_seen() || matches!(self.watch.ending(), Ending::Failed(_))
    }

    /// The backend has said its last: adds what is missing, or tells the client that something is.
    fn end(&mut self, events: Bytes) -> Option<Result<Bytes, Refusal>> {
        let refusal = match self.watch.ending() {
            Ending::Complete { done_seen } => {
                self.linger();
                self.state = State::Ended;
                if let Some(picked) = &mut self.picked {
                    picked.succeeded();
                }
                return Some(Ok(if done_seen { events } else { with_done(&events) }));
            }
            Ending::Failed(error) => Refusal::from_backend(error),
            Ending::Truncated => Refusal::new(Kind::UpstreamReset, "the backend's stream ended before it was finished"),
        };
        let refusal = self.stop(refusal);
        if events.is_empty() {
            return Some(Err(refusal));
        }
        self.state = State::Failing(Box::new(refusal));
        Some(Ok(events))
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Refusal>> {
        let deadlines = &self.route.spec.deadlines;
        let refusal = match std::task::ready!(self.timers.poll_alarm(cx)) {
            Alarm::Heartbeat => {
                self.timers.beaten(Instant::now());
                return Poll::Ready(Ok(Bytes::from_static(openai::HEARTBEAT)));
            }
            Alarm::Idle => {
                Refusal::new(Kind::UpstreamTimeout, format!("the backend said nothing for {:?}", deadlines.idle))
            }
            Alarm::Over => Refusal::new(Kind::DeadlineExceeded, format!("not finished within {:?}", deadlines.total)),
        };
        let refusal = self.stop(refusal);
        self.fail(&refusal);
        Poll::Ready(Err(refusal))
    }

    /// Nothing more comes from the backend: its connection is cut.
    fn stop(&mut self, refusal: Refusal) -> Refusal {
        self.body = None;
        self.state = State::Ended;
        refusal
    }

    /// The stream broke after the attempt was judged a success.
    fn fail(&mut self, refusal: &Refusal) {
        if let Some(picked) = &mut self.picked {
            picked.failed(refusal);
        }
    }

    /// Lets the backend end its body beside us, for the sake of its connection; the client need not wait for that.
    fn linger(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if !matches!(body.poll_data(&mut cx), Poll::Pending) {
            return;
        }
        tasks::spawn("linger", async move {
            // Anything but the end, or nothing in time, and the connection is dropped with the body.
            let _ended = timeout(LINGER, body.data()).await;
        });
    }
}

/// The terminal event that some backends never send.
fn with_done(events: &[u8]) -> Bytes {
    [events, openai::DONE].concat().into()
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.route.metrics.time_per_output_chunk.observe_n(&mut self.between);
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("state", &self.state).field("tally", &self.tally()).finish_non_exhaustive()
    }
}
