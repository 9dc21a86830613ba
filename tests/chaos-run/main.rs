//! Mixed streams through two workers while everything around them fails: `ntonix-chaos --seed 7 --minutes 2`.
//!
//! What strikes when and whom, and what each stream asks for, are pure functions of the seed and of --streams. In the end the books of
//! clients, backends and workers are compared; the exit code is 1 when a promise was broken, or when something that
//! should have been exercised was not.

mod settings;
mod strike;
mod schedule;
mod plan;
mod config;
mod field;
mod progress;
mod stage;
mod worker;
mod lanes;
mod line;
mod http;
mod socket;
mod report;
mod run;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use ntonix_runtime::listen;
use ntonix_runtime::settings::parse;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;
use crate::schedule::Schedule;
use crate::settings::Settings;

/// How a run ended.
enum Ended {
    Done(Box<Report>),
    /// By this signal, which is this exit code.
    Told(&'static str, u8),
}

/// Where the result goes beside the table.
struct JsonFile<'a> {
    path: &'a Path,
    file: File,
}

fn main() -> ExitCode {
    let settings: Settings = match parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(&settings) {
        Ok(code) => code,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            let _ = writeln!(std::io::stderr(), "ntonix-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let seed = settings.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let schedule = Schedule::new(seed, settings.minutes, settings.streams);
    let mut out = std::io::stdout();
    if settings.schedule {
        write!(out, "{schedule}")?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before the run: one of ten minutes must not end with nowhere to go.
    let json = settings.json.as_deref().map(JsonFile::create).transpose()?;
    listen::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        writeln!(std::io::stdout(), "chaos with seed {seed}: --seed {seed} does the same again")?;
        tokio::select! {
            report = run::run(settings, seed, &schedule) => report.map(|report| Ended::Done(Box::new(report))),
            _ = interrupt.recv() => Ok(Ended::Told("SIGINT", 130)),
            _ = terminate.recv() => Ok(Ended::Told("SIGTERM", 143)),
        }
    });
    // Ends every process that was started: each is killed when what holds it is dropped.
    drop(runtime);
    match outcome {
        Ok(Ended::Done(report)) => finish(json, &schedule, &report),
        Ok(Ended::Told(signal, code)) => {
            // There is no other place to complain to when stderr is closed.
            let _ =
                writeln!(std::io::stderr(), "ntonix-chaos: interrupted by {signal}; nothing is said of seed {seed}");
            Ok(ExitCode::from(code))
        }
        Err(error) => {
            write!(out, "{schedule}")?;
            Err(error.context(format!("seed {seed}")))
        }
    }
}

fn finish(json: Option<JsonFile<'_>>, schedule: &Schedule, report: &Report) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if report.is_clean() {
        write!(out, "\n{report}")?;
    } else {
        write!(out, "\nthe schedule of seed {}:\n{schedule}\n{report}", report.seed)?;
    }
    json.map_or(Ok(()), |json| json.write(report))?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// === impl JsonFile ===

impl<'a> JsonFile<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write --json {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(mut self, report: &Report) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(report)?;
        self.file.write_all(&text).with_context(|| format!("cannot write --json {}", self.path.display()))
    }
}
