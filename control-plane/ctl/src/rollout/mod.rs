//! Waits until every connected worker runs a revision; what it knows is apart from how it learns it.

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::bail;
use ntonix_proto::admin::v1::{Worker, WorkerServiceWatchRequest, WorkerState};
use tokio::time::{Instant, timeout_at};

use crate::{complaint::explain, connect::Server, render};

/// Workers that were started together with the control plane connect a moment after it listens, on their second try.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// Who runs a revision, as far as the workers have told.
#[derive(Debug)]
struct Rollout {
    revision: u64,
    workers: BTreeMap<String, Stand>,
    /// Whether every worker has been heard of.
    complete: bool,
}

/// How a worker stands to the revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Waiting,
    Taken,
    Refused,
    /// Not connected: nobody waits for it.
    Away,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// No worker is connected.
    Nobody,
    /// All of them run it.
    Taken,
    /// These refused it.
    Refused(Vec<String>),
}

/// Watches the workers, tells of each as it takes the revision, and ends when the last one has.
///
/// # Errors
///
/// When a worker refuses it, or the time is over; the message names who and why.
pub(crate) async fn follow(
    server: &Server,
    revision: u64,
    patience: Duration,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut rollout = Rollout::new(revision);
    let mut client = server.workers();
    let opened = client.watch(WorkerServiceWatchRequest {}).await.map_err(|status| explain(&status, None))?;
    let mut steps = opened.into_inner();
    let connected_by = deadline.min(Instant::now() + CONNECTED_WITHIN);
    loop {
        let until = match rollout.verdict() {
            None => deadline,
            Some(Verdict::Nobody) if Instant::now() < connected_by => connected_by,
            Some(verdict) => return rollout.conclude(verdict, out),
        };
        let Ok(step) = timeout_at(until, steps.message()).await else {
            match rollout.verdict() {
                None => return rollout.out_of_time(patience),
                Some(_) => continue,
            }
        };
        match step.map_err(|status| explain(&status, None))? {
            None => bail!(
                "the control plane has stopped; revision {revision} is stored, and the workers will take it later"
            ),
            Some(step) => match &step.worker {
                Some(worker) => {
                    if let Some(line) = rollout.hear(worker) {
                        writeln!(out, "{line}")?;
                    }
                }
                None => rollout.complete = true,
            },
        }
    }
}

// === impl Rollout ===

impl Rollout {
    fn new(revision: u64) -> Self {
        Self { revision, workers: BTreeMap::new(), complete: false }
    }

    /// Takes in how a worker stands now; a line when that is news.
    fn hear(&mut self, worker: &Worker) -> Option<String> {
        let stand = self.stand(worker);
        let before = self.workers.insert(worker.name.clone(), stand);
        if before == Some(stand) {
            return None;
        }
        match stand {
            Stand::Taken => {
                Some(format!("  {} runs it{}{}", worker.name, render::took(worker), render::faults(worker, "    ")))
            }
            Stand::Refused => Some(format!("  {} refuses it{}", worker.name, render::faults(worker, "    "))),
            Stand::Away if before == Some(Stand::Waiting) => Some(format!("  {} has left", worker.name)),
            Stand::Away | Stand::Waiting => None,
        }
    }

    fn stand(&self, worker: &Worker) -> Stand {
        let is_away = matches!(worker.state(), WorkerState::Silent | WorkerState::Disconnected);
        if is_away {
            Stand::Away
        } else if worker.running_revision >= self.revision {
            Stand::Taken
        } else if worker.state() == WorkerState::Refused && worker.refused_revision >= self.revision {
            Stand::Refused
        } else {
            Stand::Waiting
        }
    }

    /// How it ended, once nobody is waited for.
    fn verdict(&self) -> Option<Verdict> {
        if !self.complete || self.workers.values().any(|stand| *stand == Stand::Waiting) {
            return None;
        }
        let refused = self.named(Stand::Refused);
        Some(match (refused.is_empty(), self.named(Stand::Taken).is_empty()) {
            (false, _) => Verdict::Refused(refused),
            (true, false) => Verdict::Taken,
            (true, true) => Verdict::Nobody,
        })
    }

    fn named(&self, wanted: Stand) -> Vec<String> {
        let matching = self.workers.iter().filter(|(_, stand)| **stand == wanted);
        matching.map(|(name, _)| name.clone()).collect()
    }

    fn conclude(&self, verdict: Verdict, out: &mut dyn Write) -> anyhow::Result<()> {
        match verdict {
            Verdict::Taken => {}
            Verdict::Nobody => writeln!(out, "  no worker is connected; those that come will take it")?,
            Verdict::Refused(names) => bail!(
                "revision {} is refused by {}; what ran before goes on running there",
                self.revision,
                names.join(", ")
            ),
        }
        Ok(())
    }

    fn out_of_time(&self, patience: Duration) -> anyhow::Result<()> {
        let refused = match self.named(Stand::Refused) {
            names if names.is_empty() => String::new(),
            names => format!("; refused by {}", names.join(", ")),
        };
        let waiting = match self.named(Stand::Waiting) {
            names if names.is_empty() => "the workers have not been heard of".to_owned(),
            names => format!("not yet taken by {}", names.join(", ")),
        };
        let patience = humantime::format_duration(patience);
        bail!("revision {} is stored, but after {patience} {waiting}{refused}", self.revision)
    }
}

#[cfg(test)]
mod tests;
