//! One worker over its lives: stopped, restarted, its memory and its logs watched.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use ntonix_tests::ledger::{Invariant, Memory, Record, Sample, Violation};
use ntonix_tests::wait::eventually;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::field::Field;
use crate::schedule::{Lane, Schedule};
use crate::stage::{Running, Stage, name};
use crate::strike::{BACKENDS, Strike};

/// How often memory and logs are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What a worker may take beside its streams: connections and their buffers, events of the size that a backend may send,
/// and what the allocator keeps of all that.
const SLACK_KIB: u64 = 64 * 1024;
/// What each stream may take: its buffer of 64 KiB, as much again in sockets' and protocols' buffers on each side.
const STREAM_KIB: u64 = 256;

/// The states of a backend that may be asked; a breaker closes only when that has been done.
const WELL: [&str; 2] = ["state=\"healthy\"", "state=\"half-open\""];

/// A worker over its lives.
pub(crate) struct Watched {
    index: usize,
    lives: usize,
    running: Running,
    memory: Memory,
    /// Memory when it was started last, in KiB.
    pub(crate) start_kib: u64,
    /// What all its lives recorded.
    pub(crate) records: Vec<Record>,
    /// Its last lines.
    log: String,
    /// The most memory in any life, in KiB.
    pub(crate) peak_kib: u64,
}

// === impl Watched ===

impl Watched {
    pub(crate) async fn start(stage: &Stage, index: usize) -> anyhow::Result<Self> {
        let running = stage.worker(index, 0).await?;
        let start_kib = resident_kib(&running)?;
        let memory = Memory::of(&name(index), start_kib, SLACK_KIB, STREAM_KIB);
        Ok(Self {
            index,
            lives: 1,
            running,
            memory,
            start_kib,
            records: Vec::new(),
            log: String::new(),
            peak_kib: start_kib,
        })
    }

    /// Stops and restarts it as scheduled, and watches it until `is_over`; hands itself back then.
    pub(crate) async fn run(
        mut self,
        stage: &Stage,
        field: &Field,
        schedule: &Schedule,
        begun: Instant,
        mut is_over: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        for (at, strike) in schedule.of(Lane::Worker(self.index)) {
            while Instant::now() < begun + at {
                self.look(field)?;
                sleep_until((begun + at).min(Instant::now() + LOOK)).await;
            }
            match strike {
                Strike::FreezeWorker { lasts, .. } => {
                    self.running.worker.process().signal(Signal::STOP)?;
                    sleep(lasts).await;
                    self.running.worker.process().signal(Signal::CONT)?;
                }
                Strike::RestartWorker { .. } => self = self.restart(stage, field).await?,
                _ => continue,
            }
            field.struck(strike.kind(), 1);
        }
        while !*is_over.borrow_and_update() {
            self.look(field)?;
            tokio::select! {
                // The sender lives as long as the round.
                _ = is_over.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
        Ok(self)
    }

    async fn restart(self, stage: &Stage, field: &Field) -> anyhow::Result<Self> {
        let (index, lives, log, peak_kib) = (self.index, self.lives, self.log.clone(), self.peak_kib);
        let records = self.end(field).await?;
        let running = stage.worker(index, lives).await?;
        let start_kib = resident_kib(&running)?;
        let memory = Memory::of(&name(index), start_kib, SLACK_KIB, STREAM_KIB);
        Ok(Self { index, lives: lives + 1, running, memory, start_kib, records, log, peak_kib })
    }

    /// Tells it to drain, and reads what it recorded in all its lives.
    pub(crate) async fn end(mut self, field: &Field) -> anyhow::Result<Vec<Record>> {
        self.look(field)?;
        let name = name(self.index);
        field.broken(self.memory.violation());
        if let Ok((_, metrics)) = self.running.worker.page("/metrics").await {
            field.look(&format!("the metrics of {name}"), metrics.as_bytes());
        }
        self.running.worker.process().signal(Signal::TERM)?;
        let ended = self.running.worker.ended().await?;
        field.look(&format!("the log of {name}"), ended.log.as_bytes());
        anyhow::ensure!(ended.status.success(), "{name} ended with {}: {}", ended.status, tail(&ended.log));
        let usage = fs::read_to_string(&self.running.usage).context("no usage log")?;
        field.look(&format!("the usage log of {name}"), usage.as_bytes());
        let (records, wrong) = Record::read_all(&usage);
        field.broken(wrong.into_iter().map(|line| {
            Violation::new(Invariant::OneRecord, &name, format!("line {line} of its usage log is no record"))
        }));
        self.records.extend(records);
        Ok(self.records)
    }

    /// Waits until every backend may be asked again, as this worker sees them.
    pub(crate) async fn recovers(&self) -> anyhow::Result<()> {
        let mut states = Vec::new();
        let healthy = async || {
            let page = self.running.worker.page("/metrics").await.map(|(_, page)| page).unwrap_or_default();
            let is_now = |line: &&str| line.starts_with("ntonix_backend_state{") && line.ends_with(" 1");
            states = page.lines().filter(is_now).map(str::to_owned).collect();
            let is_up = |state: &&String| WELL.iter().any(|word| state.contains(word));
            states.iter().filter(is_up).count() == BACKENDS
        };
        let waited = eventually("every backend may be asked again", healthy).await;
        waited.with_context(|| format!("{} sees {states:#?}", name(self.index)))
    }

    /// The revision that it runs.
    pub(crate) async fn revision(&self) -> Option<f64> {
        self.running.worker.metric("ntonix_config_revision").await.ok()
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        format!("the log of {} ends with\n{}", name(self.index), tail(&self.log))
    }

    /// Waits until no stream is under way, and says how much memory it then has, in KiB.
    pub(crate) async fn settled_kib(&self) -> anyhow::Result<u64> {
        let idle = async || self.running.worker.metric("ntonix_active_streams").await.is_ok_and(|count| count == 0.0);
        eventually("no stream is active", idle).await?;
        resident_kib(&self.running)
    }

    fn look(&mut self, field: &Field) -> anyhow::Result<()> {
        let log = self.running.worker.process().take_log();
        field.look(&format!("the log of {}", name(self.index)), log.as_bytes());
        if !log.is_empty() {
            self.log = tail(&format!("{}\n{log}", self.log));
        }
        let sample = Sample { streams: field.streams(self.index), resident_kib: resident_kib(&self.running)? };
        self.memory.add(sample);
        self.peak_kib = self.peak_kib.max(sample.resident_kib);
        Ok(())
    }
}

fn resident_kib(running: &Running) -> anyhow::Result<u64> {
    let id = running.worker.process().id()?.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("the worker is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The end of a log that is too long to be shown.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
