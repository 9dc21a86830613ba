//! How the configuration comes in: the last good one from disk first, then whatever the control plane pushes.
//!
//! "The link is bad" never changes what runs. "This configuration is bad" refuses it whole and is answered with every
//! fault. A snapshot is prepared, swapped in, kept on disk and only then acknowledged.

mod keep;
mod link;
pub(crate) mod session;
pub(crate) mod snapshot;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ntonix_config::{Fault, Faults};
use ntonix_proto::sync::v1::{
    self as wire, Ack, Heartbeat, Hello, Nack, SnapshotId, SyncRequest, SyncResponse, sync_request::Frame,
    sync_service_client::SyncServiceClient,
};
use ntonix_runtime::{backoff::Backoff, chain::Chain};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Uri};

use self::{
    keep::Keep,
    link::LinkError,
    session::{Action, Session},
    snapshot::Snapshot,
};
use crate::{
    access::{self, announce},
    live::{Cell, Live, Origin, OriginSource},
    metrics::Metrics,
    settings::{SyncTls, TrafficArgs},
    worker::Changes,
};

/// Frames to the control plane that wait to be sent: answers and heartbeats, a handful at most. When it is full the
/// link is stuck, and the stream is ended.
const OUTBOX: usize = 16;
/// From the first failure to the next try, and at the most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many heartbeats of the other side may be missed.
const MISSED_HEARTBEATS: u32 = 3;
/// How long the welcome may take.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Faults of a refusal that are sent, and their bytes: the control plane takes frames of 1 MiB.
const FAULTS_MOST: usize = 1_000;
const FAULT_BYTES_MOST: usize = 256 * 1024;
/// Faults of a refusal that get a line in the log.
const FAULTS_LOGGED: usize = 20;
/// The largest frame that is taken: one resource, or a chunk.
const FRAME_MOST: usize = 64 * 1024 * 1024;

/// Follows a control plane.
#[derive(Debug)]
pub(crate) struct Follower {
    url: Uri,
    tls: SyncTls,
    hello: Hello,
    cell: Arc<Cell>,
    changes: Changes,
    metrics: Metrics,
    keep: Keep,
    traffic: TrafficArgs,
    running: Option<Snapshot>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the control plane ended the stream: {}", .0.message())]
    Status(#[from] Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("the control plane has been silent for {0:?}")]
    Silent(Duration),
    #[error("the control plane broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the control plane takes no frames")]
    Stuck,
}

// === impl Follower ===

impl Follower {
    /// A follower of the control plane at `url` that keeps the last good snapshot in `state_dir`.
    pub(crate) fn new(
        (url, tls): (Uri, SyncTls),
        hello: Hello,
        (cell, changes, metrics): (Arc<Cell>, Changes, Metrics),
        state_dir: PathBuf,
        traffic: TrafficArgs,
    ) -> Self {
        Self { url, tls, hello, cell, changes, metrics, keep: Keep::new(state_dir), traffic, running: None }
    }

    /// Takes the last good snapshot from disk, the one before it when that is no good.
    pub(crate) fn boot(&mut self) {
        for (refused, (path, kept)) in self.keep.load().enumerate() {
            let file = path.display().to_string();
            let kept = match kept {
                Ok(kept) => kept,
                Err(error) => {
                    tracing::warn!(file, error = %Chain(&error), "A kept configuration is refused");
                    continue;
                }
            };
            match self.run(&kept.snapshot, OriginSource::Disk, kept.taken) {
                Ok(live) => {
                    if refused > 0 {
                        let revision = kept.snapshot.id.revision;
                        tracing::warn!(file, config.revision = revision, "The configuration kept before it is used");
                    }
                    announce(&live, &self.traffic);
                    self.running = Some(kept.snapshot);
                    return;
                }
                Err(faults) => {
                    for fault in told(faults).iter().take(FAULTS_LOGGED) {
                        tracing::warn!(file, path = fault.path, fault.reason, "A kept configuration is refused");
                    }
                }
            }
        }
        tracing::info!("No configuration on disk: this worker is ready when the control plane has sent one");
    }

