//! Drives bounded load through a gateway to the mock backend and checks every token: `ntonix-load paced --streams 400`;
//! or through several proxies in turns: `ntonix-load compare`.
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
mod compare;
#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use ntonix_runtime::settings::parse;
use ntonix_runtime::{listen, tls};

use crate::plan::Plan;
use crate::process::Watched;
use crate::report::Report;
use crate::settings::{Departure, Load, Mode, Over, Settings, Work};

fn main() -> ExitCode {
    let settings: Settings = match parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(settings.command.work()) {
        Ok(code) => code,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            let _ = writeln!(std::io::stderr(), "ntonix-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: Work) -> anyhow::Result<ExitCode> {
    listen::raise_open_files();
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_good = match work {
        Work::Compare(settings) => runtime.block_on(compare::run(&settings))?,
        Work::Grow(settings) => runtime.block_on(compare::grow::run(&settings))?,
        Work::Plot(settings) => compare::grow::plot(&settings).map(|()| true)?,
        Work::Drive(mode, departure, load) => {
            let json = load.json;
            let report = runtime.block_on(drive(mode, departure, *load))?;
            tell(&if json { report.to_json()? } else { report.to_string() })?;
            report.is_clean()
        }
    };
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn drive(mode: Mode, departure: Departure, load: Load) -> anyhow::Result<Report> {
    let watched = Watched::start(&load.watch_pid).context("cannot watch the process")?;
    let plan = Arc::new(Plan::new(mode, departure, load)?);
    let watching = watched.clone();
    let sampler = ntonix_runtime::tasks::spawn("sampler", async move { watching.sample_for_ever().await });
    match (mode, plan.load.over) {
        (Mode::Cancel, _) => cancel::run(&plan).await?,
        (_, Over::Ws) => websocket::run(&plan).await?,
        (_, Over::Http1 | Over::Http2) => streams::run(&plan).await?,
    }
    sampler.abort();
    Ok(Report::new(&plan, watched.end()?))
}

fn tell(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end())
}
