//! Serves one socket: reads the client's frames, lets its streams speak in turn, and keeps the time.

use std::{
    future::poll_fn,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::HeaderMap;
use ntonix_llm::call::{Call, Op};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt as _;

use super::{
    lanes::Lanes,
    session::{Action, IDLE_AT_MOST, Session},
    socket::{Farewell, Flow, Socket},
    stream::{Stream, Turn},
};
use crate::{
    edge::{Edge, Peer, credential::Shown, http::too_large, new_request_id, respond},
    exchange::{Client, Exchange},
    policy::observe::Observer,
    refusal::{Kind, Refusal},
};

/// A stream that has so many bytes of frames sent gives way to the others.
const TURN: usize = 4 * 1024;
/// How often the slow clocks are looked at.
const TICK: Duration = Duration::from_secs(5);
/// A ping after so many ticks; a client that has sent nothing for three pings is gone.
const PING_TICKS: u32 = 4;
const SILENCE_AT_MOST: Duration = Duration::from_secs(60);
/// Service Restart (IANA WebSocket close codes): the client may connect again at once.
const RESTART: u16 = 1012;

/// One socket and all that is on it.
pub(super) struct Driver {
    edge: Arc<Edge>,
    peer: Arc<Peer>,
    client: Arc<Client>,
    /// Those of the handshake, for all streams.
    headers: Arc<HeaderMap>,
    shown: Shown,
    socket: Socket,
    session: Session,
    lanes: Lanes<Stream>,
    ticks: Interval,
    tick: u32,
    heard: Instant,
    /// Since when there is no stream.
    idle_since: Instant,
}

// === impl Driver ===

impl Driver {
    pub(super) fn new(
        edge: Arc<Edge>,
        peer: Arc<Peer>,
        client: Arc<Client>,
        headers: Arc<HeaderMap>,
        shown: Shown,
        socket: Socket,
    ) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (now, session) = (Instant::now(), Session::new(edge.stall));
        Self {
            edge,
            peer,
            client,
            headers,
            shown,
            socket,
            session,
            lanes: Lanes::new(),
            ticks,
            tick: 0,
            heard: now,
            idle_since: now,
        }
    }

    /// Serves the socket to its end. Its streams end with it: their backends are cut.
    pub(super) async fn run(mut self) {
        let (edge, greeting) = (Arc::clone(&self.edge), self.session.greeting());
        let drain = edge.drain.clone();
        let mut draining = std::pin::pin!(drain.draining().fuse());
        let mut stopping = std::pin::pin!(drain.stopping().fuse());
        let mut greeted = self.socket.say(&greeting);
        let farewell = poll_fn(|cx| {
            if let ControlFlow::Break(farewell) = std::mem::replace(&mut greeted, Flow::Continue(())) {
                return Poll::Ready(farewell);
            }
            if draining.as_mut().poll(cx).is_ready() {
                let goaway = self.session.drain();
                greeted = self.socket.say(&goaway);
            }
            if stopping.as_mut().poll(cx).is_ready() {
                self.peer.stopping.begin();
                self.fail_all();
                return Poll::Ready(Farewell { code: RESTART, reason: "draining" });
            }
            self.poll(cx)
        })
        .await;
        // First the streams: their backends must not wait for the client's last word.
        drop(self.lanes);
        self.socket.close(farewell).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Farewell> {
        loop {
            if let Poll::Ready(ControlFlow::Break(farewell)) = self.poll_clocks(cx) {
                return Poll::Ready(farewell);
            }
            // The client first: a cancel or more credit changes what is to be written.
            let listens = self.socket.listens();
            let read = listens
                && match self.poll_read(cx) {
                    Poll::Ready(ControlFlow::Break(farewell)) => return Poll::Ready(farewell),
                    read => read.is_ready(),
                };
            // Nothing is pulled from a backend while the client has not taken what is there.
            match self.socket.poll_flush(cx) {
                Poll::Ready(ControlFlow::Continue(())) => {}
                Poll::Ready(ControlFlow::Break(farewell)) => return Poll::Ready(farewell),
                Poll::Pending if read => continue,
                Poll::Pending => return Poll::Pending,
            }
            if let ControlFlow::Break(farewell) = self.serve_streams(cx) {
                return Poll::Ready(farewell);
            }
            if read || !listens || self.socket.is_full() {
                continue;
            }
            // Both sides have said all that they have to say.
            return match self.socket.poll_flush(cx) {
                Poll::Ready(ControlFlow::Break(farewell)) => Poll::Ready(farewell),
                _ => Poll::Pending,
            };
        }
    }

    /// Reads one frame and does what it says.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Flow> {
        let before = self.socket.unflushed();
        let message = match ready!(self.socket.poll_read(cx)) {
            ControlFlow::Continue(message) => message,
            ControlFlow::Break(farewell) => return Poll::Ready(Flow::Break(farewell)),
        };
        self.heard = Instant::now();
        let flow = match message {
            Message::Text(text) => self.act(&text),
            Message::Binary(_) => Flow::Break(Farewell { code: 1003, reason: "text_only" }),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Flow::Continue(()),
        };
        self.socket.note_replies(self.socket.unflushed() - before);
        Poll::Ready(flow)
    }

    fn act(&mut self, text: &str) -> Flow {
        match self.session.take(text) {
            Action::Say(frame) => self.socket.say(&frame),
            Action::Create { id, op, body } => self.create(id, op, body),
            Action::Cancel(id, last) => {
                // Dropping it is the cancel: the backend's connection is cut.
                self.lanes.remove(&id);
                self.rest();
                self.socket.say(&last)
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
        Ok(Exchange::new(
            Arc::clone(request_id),
            live,
            call,
            Arc::clone(&self.client),
            Arc::clone(&self.headers),
            identity,
            started,
        ))
    }

    /// Serves streams in turn until none has anything or a round is full.
    fn serve_streams(&mut self, cx: &mut Context<'_>) -> Flow {
        while let Some((id, turn)) = next_turn(&mut self.lanes, &mut self.session, &mut self.socket, cx)? {
            self.serve(&id, turn)?;
        }
        Flow::Continue(())
    }

    fn serve(&mut self, id: &Arc<str>, turn: Turn) -> Flow {
        match turn {
            Turn::Open(status) if status.is_success() => {
                let Some(request_id) = self.lanes.get(id).map(|stream| Arc::clone(stream.request_id())) else {
                    return Flow::Continue(());
                };
                self.socket.say(&super::frames::open(id, &request_id, status.as_u16()))
            }
            // What follows is the error.
            Turn::Open(_) => Flow::Continue(()),
            Turn::Done(usage) => {
                self.lanes.remove(id);
                let last = self.session.done(id, usage);
                self.rest();
                last.map_or(Flow::Continue(()), |frame| self.socket.say(&frame))
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
        self.socket.say(&respond::frame(refusal, id, seq, request_id))
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
            if self.tick.is_multiple_of(PING_TICKS)
                && let Flow::Break(farewell) = self.socket.ping()
            {
                return Poll::Ready(Flow::Break(farewell));
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
}

/// Lets streams have their turns, up to one that has something other than events to say, or until none has anything or
/// the round is full: `None`.
fn next_turn<I: AsyncRead + AsyncWrite + Unpin>(
    lanes: &mut Lanes<Stream>,
    session: &mut Session,
    socket: &mut Socket<I>,
    cx: &mut Context<'_>,
) -> Flow<Option<(Arc<str>, Turn)>> {
    while !socket.is_full() {
        let polled = lanes.poll_next(cx, |id, stream, cx| poll_turn(session, socket, id, stream, cx));
        let Poll::Ready((id, turn)) = polled else { break };
        if let Some(turn) = turn? {
            return Flow::Continue(Some((id, turn)));
        }
    }
    Flow::Continue(None)
}

/// One turn of a stream: its events, as long as it has some and may send them, or anything else that it has. `None`: it
/// may have more, after the others.
fn poll_turn<I: AsyncRead + AsyncWrite + Unpin>(
    session: &mut Session,
    socket: &mut Socket<I>,
    id: &str,
    stream: &mut Stream,
    cx: &mut Context<'_>,
) -> Poll<Flow<Option<Turn>>> {
    let Some(mut sender) = session.sender(id) else { return Poll::Pending };
    let mut sent = 0;
    // It ends with the round, too: the next one in line would have its turn on top.
    while sent < TURN && !socket.is_full() {
        if let Some(turn) = ready!(stream.poll_look(cx)) {
            return Poll::Ready(Flow::Continue(Some(turn)));
        }
        // Without credit a stream that has an event waits, and its backend is not read on.
        if !sender.may_send() {
            sender.stall(Instant::now());
            return Poll::Pending;
        }
        let Some(object) = stream.take_event() else { continue };
        match socket.delta(&mut sender, id, &object) {
            Flow::Continue(bytes) => sent += bytes,
            Flow::Break(farewell) => return Poll::Ready(Flow::Break(farewell)),
        }
    }
    Poll::Ready(Flow::Continue(None))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
