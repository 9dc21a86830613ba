//! Everything that a comparison found out, as the JSON file has it.

use std::fs;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::compare::goals::{self, Goal};
use crate::compare::measure::{Row, Run};
use crate::compare::peers::Kind;
use crate::compare::settings::Settings;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) duration_seconds: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) runs: Vec<Run>,
}

/// Where it ran, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) at: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// What was running in the last minute before: near 0 on a quiet machine.
    pub(crate) load_before: String,
    /// What each program calls itself.
    pub(crate) versions: Vec<String>,
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn new(settings: &Settings, machine: Machine, runs: Vec<Run>) -> Self {
        let rows = Row::all(&runs);
        Self {
            machine,
            rounds: settings.rounds,
            duration_seconds: settings.duration.as_secs_f64(),
            goals: goals::all(&rows),
            rows,
            runs,
        }
    }

    /// Whether every request succeeded and every token was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.failed == 0 && row.wrong == 0)
    }
}

// === impl Machine ===

impl Machine {
    /// Looked at before the run, which makes a load of its own.
    pub(crate) fn now(peers: &[Kind]) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let first = |text: String| text.split_ascii_whitespace().next().unwrap_or_default().to_owned();
        Self {
            at: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores,
            memory_mib: first(field(&read("/proc/meminfo"), "MemTotal")).parse::<u64>().unwrap_or_default() / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: first(read("/proc/loadavg")),
            versions: peers.iter().filter_map(|kind| version(*kind)).collect(),
        }
    }
}

/// The first value behind a name, as files of `/proc` have them.
fn field(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.unwrap_or("unknown").trim().to_owned()
}

fn version(kind: Kind) -> Option<String> {
    let program = kind.program().ok().flatten()?;
    let output = Command::new(program).arg(kind.version_flag()).stdin(Stdio::null()).output().ok()?;
    // nginx tells it on stderr.
    let told = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&told).lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found_whatever_is_around_them() {
        let text = "vendor_id\t: X\nmodel name\t: AMD EPYC: 2\nmodel name\t: other\n";
        assert_eq!(field(text, "model name"), "AMD EPYC: 2");
        assert_eq!(field("MemTotal:       24681 kB\n", "MemTotal"), "24681 kB");
        assert_eq!(field(text, "model"), "unknown");
    }
}
