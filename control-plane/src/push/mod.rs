//! The push: one session for each worker, at most one transition unanswered, a newer one replaces what waits.

mod bounds;
mod codec;
pub mod fleet;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ntonix_proto::sync::v1::{Heartbeat, Hello, SyncRequest, Welcome, sync_request, sync_response::Frame};
use ntonix_runtime::drain::Drain;
use ntonix_runtime::tasks;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

pub use codec::SyncServer;

use crate::door::Peer;
use crate::metrics::Metrics;
use crate::snapshot::delta;
use crate::snapshot::publish::Publisher;
use codec::Replies;
use fleet::{Fleet, Seat};
use session::{Action, Ending, News, Session};

/// How long a new stream may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Frames between a session and its socket: enough to keep the socket busy, few enough to hold little for a slow worker.
const FRAMES_MAX: usize = 4;
/// Faults of a refusal that get a line in the log.
const FAULTS_TOLD: usize = 20;
/// Bytes of a worker's name.
const NAME_MAX: usize = 253;

/// Serves all workers; clones share everything.
#[derive(Clone, Debug)]
pub struct Push {
    publisher: Arc<Publisher>,
    fleet: Arc<Fleet>,
    metrics: Metrics,
    drain: Drain,
    heartbeat: Duration,
}

/// One worker's stream.
struct Conversation {
    push: Push,
    session: Session,
    seat: Seat,
    requests: Streaming<SyncRequest>,
    replies: mpsc::Sender<Result<Bytes, Status>>,
}

/// What a conversation waits for.
enum Event {
    Frame(Result<Option<SyncRequest>, Status>),
    Target,
    Time,
    Replaced,
    Drain,
}

// === impl Push ===

impl Push {
    /// Pushes what `publisher` publishes, notes in `fleet` who runs what, and sends a heartbeat every `heartbeat`.
    pub fn new(
        publisher: Arc<Publisher>,
        fleet: Arc<Fleet>,
        metrics: Metrics,
        drain: Drain,
        heartbeat: Duration,
    ) -> Self {
        Self { publisher, fleet, metrics, drain, heartbeat }
    }