    /// Connects, follows, and connects again, for as long as it is polled.
    pub(crate) async fn follow(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, fastrand::u64(..));
        loop {
            let mut session = Session::new(self.running.take());
            let welcomed_at = Instant::now();
            let ended = self.stream(&mut session).await;
            self.running = session.into_running();
            // A stream that lasted starts the waiting over; one that fails at once makes it longer.
            if welcomed_at.elapsed() > WELCOME_WITHIN {
                backoff.reset();
            }
            let wait = backoff.next();
            if let Err(error) = ended {
                let control_plane = self.url.to_string();
                let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(control_plane, error = %Chain(&error), retry_in_ms, "Not connected; what runs runs on");
            }
            sleep(wait).await;
        }
    }

    /// One stream, from hello to its end.
    async fn stream(&mut self, session: &mut Session) -> Result<(), Ended> {
        let channel = link::connect(&self.url, &self.tls).await?;
        let mut client = SyncServiceClient::new(channel).max_decoding_message_size(FRAME_MOST);
        let (outbox, frames) = mpsc::channel(OUTBOX);
        send(&outbox, Frame::Hello(self.hello(session)))?;
        // A control plane that takes the connection and says nothing is no control plane.
        let opened = timeout(WELCOME_WITHIN, client.sync(ReceiverStream::new(frames))).await;
        let opened = opened.map_err(|_| Ended::Silent(WELCOME_WITHIN))?.map_err(Box::new)?;
        let mut inbox = opened.into_inner();

        let first = timeout(WELCOME_WITHIN, inbox.message()).await;
        let first = first.map_err(|_| Ended::Silent(WELCOME_WITHIN))?.map_err(Box::new)?.ok_or(Ended::Closed)?;
        let heartbeat = match session.take(first) {
            Action::Welcome { heartbeat, up_to_date } => {
                tracing::info!(control_plane = %self.url, up_to_date, "Connected to the control plane");
                if up_to_date {
                    self.cell.confirm();
                }
                heartbeat
            }
            Action::End(reason) => return Err(Ended::Protocol(reason)),
            _ => return Err(Ended::Protocol("it did not say welcome first")),
        };
        self.converse(session, &mut inbox, &outbox, heartbeat).await
    }

    async fn converse(
        &mut self,
        session: &mut Session,
        inbox: &mut Streaming<SyncResponse>,
        outbox: &mpsc::Sender<SyncRequest>,
        heartbeat: Duration,
    ) -> Result<(), Ended> {
        let patience = heartbeat * MISSED_HEARTBEATS;
        let mut heard = Instant::now();
        let mut beats = interval(heartbeat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // `message` can be dropped between frames without losing one; the other two are clocks.
            // A frame that has come before the clock that misses it: taking a large snapshot takes its time.
            let response = tokio::select! {
                biased;
                _ = beats.tick() => {
                    let snapshot = session.running().map(|running| running.id.clone());
                    send(outbox, Frame::Heartbeat(Heartbeat { snapshot }))?;
                    continue;
                }
                message = inbox.message() => message.map_err(Box::new)?.ok_or(Ended::Closed)?,
                () = sleep_until(heard + patience) => return Err(Ended::Silent(patience)),
            };
            heard = Instant::now();
            match session.take(response) {
                Action::Nothing | Action::Welcome { .. } => {}
                Action::Send(request) => outbox.try_send(request).map_err(|_| Ended::Stuck)?,
                Action::End(reason) => return Err(Ended::Protocol(reason)),
                Action::Run(snapshot) => send(outbox, self.take(session, snapshot).await)?,
            }
        }
    }

    /// Runs a snapshot that was pushed, and answers.
    async fn take(&mut self, session: &mut Session, snapshot: Snapshot) -> Frame {
        let (id, taken) = (snapshot.id.clone(), SystemTime::now());
        let before = self.cell.load();
        match self.run(&snapshot, OriginSource::ControlPlane, taken) {
            Err(faults) => {
                self.metrics.refused_revisions.inc();
                let faults = told(faults);
                for fault in faults.iter().take(FAULTS_LOGGED) {
                    tracing::warn!(
                        config.revision = id.revision,
                        path = fault.path,
                        fault.reason,
                        "Revision refused, the one before runs on"
                    );
                }
                Frame::Nack(Nack { snapshot: Some(id), faults })
            }
            Ok(live) => {
                if session.running().is_none() {
                    announce(&live, &self.traffic);
                }
                let (revision, keys_version) = (id.revision, id.keys_version);
                match access::turned(before.as_deref(), &live, &self.traffic) {
                    Some(access) if live.is_open() => {
                        tracing::warn!(config.revision = revision, keys_version, access, "Revision runs");
                    }
                    access => tracing::info!(config.revision = revision, keys_version, access, "Revision runs"),
                }
                let degraded = self.store(&snapshot, taken).await;
                session.ran(snapshot);
                Frame::Ack(Ack { snapshot: Some(id), degraded })
            }
        }
    }

