//! The watch of revisions: each one after a given one, in order, none skipped.

use std::time::Duration;

use ntonix_proto::admin::v1::{ConfigServiceWatchRequest, ConfigServiceWatchResponse};
use ntonix_runtime::tasks;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Admin;
use crate::change::render;
use crate::refusal::Refusal;

/// A step is read from the store when there is room for it: a slow client costs no memory.
const STEPS_MAX: usize = 1;

const BOOKMARK_DEFAULT: Duration = Duration::from_secs(10);
const BOOKMARK_MIN: Duration = Duration::from_secs(1);
const BOOKMARK_MAX: Duration = Duration::from_secs(3600);

pub(super) type Stream = ReceiverStream<Result<ConfigServiceWatchResponse, Status>>;

struct Watch {
    admin: Admin,
    /// The newest revision that was sent, or that the client has.
    sent: u64,
    bookmark_every: Duration,
    steps: mpsc::Sender<Result<ConfigServiceWatchResponse, Status>>,
}

/// Starts a watch.
pub(super) async fn start(admin: &Admin, request: ConfigServiceWatchRequest) -> Result<Stream, Refusal> {
    let bookmark_every = match request.bookmark_every.map(Duration::try_from) {
        None => BOOKMARK_DEFAULT,
        Some(Ok(every)) if (BOOKMARK_MIN..=BOOKMARK_MAX).contains(&every) => every,
        Some(_) => return Err(Refusal::field("bookmark_every", "must be from 1s to 1h")),
    };
    let sent = begin(admin, request.after_revision).await?;
    let (steps, stream) = mpsc::channel(STEPS_MAX);
    let watch = Watch { admin: admin.clone(), sent, bookmark_every, steps };
    tasks::spawn("watch-config", watch.run());
    Ok(ReceiverStream::new(stream))
}

/// The revision after which the watch begins.
async fn begin(admin: &Admin, after: Option<u64>) -> Result<u64, Refusal> {
    let current = admin.ledger.publisher().newest().map_or(0, |newest| newest.id.revision);
    let oldest = admin.ledger.oldest().await?;
    match after {
        None => Ok(current.saturating_sub(1)),
        Some(0) => Ok(oldest.saturating_sub(1)),
        Some(after) if after > current => {
            Err(Refusal::NoLonger(format!("revision {after} is not here, the newest is {current}")))
        }
        Some(after) if after + 1 < oldest => {
            Err(Refusal::NoLonger(format!("revision {} is no longer kept, the oldest is {oldest}", after + 1)))
        }
        Some(after) => Ok(after),
    }
}

impl Watch {
    async fn run(mut self) {
        if let Err(status) = self.follow().await {
            // The client may be gone or not reading: it learns of the end either way.
            let _ = self.steps.try_send(Err(status));
        }
    }

    /// Sends until the client leaves (`Ok`) or the watch must end.
    async fn follow(&mut self) -> Result<(), Status> {
        let mut newest = self.admin.ledger.publisher().subscribe();
        loop {
            let current = newest.borrow_and_update().as_ref().map_or(0, |newest| newest.id.revision);
            while self.sent < current {
                let step = self.admin.ledger.step(self.sent + 1).await?;
                self.sent += 1;
                let reply = ConfigServiceWatchResponse {
                    revision: Some(render::revision(&step.revision)),
                    changes: step.changes.into_iter().map(render::change).collect(),
                    current_revision: self.sent,
                };
                if !self.send(reply).await? {
                    return Ok(());
                }
            }
            let bookmark_at = Instant::now() + self.bookmark_every;
            // All are cancel-safe; what loses is met in the next round. A change of keys alone also delays the bookmark,
            // by less than the time between two of them.
            tokio::select! {
                _ = newest.changed() => {}
                () = sleep_until(bookmark_at) => {
                    let bookmark = ConfigServiceWatchResponse { current_revision: self.sent, ..Default::default() };
                    if !self.send(bookmark).await? {
                        return Ok(());
                    }
                }
                () = self.steps.closed() => return Ok(()),
                () = self.admin.drain.draining() => return Err(ends()),
            }
        }
    }

    /// Whether the client is still there.
    async fn send(&self, reply: ConfigServiceWatchResponse) -> Result<bool, Status> {
        // A client that does not read must not hold up the end of the process.
        tokio::select! {
            sent = self.steps.send(Ok(reply)) => Ok(sent.is_ok()),
            () = self.admin.drain.draining() => Err(ends()),
        }
    }
}

fn ends() -> Status {
    Status::unavailable("the control plane ends; resume with the current revision")
}