    async fn sync(self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Replies>, Status> {
        let certified = request.extensions().get::<Peer>().and_then(|peer| peer.name.clone());
        let (replies, stream) = mpsc::channel(FRAMES_MAX);
        // The headers go out before the hello comes in: a worker may wait for them.
        tasks::spawn("push", self.converse(certified, request.into_inner(), replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn converse(
        self,
        certified: Option<String>,
        mut requests: Streaming<SyncRequest>,
        replies: mpsc::Sender<Result<Bytes, Status>>,
    ) {
        let outcome = match greeting(&mut requests).await {
            Ok(hello) => match name_of(&hello, certified) {
                Ok(name) => self.clone().seated(name, hello, requests, replies.clone()).await,
                Err(status) => Err(status),
            },
            Err(status) => Err(status),
        };
        if let Err(status) = outcome {
            // The worker may be gone, or too slow to hear it.
            let _ = timeout(self.heartbeat, replies.send(Err(status))).await;
        }
    }

    async fn seated(
        self,
        name: String,
        hello: Hello,
        requests: Streaming<SyncRequest>,
        replies: mpsc::Sender<Result<Bytes, Status>>,
    ) -> Result<(), Status> {
        let running = hello.running.clone();
        tracing::info!(
            worker.name = name,
            worker.version = hello.version,
            config.revision = running.as_ref().map_or(0, |id| id.revision),
            from_disk = hello.from_disk,
            "Worker connected"
        );
        let seat = self.fleet.enter(name.clone(), hello);
        let session =
            Session::open(running, seat.refused.clone(), self.publisher.newest(), self.heartbeat, Instant::now());
        let outcome = Conversation { push: self, session, seat, requests, replies }.run().await;
        match &outcome {
            Ok(()) => tracing::info!(worker.name = name, "Worker left"),
            Err(status) => tracing::info!(worker.name = name, reason = status.message(), "Worker cut off"),
        }
        outcome
    }
}

async fn greeting(requests: &mut Streaming<SyncRequest>) -> Result<Hello, Status> {
    let first =
        timeout(HELLO_TIMEOUT, requests.message()).await.map_err(|_| Status::deadline_exceeded("no hello came"))??;
    match first.and_then(|request| request.frame) {
        Some(sync_request::Frame::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first frame must be a hello")),
    }
}

/// The name in the certificate wins over what the worker calls itself.
fn name_of(hello: &Hello, certified: Option<String>) -> Result<String, Status> {
    let name = certified.unwrap_or_else(|| hello.name.clone());
    if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(Status::invalid_argument("a worker needs a name of 1 to 253 bytes without control characters"));
    }
    Ok(name)
}

/// A connection that broke is a worker that is gone. One whose frame is too large or no message is still there, and is
/// told: it would send the same again.
fn gone_or_unreadable(status: Status) -> Result<(), Status> {
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted | Code::Internal | Code::InvalidArgument => Err(status),
        _ => Ok(()),
    }
}

// === impl Conversation ===

impl Conversation {
    /// Runs until the worker leaves (`Ok`) or must be cut off.
    async fn run(mut self) -> Result<(), Status> {
        let mut newest = self.push.publisher.subscribe();
        // It may have changed since the session was opened.
        self.session.retarget(newest.borrow_and_update().clone());
        loop {
            while let Some(action) = self.session.next_action(Instant::now()) {
                self.act(action).await?;
            }
            // All of them are cancel-safe: what loses is met in the next round. Ends come first, and frames before the
            // clock: a heartbeat that has waited here while a large frame was sent is a sign of life.
            let event = tokio::select! {
                biased;
                () = self.push.drain.draining() => Event::Drain,
                () = self.seat.replaced() => Event::Replaced,
                frame = self.requests.message() => Event::Frame(frame),
                () = sleep_until(self.session.wake_at()) => Event::Time,
                _ = newest.changed() => Event::Target,
            };
            match event {
                Event::Frame(Ok(Some(request))) => self.receive(request)?,
                Event::Frame(Ok(None)) => return Ok(()),
                Event::Frame(Err(status)) => return gone_or_unreadable(status),
                Event::Target => self.session.retarget(newest.borrow_and_update().clone()),
                Event::Time => self.session.tick(Instant::now()).map_err(|ending| self.ended(&ending))?,
                Event::Replaced => return Err(Status::aborted("another stream has taken this worker's name")),
                Event::Drain => return Err(Status::unavailable("the control plane ends")),
            }
        }
    }

    fn receive(&mut self, request: SyncRequest) -> Result<(), Status> {
        let Some(frame) = request.frame else {
            // A frame of a newer worker; its absence of meaning is no reason to part.
            self.seat.heard();
            return Ok(());
        };
        if let sync_request::Frame::Resync(resync) = &frame {
            tracing::info!(worker.name = self.seat.name(), reason = resync.reason, "Worker asks for everything");
        }
        match self.session.receive(frame, Instant::now()).map_err(|ending| self.ended(&ending))? {
            News::Heard => self.seat.heard(),
            News::Runs(id) => self.seat.runs(id, Vec::new(), None),
            News::Took { id, degraded, published } => self.seat.runs(Some(id), degraded, Some(published.elapsed())),
            News::Refused(id, faults) => {
                self.push.metrics.nacks.inc();
                for fault in faults.iter().take(FAULTS_TOLD) {
                    tracing::warn!(
                        worker.name = self.seat.name(),
                        config.revision = id.revision,
                        path = fault.path,
                        fault.reason,
                        "Worker refuses"
                    );
                }
                self.seat.refuses(id, faults);
            }
        }
        Ok(())
    }

    fn ended(&self, ending: &Ending) -> Status {
        match ending {
            Ending::Violation(reason) => Status::invalid_argument(*reason),
            Ending::Silent => {
                self.seat.silent();
                Status::deadline_exceeded(ending.to_string())
            }
        }
    }

    async fn act(&mut self, action: Action) -> Result<(), Status> {
        match action {
            Action::Welcome(target) => {
                let heartbeat_interval = self.push.heartbeat.try_into().ok();
                self.send(delta::frame(Frame::Welcome(Welcome { target, heartbeat_interval }))).await
            }
            Action::Heartbeat(snapshot) => self.send(delta::frame(Frame::Heartbeat(Heartbeat { snapshot }))).await,
            Action::Transition { base, target } => {
                let transition = self.push.publisher.transition(&base, &target);
                self.push.metrics.pushes.inc();
                if transition.full {
                    self.push.metrics.full_pushes.inc();
                    self.session.sent_full();
                }
                for frame in transition.frames.iter() {
                    self.send(frame.clone()).await?;
                }
                Ok(())
            }
        }
    }

    /// Hands a frame to the socket; a worker that does not take it for three heartbeats is as good as silent.
    async fn send(&self, frame: Bytes) -> Result<(), Status> {
        match timeout(self.push.heartbeat * 3, self.replies.send(Ok(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the worker is gone")),
            Err(_) => Err(self.ended(&Ending::Silent)),
        }
    }
}
