//! `ntonix-load compare`: the same loads through each peer in turns, and what each of them cost.

mod cases;
mod config;
mod goals;
pub(crate) mod grow;
mod instructions;
mod measure;
mod outcome;
mod peers;
mod programs;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write as _;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::compare::cases::Case;
use crate::compare::measure::Run;
use crate::compare::outcome::{Machine, Outcome};
use crate::compare::peers::{House, Kind};
pub(crate) use crate::compare::settings::Settings;

/// Says whether every token was right, every request succeeded and, when that is asked, every goal was reached.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<bool> {
    ended_by_signals(compare(settings)).await
}

/// Dropped in the middle, a measurement ends the programs that it has started.
async fn ended_by_signals(work: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        outcome = work => outcome,
        _ = interrupt.recv() => anyhow::bail!("interrupted by SIGINT"),
        _ = terminate.recv() => anyhow::bail!("interrupted by SIGTERM"),
    }
}

async fn compare(settings: &Settings) -> anyhow::Result<bool> {
    let cases = cases::named(&settings.only)?;
    if settings.list {
        let lines = cases.iter().map(|case| format!("{:<16}{}\n", case.name(), case.says()));
        crate::tell(&lines.collect::<String>())?;
        return Ok(true);
    }
    // Before the run: one of an hour must not end with nowhere to go.
    let json = settings.json.as_ref().map(|path| File::create(path).map(|file| (path, file)));
    let json = json.transpose().context("cannot write --json")?;
    for kind in &settings.peers {
        kind.program()?;
    }
    let machine = Machine::now(&settings.peers);
    let outcome = Outcome::new(settings, machine, measure_all(settings, &cases).await?);
    if let Some((path, mut file)) = json {
        let text = serde_json::to_vec_pretty(&outcome)?;
        file.write_all(&text).with_context(|| format!("cannot write --json {}", path.display()))?;
    }
    crate::tell(&table::page(&outcome, &cases))?;
    let are_reached = outcome.goals.iter().all(|goal| goal.is_reached());
    Ok(outcome.is_clean() && (are_reached || !settings.goals))
}

/// Round by round, case by case, peer by peer.
async fn measure_all(settings: &Settings, cases: &[Case]) -> anyhow::Result<Vec<Run>> {
    let house = House::new()?;
    let takes_part = |case: &Case, kind: Kind| settings.peers.contains(&kind) && case.is_for(kind);
    let kinds = [Kind::Direct, Kind::Nginx, Kind::Haproxy, Kind::Ntonix];
    let turns = |case: &Case| kinds.into_iter().filter(|kind| takes_part(case, *kind)).count();
    let total: usize = cases.iter().map(turns).sum::<usize>() * settings.rounds as usize;
    let mut runs = Vec::new();
    for round in 1..=settings.rounds {
        for case in cases {
            for kind in kinds.into_iter().filter(|kind| takes_part(case, *kind)) {
                let run = Run::of(&house, case, kind, round, settings.duration);
                let run = run.await.with_context(|| format!("{} with {}", case.name(), kind.name()))?;
                progress(&run.to_string(), runs.len() + 1, total);
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

fn progress(what: &str, done: usize, total: usize) {
    // Who does not look needs no progress.
    let _ = writeln!(std::io::stderr(), "{done:>4} of {total}  {what}");
}
