//! `ntonixctl watch`: every revision and every worker as they change.

use std::{io::Write, time::Duration};

use ntonix_proto::admin::v1::{
    ConfigServiceWatchRequest, ConfigServiceWatchResponse, Worker, WorkerServiceWatchRequest,
    WorkerServiceWatchResponse,
};
use ntonix_runtime::backoff::Backoff;
use tokio::time::sleep;
use tonic::{Code, Status, Streaming};

use crate::{complaint::explain, connect::Server, render};

const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Follow revisions and workers as they change, until interrupted
///
/// Begins with the newest revision and every worker. When the control plane goes away, it waits for it to come back and
/// goes on with the revision after the last one shown: none is skipped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl watch
  ntonixctl watch --after 3      also the revisions since the third")]
pub(crate) struct Args {
    /// Begin after this revision; 0: with the first that is kept
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut after = self.after;
        let mut is_away = false;
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX, fastrand::u64(..));
        loop {
            let status = match Watching::open(server, after).await {
                Ok(watching) => {
                    backoff.reset();
                    if std::mem::take(&mut is_away) {
                        writeln!(out, "the control plane is back")?;
                    }
                    watching.follow(&mut after, out).await?
                }
                Err(status) => status,
            };
            if !is_passing(&status) {
                return Err(explain(&status, None));
            }
            if !std::mem::replace(&mut is_away, true) {
                writeln!(out, "the control plane is away; trying again")?;
            }
            sleep(backoff.next()).await;
        }
    }
}

/// Whether the same call may succeed later.
fn is_passing(status: &Status) -> bool {
    // A connection that breaks in the middle of a stream shows as unknown or cancelled.
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// Both streams.
struct Watching {
    revisions: Streaming<ConfigServiceWatchResponse>,
    workers: Streaming<WorkerServiceWatchResponse>,
}

// === impl Watching ===

impl Watching {
    async fn open(server: &Server, after_revision: Option<u64>) -> Result<Self, Status> {
        let request = ConfigServiceWatchRequest { after_revision, bookmark_every: None };
        let revisions = server.config().watch(request).await?.into_inner();
        let workers = server.workers().watch(WorkerServiceWatchRequest {}).await?.into_inner();
        Ok(Self { revisions, workers })
    }

    /// Tells of each step until a stream ends; why it ended.
    async fn follow(mut self, after: &mut Option<u64>, out: &mut dyn Write) -> anyhow::Result<Status> {
        loop {
            // The one that loses is asked again: a stream keeps what it has not handed out.
            let step = tokio::select! {
                step = self.revisions.message() => step.map(|step| step.map(Step::Revision)),
                step = self.workers.message() => step.map(|step| step.map(Step::Worker)),
            };
            match step {
                Ok(Some(Step::Revision(step))) => {
                    write!(out, "{}", revision_lines(&step))?;
                    *after = Some(step.current_revision);
                }
                Ok(Some(Step::Worker(step))) => {
                    if let Some(worker) = &step.worker {
                        writeln!(out, "{}", worker_line(worker))?;
                    }
                }
                Ok(None) => return Ok(Status::unavailable("the stream has ended")),
                Err(status) => return Ok(status),
            }
        }
    }
}

enum Step {
    Revision(ConfigServiceWatchResponse),
    Worker(WorkerServiceWatchResponse),
}

/// A revision and its changes; nothing for a bookmark.
fn revision_lines(step: &ConfigServiceWatchResponse) -> String {
    let head =
        step.revision.as_ref().map(|revision| render::revision(revision) + "\n" + &render::changes(&step.changes));
    head.unwrap_or_default()
}

fn worker_line(worker: &Worker) -> String {
    let runs = match worker.running_revision {
        0 => "runs nothing yet".to_owned(),
        number => format!("runs revision {number}{}", render::took(worker)),
    };
    format!("worker {}: {}, {runs}{}", worker.name, render::stand(worker), render::faults(worker, "  "))
}

#[cfg(test)]
mod tests {
    use ntonix_proto::admin::v1::{Revision, WorkerState};

    use super::*;

    #[test]
    fn a_bookmark_is_not_shown() {
        assert_eq!(revision_lines(&ConfigServiceWatchResponse { current_revision: 3, ..Default::default() }), "");
        let revision = Some(Revision { number: 3, ..Revision::default() });
        let step = ConfigServiceWatchResponse { revision, ..Default::default() };
        assert_eq!(revision_lines(&step), "revision 3 by - at -\n");
    }

    #[test]
    fn a_worker_says_what_it_runs() {
        let worker = Worker {
            name: "w1".to_owned(),
            state: WorkerState::Applying.into(),
            target_revision: 1,
            ..Worker::default()
        };
        assert_eq!(worker_line(&worker), "worker w1: applying 1, runs nothing yet");
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        assert!(is_passing(&Status::unavailable("")));
        assert!(!is_passing(&Status::out_of_range("")));
        assert!(!is_passing(&Status::permission_denied("")));
    }
}
