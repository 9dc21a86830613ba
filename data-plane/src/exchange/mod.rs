//! The currency of the stack: one question, and its streamed answer.

mod client;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use ntonix_llm::{Usage, call::Call};
use tokio::time::Instant;

pub(crate) use self::client::{Client, ClientAddress, Leave, Transport};
use crate::{
    live::{Identity, Key, Live, Tenant},
    policy::observe::Observer,
    refusal::{Kind, Refusal},
    relay::{
        Passage, Relay, Tally,
        opening::{self, Opening},
    },
    routing::Route,
};

/// Until the route says otherwise.
const OVER_WITHIN: Duration = Duration::from_secs(30 * 60);

/// One question on its way through the stack. Cloning is cheap; a clone is the same question.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// What everyone who asks gets to see: in the answer, at the backend, in the log.
    pub(crate) id: Arc<str>,
    /// The configuration that it began under, to its end.
    pub(crate) live: Arc<Live>,
    /// What is asked.
    pub(crate) call: Arc<Call>,
    /// Who asks.
    pub(crate) client: Arc<Client>,
    /// The headers of the request, without the client's credentials: what is not there cannot leak. Not the client's, who
    /// is there to the end: headers of HTTP/1.1 hold the 8 KiB that they were read into.
    pub(crate) headers: Arc<HeaderMap>,
    /// What the credential of the client stands for.
    pub(crate) identity: Identity,
    /// When it arrived.
    pub(crate) started: Instant,
    /// When it must be over; set by `deadline`.
    pub(crate) over_at: Instant,
    /// Who answers; set by routing.
    pub(crate) route: Option<Arc<Route>>,
    /// What the one line of the log will say.
    pub(crate) record: Arc<Record>,
}

/// What is learned of an exchange on its way, for the one line of the log.
#[derive(Debug, Default)]
pub(crate) struct Record(Mutex<Facts>);

/// See [`Record`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The key that was shown.
    pub(crate) key: Option<Arc<Key>>,
    /// Who asks.
    pub(crate) tenant: Option<Arc<Tenant>>,
    /// Who answers.
    pub(crate) route: Option<Arc<Route>>,
    /// The pool and the backend of the last attempt.
    pub(crate) backend: Option<(Arc<str>, Arc<str>)>,
    /// Attempts made.
    pub(crate) attempts: u32,
}

/// An answer: its head, and a body that is pulled.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 200, or what the backend said instead.
    pub(crate) status: StatusCode,
    /// The backend's headers that the client may see.
    pub(crate) headers: HeaderMap,
    /// The rest.
    pub(crate) body: ReplyBody,
}

/// The body of an answer, with all that must live as long as it does.
pub(crate) struct ReplyBody {
    source: Source,
    holds: Vec<Hold>,
    /// On the heap: an answer is moved through all layers.
    observer: Option<Box<Observer>>,
    settles: Settles,
}

/// When an answer counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settles {
    /// With its last bytes: the client's connection takes what it is given.
    AtItsEnd,
    /// When whoever cut it into pieces says that all of them have left.
    WhenTold,
}

/// Something that is given back when the answer ends or is dropped: limits count streams, not headers.
pub(crate) type Hold = Box<dyn Send>;

/// Where the bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// All of it is here.
    Full(Box<Whole>),
    /// A backend's stream.
    Relay(Box<Relay>),
    /// A large body that is not a stream.
    Passage(Box<Passage>),
    /// The head was sent early; the backend's first event is still awaited.
    Opening(Box<Opening>),
    /// Nothing is left. What passed, when anything was counted.
    End(Option<Tally>),
}

/// A body that is all here.
#[derive(Debug)]
pub(crate) struct Whole {
    /// `None` once it was handed out.
    bytes: Option<Bytes>,
    tally: Tally,
}

// === impl Exchange ===

impl Exchange {
    /// A question that arrived at `started`, and that knows nothing yet of what it will learn on its way.
    pub(crate) fn new(
        id: Arc<str>,
        live: Arc<Live>,
        call: Call,
        client: Arc<Client>,
        headers: Arc<HeaderMap>,
        identity: Identity,
        started: Instant,
    ) -> Self {
        let (over_at, record) = (started + OVER_WITHIN, Arc::default());
        Self { id, live, call: Arc::new(call), client, headers, identity, started, over_at, route: None, record }
    }

    /// The route that routing found; the stack guarantees that it ran.
    pub(crate) fn route(&self) -> Result<&Arc<Route>, Refusal> {
        self.route.as_ref().ok_or_else(|| Refusal::new(Kind::Internal, "the request was not routed"))
    }
}

// === impl Record ===

impl Record {
    /// The facts so far.
    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reply ===

impl Reply {
    /// An answer whose body is all here.
    #[cfg(test)]
    pub(crate) fn full(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self::whole(status, headers, body, Tally::default())
    }

    /// An answer whose body is all here, and the tokens that a backend used for it.
    pub(crate) fn whole(status: StatusCode, headers: HeaderMap, body: Bytes, tally: Tally) -> Self {
        Self { status, headers, body: ReplyBody::new(Source::Full(Box::new(Whole { bytes: Some(body), tally }))) }
    }

