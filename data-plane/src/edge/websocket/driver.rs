//! Moves bytes between one socket and its streams: reads frames, serves streams in turn, writes, and keeps the time.

use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, Sink, Stream as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ntonix_llm::call::{Call, Op};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::CapacityError,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tower::ServiceExt as _;

use super::{
    lanes::Lanes,
    session::{Action, IDLE_AT_MOST, Session},
    stream::{Stream, Turn},
};
use crate::{
    edge::{Edge, Peer, credential::Shown, http::too_large, new_request_id, respond},
    exchange::{Client, Exchange},
    policy::observe::Observer,
    refusal::{Kind, Refusal},
};

/// So much is written before the socket is flushed and the client's frames are read again.
const ROUND: usize = 64 * 1024;
/// A client that lets more replies to its own frames lie than this is not read on. Replies are all that it can make us
/// hold without limit: a ping has its pong, whoever reads it.
const REPLIES_MOST: usize = 64 * 1024;
/// What a pong of ours has before its payload (RFC 6455 §5.2: a server's frames are not masked).
const PONG_HEAD: usize = 2;
/// How often the slow clocks are looked at.
const TICK: Duration = Duration::from_secs(5);
/// A ping after so many ticks; a client that has sent nothing for three pings is gone.
const PING_TICKS: u32 = 4;
const SILENCE_AT_MOST: Duration = Duration::from_secs(60);
/// How long the other side may take to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// What is read of a client that did not keep to the protocol, and how long its next bytes may take.
const SWALLOWED_MOST: usize = 64 * 1024 * 1024;
const SWALLOW_WITHIN: Duration = Duration::from_secs(1);
/// Service Restart (IANA WebSocket close codes): the client may connect again at once.
const RESTART: u16 = 1012;

/// One socket.
pub(super) struct Driver {
    edge: Arc<Edge>,
    peer: Arc<Peer>,
    client: Arc<Client>,
    shown: Shown,
    socket: WebSocketStream<TokioIo<Upgraded>>,
    session: Session,
    lanes: Lanes<Stream>,
    ticks: Interval,
    tick: u32,
    heard: Instant,
    /// Since when there is no stream.
    idle_since: Instant,
    /// Bytes written since the last flush.
    unflushed: usize,
    /// Those of them that answer the client's own frames.
    replies: usize,
}

/// How a socket is closed.
struct Farewell {
    code: u16,
    reason: &'static str,
}

type Flow = ControlFlow<Farewell>;

// === impl Driver ===

