//! Carries the strikes out, each lane one after the other.

use std::time::Duration;

use ntonix_tests::cluster::Cluster;
use ntonix_tests::mock_llm::{ErrorForm, Script, Step};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::State;
use crate::field::Field;
use crate::schedule::{Lane, Schedule};
use crate::stage::Stage;
use crate::strike::{BackendFault, Change, Strike};

/// How long an operator waits for the workers to run a change.
const APPLY: &str = "--timeout 3s";
/// How often logs are read.
const LOOK: Duration = Duration::from_millis(500);

/// Backends go wrong.
pub(crate) async fn backends(stage: &Stage, field: &Field, schedule: &Schedule, begun: Instant) {
    for (at, strike) in schedule.of(Lane::Backends) {
        sleep_until(begun + at).await;
        let Strike::Backend { backend, fault, times } = strike else { continue };
        for _ in 0..times {
            stage.mocks[backend].next(script(fault));
        }
        field.struck(strike.kind(), u64::from(times));
    }
}

fn script(fault: BackendFault) -> Script {
    match fault {
        BackendFault::Cut(tokens) => Script::broken(tokens, [Step::Cut]),
        BackendFault::Reset(tokens) => Script::broken(tokens, [Step::Reset]),
        BackendFault::SilentEnd(tokens) => Script::broken(tokens, []),
        BackendFault::ErrorEvent(tokens, form) => {
            Script::broken(tokens, [Step::Error(ErrorForm::ALL[form % ErrorForm::ALL.len()])])
        }
        BackendFault::HangMidway(tokens) => Script::broken(tokens, [Step::Hang]),
        BackendFault::Hang => Script::hang(),
        BackendFault::Status(status) => Script::status(status, "the mock was told to fail"),
        BackendFault::RetryAfter(status) => Script::retry_after(status, 1),
        BackendFault::Html => Script::html(),
        BackendFault::Garbage => Script::garbage(),
        BackendFault::NoReply => Script::no_reply(),
        BackendFault::WrongLength => Script::wrong_length(500, r#"{"choices":["#),
        BackendFault::EndlessEvent(mib) => Script::broken(1, [Step::Endless(mib << 20)]),
    }
}

/// Connections behave badly, one at a time.
pub(crate) async fn links(stage: &Stage, field: &Field, schedule: &Schedule, begun: Instant) -> anyhow::Result<()> {
    for (at, strike) in schedule.of(Lane::Links) {
        sleep_until(begun + at).await;
        let hits = match &strike {
            Strike::Link { link, faults, lasts, .. } => {
                let proxy = stage.proxy(*link)?;
                let before = proxy.connections().struck;
                proxy.set(faults.clone());
                sleep(*lasts).await;
                proxy.clear();
                proxy.connections().struck - before
            }
            Strike::Cut { link, how } => stage.proxy(*link)?.cut(*how) as u64,
            _ => continue,
        };
        field.struck(strike.kind(), hits);
    }
    Ok(())
}

/// The control plane and who operates it.
pub(crate) struct Plane {
    pub(crate) cluster: Cluster,
    pub(crate) state: State,
}

// === impl Plane ===

impl Plane {
    /// Kills, stops and pushes as scheduled; hands itself back when that is done.
    pub(crate) async fn run(
        mut self,
        stage: &Stage,
        field: &Field,
        schedule: &Schedule,
        begun: Instant,
    ) -> anyhow::Result<Self> {
        for (at, strike) in schedule.of(Lane::Plane) {
            while Instant::now() < begun + at {
                self.look(field).await;
                sleep_until((begun + at).min(Instant::now() + LOOK)).await;
            }
            match strike {
                Strike::Push(change) => self.push(stage, field, change).await?,
                Strike::FreezePlane { lasts } => {
                    self.cluster.signal_plane(Signal::STOP)?;
                    sleep(lasts).await;
                    self.cluster.signal_plane(Signal::CONT)?;
                }
                Strike::KillPlane { lasts } => {
                    self.look(field).await;
                    self.cluster.kill_plane().await?;
                    sleep(lasts).await;
                    self.cluster.start_plane().await?;
                }
                _ => continue,
            }
            field.struck(strike.kind(), 1);
        }
        self.look(field).await;
        Ok(self)
    }

    async fn push(&mut self, stage: &Stage, field: &Field, change: Change) -> anyhow::Result<()> {
        self.state.change(change);
        let finished = self.cluster.try_apply(&stage.config(&self.state)?, APPLY).await?;
        // With a worker away it is accepted and waited for in vain; the next one has it all.
        if finished.status.success() {
            field.pushed();
        }
        field.look("what ntonixctl says", finished.output.as_bytes());
        field.look("what ntonixctl complains of", finished.complaints.as_bytes());
        Ok(())
    }

    async fn look(&self, field: &Field) {
        let (log, metrics) = self.cluster.plane_pages().await;
        field.look("the control plane's log", log.as_bytes());
        field.look("the control plane's metrics", metrics.as_bytes());
    }
}
