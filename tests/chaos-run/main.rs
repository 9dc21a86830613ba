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
mod stage;
mod worker;
mod lanes;
mod line;
mod http;
mod socket;
mod report;
mod run;

use std::io::Write as _;
use std::process::ExitCode;

use ntonix_runtime::listen;
use ntonix_runtime::settings::parse;
use tokio::signal::unix::{SignalKind, signal};

use crate::report::Report;
use crate::schedule::Schedule;
use crate::settings::Settings;

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
    writeln!(out, "chaos with seed {seed}: --seed {seed} does the same again")?;
    listen::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = run::run(settings, seed, &schedule) => report.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    // Ends every process that was started: each is killed when what holds it is dropped.
    drop(runtime);
    match outcome {
        Ok(Some(report)) => finish(settings, &schedule, &report),
        Ok(None) => Ok(ExitCode::from(130)),
        Err(error) => {
            write!(out, "{schedule}")?;
            Err(error.context(format!("seed {seed}")))
        }
    }
}

fn finish(settings: &Settings, schedule: &Schedule, report: &Report) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    if let Some(file) = &settings.json {
        std::fs::write(file, serde_json::to_vec_pretty(report)?)?;
    }
    if report.is_clean() {
        write!(out, "\n{report}")?;
        return Ok(ExitCode::SUCCESS);
    }
    write!(out, "\nthe schedule of seed {}:\n{schedule}\n{report}", report.seed)?;
    Ok(ExitCode::FAILURE)
}