impl Driver {
    pub(super) fn new(
        edge: Arc<Edge>,
        peer: Arc<Peer>,
        client: Arc<Client>,
        shown: Shown,
        socket: WebSocketStream<TokioIo<Upgraded>>,
    ) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (now, session) = (Instant::now(), Session::new(edge.stall));
        Self {
            edge,
            peer,
            client,
            shown,
            socket,
            session,
            lanes: Lanes::new(),
            ticks,
            tick: 0,
            heard: now,
            idle_since: now,
            unflushed: 0,
            replies: 0,
        }
    }

    /// Serves the socket to its end. Its streams end with it: their backends are cut.
    pub(super) async fn run(mut self) {
        let (edge, greeting) = (Arc::clone(&self.edge), self.session.greeting());
        let drain = edge.drain.clone();
        let mut draining = std::pin::pin!(drain.draining().fuse());
        let mut stopping = std::pin::pin!(drain.stopping().fuse());
        let mut greeted = self.say(greeting);
        let farewell = poll_fn(|cx| {
            if let ControlFlow::Break(farewell) = std::mem::replace(&mut greeted, Flow::Continue(())) {
                return Poll::Ready(farewell);
            }
            if draining.as_mut().poll(cx).is_ready() {
                let goaway = self.session.drain();
                greeted = self.say(goaway);
            }
            if stopping.as_mut().poll(cx).is_ready() {
                self.peer.stopping.begin();
                self.fail_all();
                return Poll::Ready(Farewell { code: RESTART, reason: "draining" });
            }
            self.poll(cx)
        })
        .await;
        self.close(farewell).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Farewell> {
        loop {
            if let Poll::Ready(ControlFlow::Break(farewell)) = self.poll_clocks(cx) {
                return Poll::Ready(farewell);
            }
            // The client first: a cancel or more credit changes what is to be written.
            let listens = self.replies < REPLIES_MOST;
            let read = listens
                && match self.poll_read(cx) {
                    Poll::Ready(ControlFlow::Break(farewell)) => return Poll::Ready(farewell),
                    read => read.is_ready(),
                };
            // Nothing is pulled from a backend while the client has not taken what is there.
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => (self.unflushed, self.replies) = (0, 0),
                Poll::Ready(Err(_)) => return Poll::Ready(Farewell::gone()),
                Poll::Pending if read => continue,
                Poll::Pending => return Poll::Pending,
            }
            match self.serve_streams(cx) {
                ControlFlow::Break(farewell) => return Poll::Ready(farewell),
                ControlFlow::Continue(()) if self.unflushed > 0 || read || !listens => {}
                ControlFlow::Continue(()) => return Poll::Pending,
            }
        }
    }

    /// Reads one frame and does what it says.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Flow> {
        let message = match std::task::ready!(Pin::new(&mut self.socket).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Poll::Ready(Flow::Break(Farewell::of(&error))),
            None => return Poll::Ready(Flow::Break(Farewell::gone())),
        };
        self.heard = Instant::now();
        let before = self.unflushed;
        let flow = match message {
            Message::Text(text) => self.act(&text),
            Message::Binary(_) => Flow::Break(Farewell { code: 1003, reason: "text_only" }),
            // tungstenite answers pings and closes by itself, with the next flush.
            Message::Ping(payload) => {
                self.unflushed += PONG_HEAD + payload.len();
                Flow::Continue(())
            }
            Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Flow::Continue(()),
        };
        self.replies += self.unflushed - before;
        Poll::Ready(flow)
    }

    fn act(&mut self, text: &str) -> Flow {
        match self.session.take(text) {
            Action::Say(frame) => self.say(frame),
            Action::Create { id, op, body } => self.create(id, op, body),
            Action::Cancel(id, last) => {
                // Dropping it is the cancel: the backend's connection is cut.
                self.lanes.remove(&id);
                self.rest();
                self.say(last)
            }
            Action::Wake(Some(id)) => {
                self.lanes.wake(&id);
                Flow::Continue(())
            }
            Action::Wake(None) => {
                self.lanes.wake_all();
                Flow::Continue(())
            }
            Action::Nothing => Flow::Continue(()),
            Action::Close(code, reason) => Flow::Break(Farewell { code, reason }),
        }
    }

    /// Begins a stream: an exchange of its own, under the configuration and the key's standing of this moment.
    fn create(&mut self, id: Arc<str>, op: Op, body: Bytes) -> Flow {
        let (started, request_id) = (Instant::now(), new_request_id());
        let door = Observer::at_the_door(self.edge.books.clone(), &request_id, op, &self.client, started);
        let exchange = match self.exchange(op, body, &request_id, started) {
            Ok(exchange) => exchange,
            Err(refusal) => {
                door.refused(&refusal);
                return self.fail(&id, &refusal, &request_id);
            }
        };
        let (streams, stack) = (exchange.call.stream, self.edge.stack.clone());
        let answer = async move {
            // Not before it is polled: the socket may be gone by then.
            door.pass();
            stack.oneshot(exchange).await
        };
        self.lanes.insert(id, Stream::new(request_id, streams, answer.boxed()));
        Flow::Continue(())
    }

    fn exchange(&self, op: Op, body: Bytes, request_id: &Arc<str>, started: Instant) -> Result<Exchange, Refusal> {
        let live =
            self.edge.cell.load().ok_or_else(|| Refusal::new(Kind::NotConfigured, "there is no configuration"))?;
        let shown = self.shown.as_ref().map(Option::as_deref).map_err(|why| *why);
        let identity = live.identify(shown, self.peer.anonymous);
        let most = live.limits().body;
        if body.len() as u64 > most {
            return Err(too_large(most));
        }
        let call = Call::parse(op, body)?;
        Ok(self.edge.exchange(Arc::clone(request_id), live, call, &self.client, identity, started))
    }

    /// Serves streams in turn until none has anything or a round is full.
    fn serve_streams(&mut self, cx: &mut Context<'_>) -> Flow {
        while self.unflushed < ROUND {
            let session = &mut self.session;
            let polled = self.lanes.poll_next(cx, |id, stream, cx| {
                // Without credit a stream that has an event waits, and its backend is not read on.
                if stream.has_event() && !session.may_send(id) {
                    session.stall(id, Instant::now());
                    return Poll::Pending;
                }
                match std::task::ready!(stream.poll_look(cx)) {
                    None if !session.may_send(id) => {
                        session.stall(id, Instant::now());
                        Poll::Pending
                    }
                    None => Poll::Ready(stream.take_event().map(Turn::Event)),
                    turn => Poll::Ready(turn),
                }
            });
            let Poll::Ready((id, turn)) = polled else { return Flow::Continue(()) };
            if let Some(turn) = turn {
                self.serve(&id, turn)?;
            }
        }
        Flow::Continue(())
    }

    fn serve(&mut self, id: &Arc<str>, turn: Turn) -> Flow {
        match turn {
            Turn::Open(status) if status.is_success() => {
                let Some(request_id) = self.lanes.get(id).map(|stream| Arc::clone(stream.request_id())) else {
                    return Flow::Continue(());
                };
                self.say(super::frames::open(id, &request_id, status.as_u16()))
            }
            // What follows is the error.
            Turn::Open(_) => Flow::Continue(()),
            Turn::Event(object) => match self.session.delta(id, object.get()) {
                Some(frame) => self.say(frame),
                None => Flow::Continue(()),
            },
            Turn::Done(usage) => {
                self.lanes.remove(id);
                let last = self.session.done(id, usage);
                self.rest();
                last.map_or(Flow::Continue(()), |frame| self.say(frame))
            }
            Turn::Failed(refusal) => {
                let stream = self.lanes.remove(id);
                let request_id = stream.map_or_else(new_request_id, |stream| Arc::clone(stream.request_id()));
                self.fail(id, &refusal, &request_id)
            }
        }
    }

    /// Tells the client that a stream has failed; the others run on.
    fn fail(&mut self, id: &str, refusal: &Refusal, request_id: &Arc<str>) -> Flow {
        let Some(seq) = self.session.fail(id) else { return Flow::Continue(()) };
        self.rest();
        self.say(respond::frame(refusal, id, seq, request_id))
    }

    /// The gateway goes away now: each stream hears of it.
    fn fail_all(&mut self) {
        let refusal = Refusal::stopped();
        for (id, mut stream) in self.lanes.take_all() {
            stream.abort(&refusal);
            // A client that takes nothing more hears it from the close.
            let _ = self.fail(&id, &refusal, stream.request_id());
        }
    }

    fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<Flow> {
        while self.ticks.poll_tick(cx).is_ready() {
            let now = Instant::now();
            self.tick += 1;
            for id in self.session.stalled(now) {
                let refusal = Refusal::new(Kind::ClientStalled, "the client gave this stream no credit for too long");
                let Some(mut stream) = self.lanes.remove(&id) else { continue };
                stream.abort(&refusal);
                if let Flow::Break(farewell) = self.fail(&id, &refusal, stream.request_id()) {
                    return Poll::Ready(Flow::Break(farewell));
                }
            }
            if self.peer.activity.is_blocked() {
                // It answers no ping because it reads none: the outlet's clock decides.
                self.heard = now;
            }
            if now.duration_since(self.heard) > SILENCE_AT_MOST {
                return Poll::Ready(Flow::Break(Farewell::gone()));
            }
            let is_idle = self.session.streams() == 0;
            if is_idle && self.edge.drain.is_draining() {
                return Poll::Ready(Flow::Break(Farewell { code: RESTART, reason: "draining" }));
            }
            if is_idle && now.duration_since(self.idle_since) >= IDLE_AT_MOST {
                return Poll::Ready(Flow::Break(Farewell { code: 1000, reason: "idle" }));
            }
            if self.tick.is_multiple_of(PING_TICKS) && self.send(Message::Ping(Bytes::new())).is_err() {
                return Poll::Ready(Flow::Break(Farewell::gone()));
            }
        }
        Poll::Pending
    }

    /// A stream has ended: when it was the last one, idle time begins, and a socket that drains is done.
    fn rest(&mut self) {
        if self.session.streams() == 0 {
            self.idle_since = Instant::now();
            if self.edge.drain.is_draining() {
                self.ticks.reset_immediately();
            }
        }
    }

    fn say(&mut self, frame: String) -> Flow {
        match self.send(Message::Text(Utf8Bytes::from(frame))) {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(Farewell::gone()),
        }
    }

    /// Puts a message into the buffer of the socket; the next flush sends it.
    fn send(&mut self, message: Message) -> Result<(), Box<Error>> {
        self.unflushed += message.len().max(1);
        Pin::new(&mut self.socket).start_send(message).map_err(Box::new)
    }

    async fn close(mut self, farewell: Farewell) {
        // First the streams: their backends must not wait for the client's last word.
        drop(std::mem::replace(&mut self.lanes, Lanes::new()));
        if farewell.code == 0 {
            return;
        }
        let frame = CloseFrame { code: CloseCode::from(farewell.code), reason: farewell.reason.into() };
        let closing = async {
            self.socket.close(Some(frame)).await?;
            // Until the client has answered; after a broken frame nothing more is read.
            while let Some(read) = poll_fn(|cx| Pin::new(&mut self.socket).poll_next(cx)).await {
                read?;
            }
            Ok::<_, Error>(())
        };
        // A client that does not answer is let go.
        let _ = timeout(CLOSE_WITHIN, closing).await;
        if farewell.is_broken() {
            self.swallow().await;
        }
    }

    /// Reads on without looking: a socket that is closed with bytes unread is reset, and the reset may overtake the
    /// close frame that says why.
    async fn swallow(&mut self) {
        let (mut buffer, mut left) = ([0; 8 * 1024], SWALLOWED_MOST);
        while left > 0 {
            match timeout(SWALLOW_WITHIN, self.socket.get_mut().read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => left = left.saturating_sub(read),
                _ => return,
            }
        }
    }
}

// === impl Farewell ===

impl Farewell {
    /// The client is gone: there is nobody to say a word to.
    fn gone() -> Self {
        Self { code: 0, reason: "" }
    }

    /// Can frames not be read any more?
    fn is_broken(&self) -> bool {
        matches!(self.code, 1002 | 1007 | 1009)
    }

    /// What a broken frame means (RFC 6455 §7.4.1).
    fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Self { code: 1009, reason: "frame_too_large" },
            Error::Utf8(_) => Self { code: 1007, reason: "not_utf8" },
            Error::Protocol(_) => Self { code: 1002, reason: "protocol_error" },
            _ => Self::gone(),
        }
    }
}
