//! Drives bounded load through a gateway to the mock backend and checks every token: `ntonix-load paced --streams 400`.
//!
//! Every token of the mock carries the request's nonce, its number and the time it was written, so that a token that is
//! lost, doubled, reordered or sent to the wrong client shows. The exit code is 1 when any token was wrong or any
//! request failed. All runs on one thread, with one task for each connection.

mod settings;
mod target;
mod plan;
mod tally;
mod process;
mod report;
mod streams;
mod cancel;
mod websocket;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use ntonix_runtime::listen;
use ntonix_runtime::settings::parse;

use crate::plan::Plan;
use crate::process::Watched;
use crate::report::Report;
use crate::settings::{Command, Departure, Load, Mode, Settings};

fn main() -> ExitCode {
    let settings: Settings = match parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(settings.command) {
        Ok(code) => code,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            let _ = writeln!(std::io::stderr(), "ntonix-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let (mode, departure, load) = match command.run() {
        Ok(run) => run,
        Err(files) => {
            let reports: Vec<Report> = files.iter().map(|file| Report::read(file)).collect::<Result<_, _>>()?;
            tell(&report::comparison(&reports))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    listen::raise_open_files();
    let json = load.json;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(drive(mode, departure, load))?;
    tell(&if json { report.to_json()? } else { report.to_string() })?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn drive(mode: Mode, departure: Departure, load: Load) -> anyhow::Result<Report> {
    let watched = Watched::start(&load.watch_pid).context("cannot watch the process")?;
    let plan = Arc::new(Plan::new(mode, departure, load)?);
    let watching = watched.clone();
    let sampler = ntonix_runtime::tasks::spawn("sampler", async move { watching.sample_for_ever().await });
    match mode {
        Mode::Unary | Mode::Paced | Mode::Fast | Mode::Held => streams::run(&plan).await?,
        Mode::Ws => websocket::run(&plan).await?,
        Mode::Cancel => cancel::run(&plan).await?,
    }
    sampler.abort();
    Ok(Report::new(&plan, watched.end()?))
}

fn tell(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end())
}
