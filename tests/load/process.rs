//! CPU and memory of the processes that a run watches, as `/proc` tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The unit in which Linux tells CPU times to programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// The watched processes, and how they stood at the start.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pids: Vec<u32>,
    start: Sample,
    peak_kib: Arc<AtomicU64>,
}

/// What the watched processes took together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU of user and system in the run.
    pub(crate) cpu_seconds: f64,
    /// Resident memory before the run.
    pub(crate) start_kib: u64,
    /// The most resident memory that was seen in the run.
    pub(crate) peak_kib: u64,
    /// Resident memory after the run.
    pub(crate) end_kib: u64,
    /// Open files before the run.
    pub(crate) start_files: u64,
    /// Open files after the run.
    pub(crate) end_files: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    ticks: u64,
    kib: u64,
    files: u64,
}

// === impl Watched ===

impl Watched {
    pub(crate) fn start(pids: &[u32]) -> anyhow::Result<Self> {
        let start = Sample::of(pids)?;
        Ok(Self { pids: pids.to_vec(), start, peak_kib: Arc::new(AtomicU64::new(start.kib)) })
    }

    /// Looks at the memory again and again; the caller ends it.
    pub(crate) async fn sample_for_ever(&self) {
        loop {
            if let Ok(sample) = Sample::of(&self.pids) {
                self.peak_kib.fetch_max(sample.kib, Ordering::Relaxed);
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
    }

    /// What was taken since the start; `None` when nothing is watched.
    pub(crate) fn end(&self) -> anyhow::Result<Option<Usage>> {
        if self.pids.is_empty() {
            return Ok(None);
        }
        let end = Sample::of(&self.pids)?;
        let ticks = end.ticks.saturating_sub(self.start.ticks);
        Ok(Some(Usage {
            // A run has far fewer ticks than a float holds exactly.
            cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
            start_kib: self.start.kib,
            peak_kib: self.peak_kib.load(Ordering::Relaxed).max(end.kib),
            end_kib: end.kib,
            start_files: self.start.files,
            end_files: end.files,
        }))
    }
}

// === impl Sample ===

impl Sample {
    fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let read = |file: &str| {
                let path = format!("/proc/{pid}/{file}");
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
            };
            sum.ticks += cpu_ticks(&read("stat")?).with_context(|| format!("/proc/{pid}/stat makes no sense"))?;
            let files = format!("/proc/{pid}/fd");
            sum.files += std::fs::read_dir(&files).with_context(|| format!("cannot read {files}"))?.count() as u64;
            sum.kib += resident_kib(&read("status")?).with_context(|| format!("/proc/{pid}/status makes no sense"))?;
        }
        Ok(sum)
    }
}

/// User and system time: fields 14 and 15, counted from behind the name, which may hold anything.
pub(crate) fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

pub(crate) fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
