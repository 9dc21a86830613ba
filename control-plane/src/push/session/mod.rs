//! What is said to one worker: frames and time in, actions out. No sockets, no clock.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ntonix_proto::sync::v1::{Ack, Fault, Heartbeat, Nack, SnapshotId, sync_request::Frame};
use tokio::time::Instant;

use crate::snapshot::Snapshot;

/// Heartbeats that may be missed before a stream is dead.
const MISSED_MAX: u32 = 3;

/// The state of one worker's stream, from its hello on.
#[derive(Debug)]
pub struct Session {
    interval: Duration,
    /// What the worker runs, as it says.
    running: Option<SnapshotId>,
    /// What it should run.
    target: Option<Arc<Snapshot>>,
    in_flight: Option<InFlight>,
    /// What it refused and is not to get again until something changes.
    refused: Option<SnapshotId>,
    last_heard: Instant,
    last_sent: Instant,
    actions: VecDeque<Action>,
}

/// A transition that the worker has not answered yet.
#[derive(Debug)]
struct InFlight {
    id: SnapshotId,
    /// Since when the worker should run it.
    published: Instant,
    /// Whether it started from nothing, so that it fits any worker.
    full: bool,
}

/// What is to be sent.
#[derive(Debug)]
pub enum Action {
    /// The answer to the hello: the newest snapshot, if there is one.
    Welcome(Option<SnapshotId>),
    /// The way from the snapshot with the digest `base` (empty: from nothing) to `target`.
    Transition {
        /// What it starts from.
        base: Bytes,
        /// Where it leads.
        target: Arc<Snapshot>,
    },
    /// A sign of life.
    Heartbeat(Option<SnapshotId>),
}

/// What a frame told about the worker.
#[derive(Debug, PartialEq)]
pub enum News {
    /// It is there.
    Heard,
    /// It runs a snapshot that was sent to it.
    Took {
        /// Which one.
        id: SnapshotId,
        /// What failed beside it.
        degraded: Vec<Fault>,
        /// Since when it should run it.
        published: Instant,
    },
    /// It runs something else than was thought; `None`: nothing.
    Runs(Option<SnapshotId>),
    /// It refused a snapshot.
    Refused(SnapshotId, Vec<Fault>),
}

/// Why a stream ends.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Ending {
    /// The worker broke the protocol.
    #[error("{0}")]
    Violation(&'static str),
    /// Three heartbeats were missed.
    #[error("nothing was heard for three heartbeats")]
    Silent,
}

// === impl Session ===

impl Session {
    /// Starts with a worker that says that it runs `running`, and refused `refused` before, in the same process.
    pub fn open(
        running: Option<SnapshotId>,
        refused: Option<SnapshotId>,
        target: Option<Arc<Snapshot>>,
        interval: Duration,
        now: Instant,
    ) -> Self {
        let welcome = Action::Welcome(target.as_ref().map(|target| target.id.clone()));
        let mut session = Self {
            interval,
            running,
            target,
            in_flight: None,
            refused,
            last_heard: now,
            last_sent: now,
            actions: VecDeque::from([welcome]),
        };
        session.pump();
        session
    }

    /// What to send next. Ask until there is nothing more after each input.
    pub fn next_action(&mut self, now: Instant) -> Option<Action> {
        let action = self.actions.pop_front()?;
        self.last_sent = now;
        Some(action)
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// When the worker breaks the protocol: the stream must end.
    pub fn receive(&mut self, frame: Frame, now: Instant) -> Result<News, Ending> {
        self.last_heard = now;
        let news = match frame {
            Frame::Hello(_) => return Err(Ending::Violation("a stream has one hello, at its beginning")),
            Frame::Ack(ack) => self.ack(ack),
            Frame::Nack(nack) => self.nack(nack),
            Frame::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Frame::Resync(_) => self.resync()?,
        };
        self.pump();
        Ok(news)
    }

    /// Sets what the worker should run from now on.
    pub fn retarget(&mut self, target: Option<Arc<Snapshot>>) {
        self.target = target;
        self.pump();
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// [`Ending::Silent`].
    pub fn tick(&mut self, now: Instant) -> Result<(), Ending> {
        if now >= self.last_heard + self.interval * MISSED_MAX {
            return Err(Ending::Silent);
        }
        if now >= self.last_sent + self.interval {
            let target = self.target.as_ref().map(|target| target.id.clone());
            self.actions.push_back(Action::Heartbeat(target));
        }
        Ok(())
    }

    /// When time matters next.
    pub fn wake_at(&self) -> Instant {
        (self.last_sent + self.interval).min(self.last_heard + self.interval * MISSED_MAX)
    }

    fn ack(&mut self, ack: Ack) -> News {
        match (self.in_flight.take(), ack.snapshot) {
            (Some(in_flight), Some(id)) if in_flight.id == id => {
                self.running = Some(id.clone());
                self.refused = None;
                News::Took { id, degraded: ack.degraded, published: in_flight.published }
            }
            (in_flight, _) => {
                // The answer to something older, or to nothing.
                self.in_flight = in_flight;
                News::Heard
            }
        }
    }

    fn nack(&mut self, nack: Nack) -> News {
        match (self.in_flight.take(), nack.snapshot) {
            (Some(in_flight), Some(id)) if in_flight.id == id => {
                self.refused = Some(id.clone());
                News::Refused(id, nack.faults)
            }
            (in_flight, _) => {
                self.in_flight = in_flight;
                News::Heard
            }
        }
    }

    /// A worker that runs something else than it acknowledged has lost its way, and is led back.
    fn heartbeat(&mut self, heartbeat: Heartbeat) -> News {
        // While a transition is under way, the heartbeat may have left before its commit came.
        if self.in_flight.is_some() || heartbeat.snapshot == self.running {
            return News::Heard;
        }
        self.running.clone_from(&heartbeat.snapshot);
        News::Runs(heartbeat.snapshot)
    }

    fn resync(&mut self) -> Result<News, Ending> {
        if self.in_flight.take().is_some_and(|in_flight| in_flight.full) {
            // It would ask again and again; a new stream comes after a pause.
            return Err(Ending::Violation("everything was sent and did not fit"));
        }
        self.running = None;
        self.refused = None;
        Ok(News::Heard)
    }

    /// Sends a transition when there is cause for one and none is unanswered.
    fn pump(&mut self) {
        let Some(target) = self.target.clone().filter(|_| self.in_flight.is_none()) else { return };
        let id = Some(&target.id);
        if id == self.running.as_ref() || id == self.refused.as_ref() {
            return;
        }
        let base = self.running.as_ref().map(|running| running.digest.clone()).unwrap_or_default();
        self.in_flight = Some(InFlight { id: target.id.clone(), published: target.published, full: base.is_empty() });
        self.actions.push_back(Action::Transition { base, target });
    }

    /// Notes that the transition under way turned out to start from nothing, its base being unknown here.
    pub fn sent_full(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.full = true;
        }
    }
}