    /// An answer that streams.
    pub(crate) fn stream(headers: HeaderMap, source: Source) -> Self {
        Self { status: StatusCode::OK, headers, body: ReplyBody::new(source) }
    }

    /// Gives something back when the answer ends or is dropped.
    pub(crate) fn hold(&mut self, hold: Hold) {
        self.body.holds.push(hold);
    }

    /// Tells `observer` how the answer ends.
    pub(crate) fn observe(&mut self, observer: Observer) {
        self.body.observer = Some(Box::new(observer));
    }
}

// === impl ReplyBody ===

impl ReplyBody {
    fn new(source: Source) -> Self {
        Self { source, holds: Vec::new(), observer: None, settles: Settles::AtItsEnd }
    }

    /// The next bytes: whole events of a stream, or the body. An error is the last item; after it or `None` all that
    /// was held has been given back.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        // A panic in a relay ends that stream alone.
        let polled = catch_unwind(AssertUnwindSafe(|| self.source.poll_next(cx)));
        let item = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(item)) => item,
            Err(_) => {
                if let Some(observer) = &self.observer {
                    observer.panicked();
                }
                Some(Err(Refusal::new(Kind::Internal, "the gateway failed while it relayed this stream")))
            }
        };
        match &item {
            Some(Ok(_)) if !self.is_end() => {}
            Some(Err(refusal)) => self.finish(Some(refusal)),
            Some(Ok(_)) | None if self.settles == Settles::AtItsEnd => self.finish(None),
            Some(Ok(_)) | None => self.close(),
        }
        Poll::Ready(item)
    }

    /// From now on the end of the bytes is not yet the end of the exchange: [`settle`](Self::settle) is.
    pub(crate) fn settle_when_told(&mut self) {
        self.settles = Settles::WhenTold;
    }

    /// All that was pulled has left.
    pub(crate) fn settle(&mut self) {
        self.finish(None);
    }

    /// Of what was pulled, so many tokens were not handed on.
    pub(crate) fn held_back(&mut self, tokens: u64) {
        let mut passed = self.source.tally().unwrap_or_default();
        passed.delivered = passed.delivered.saturating_sub(tokens);
        self.source = Source::End(Some(passed));
    }

    /// Will `poll_next` give nothing more? Known with the last bytes, so that the end can leave with them.
    pub(crate) fn is_end(&self) -> bool {
        match &self.source {
            Source::Opening(_) | Source::Passage(_) => false,
            Source::Full(whole) => whole.bytes.is_none(),
            Source::Relay(relay) => relay.is_end(),
            Source::End(_) => true,
        }
    }

    /// What the backend said that it used, so far.
    pub(crate) fn usage(&self) -> Option<Usage> {
        self.source.tally().and_then(|tally| tally.usage)
    }

    /// How long it is, when that is known.
    pub(crate) fn size(&self) -> Option<u64> {
        match &self.source {
            Source::Full(whole) => Some(whole.bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::End(_) => Some(0),
            Source::Relay(_) | Source::Opening(_) | Source::Passage(_) => None,
        }
    }

    /// The source alone, for a body that nobody holds anything for yet.
    pub(crate) fn into_source(mut self) -> Source {
        std::mem::replace(&mut self.source, Source::End(None))
    }

    /// The gateway ends it: the error is what the client is told.
    pub(crate) fn abort(&mut self, refusal: &Refusal) {
        self.finish(Some(refusal));
    }

    fn finish(&mut self, refusal: Option<&Refusal>) {
        self.close();
        if let Some(observer) = self.observer.take() {
            observer.finished(refusal, self.source.tally());
        }
        self.holds.clear();
    }

    /// Nothing more is pulled: whatever still comes from the backend is cut off.
    fn close(&mut self) {
        self.source = Source::End(self.source.tally());
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        if let Some(observer) = self.observer.take() {
            observer.dropped(self.source.tally());
        }
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").field("source", &self.source).field("holds", &self.holds.len()).finish()
    }
}

// === impl Source ===

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        loop {
            match self {
                Source::End(_) => return Poll::Ready(None),
                Source::Full(whole) => return Poll::Ready(whole.take().map(Ok)),
                Source::Relay(relay) => return relay.poll_next(cx),
                Source::Passage(passage) => return passage.poll_next(cx),
                Source::Opening(opening) => match opening.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(opening::Step::Heartbeat(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                    Poll::Ready(Ok(opening::Step::Opened(source))) => *self = source,
                    Poll::Ready(Err(refusal)) => return Poll::Ready(Some(Err(refusal))),
                },
            }
        }
    }

    fn tally(&self) -> Option<Tally> {
        match self {
            Source::Relay(relay) => Some(relay.tally()),
            Source::Passage(passage) => Some(passage.tally()),
            Source::Full(whole) => Some(whole.tally),
            Source::Opening(_) => None,
            Source::End(passed) => *passed,
        }
    }
}

// === impl Whole ===

impl Whole {
    /// All of it, once.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let bytes = self.bytes.take()?;
        (self.tally.delivered, self.tally.bytes) = (self.tally.generated, bytes.len() as u64);
        (!bytes.is_empty()).then_some(bytes)
    }
}