    /// Prepares and swaps.
    fn run(&self, snapshot: &Snapshot, source: OriginSource, taken: SystemTime) -> Result<Arc<Live>, Faults> {
        let prepared = self.cell.guarded(|| {
            let origin = Origin { snapshot: Some(snapshot.id.clone()), source, taken };
            self.cell.prepare(&snapshot.config()?, origin)
        })?;
        let live = self.cell.swap(prepared);
        self.changes.note();
        Ok(live)
    }

    /// Keeps it on disk; a disk that fails makes the worker degraded, not silent.
    async fn store(&self, snapshot: &Snapshot, taken: SystemTime) -> Vec<wire::Fault> {
        let (keep, snapshot) = (self.keep.clone(), snapshot.clone());
        let stored = spawn_blocking(move || keep.store(&snapshot, taken)).await;
        let error = match stored {
            Ok(Ok(())) => return Vec::new(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, "The configuration runs but is not kept on disk");
        vec![wire::Fault { path: String::new(), reason: format!("it is not kept on this worker's disk: {error}") }]
    }

    fn hello(&self, session: &Session) -> Hello {
        let running: Option<SnapshotId> = session.running().map(|running| running.id.clone());
        let from_disk = self.cell.load().is_some_and(|live| !live.is_confirmed());
        Hello { running, from_disk, ..self.hello.clone() }
    }
}

fn send(outbox: &mpsc::Sender<SyncRequest>, frame: Frame) -> Result<(), Ended> {
    outbox.try_send(SyncRequest { frame: Some(frame) }).map_err(|_| Ended::Stuck)
}

/// The faults as they are sent: the first ones, as many as fit, and how many more there are.
fn told(faults: Faults) -> Vec<wire::Fault> {
    let (mut told, mut bytes, all) = (Vec::new(), 0, faults.len());
    for fault in faults.into_iter().map(to_wire) {
        bytes += fault.path.len() + fault.reason.len();
        if told.len() == FAULTS_MOST || bytes > FAULT_BYTES_MOST {
            break;
        }
        told.push(fault);
    }
    if told.len() < all {
        told.push(wire::Fault { path: String::new(), reason: format!("and {} more", all - told.len()) });
    }
    told
}

fn to_wire(fault: Fault) -> wire::Fault {
    let reason = match fault.hint {
        Some(hint) => format!("{}; {hint}", fault.reason),
        None => fault.reason,
    };
    wire::Fault { path: shortened(fault.path), reason: shortened(reason) }
}

/// A fault may repeat a text of the configuration that has no end.
fn shortened(mut text: String) -> String {
    const MOST: usize = 2048;
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_refusal_fits_into_a_frame_that_the_control_plane_takes() {
        for (count, bytes) in [(1, 5_000_000), (100_000, 0), (100_000, 100), (1_000, 100_000)] {
            let faults = (0..count).map(|n| Fault::new(format!("routes[{n}]"), "ü".repeat(bytes / 2))).collect();
            let told = told(Faults::new(faults).unwrap());
            assert!(Nack { snapshot: None, faults: told.clone() }.encoded_len() < 512 * 1024);
            if count > 1 {
                assert_eq!(told.last().unwrap().reason, format!("and {} more", count - (told.len() - 1)));
            }
            assert!(told.len() >= count.min(100), "{count} faults of {bytes} bytes: {} are told", told.len());
        }
    }

    #[test]
    fn a_few_faults_are_told_whole() {
        let faults = Faults::new(vec![Fault::new("a", "wrong").meaning(Some("b")), Fault::new("c", "bad")]).unwrap();
        let told: Vec<_> = told(faults).into_iter().map(|fault| (fault.path, fault.reason)).collect();
        let said = [("a", "wrong; did you mean \"b\"?"), ("c", "bad")];
        assert_eq!(told, said.map(|(path, reason)| (path.to_owned(), reason.to_owned())));
    }
}
