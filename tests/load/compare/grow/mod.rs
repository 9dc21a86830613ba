//! `ntonix-load grow`: how what a request, a token or a stream costs grows with one thing at a time.

mod axis;
mod plot;
mod series;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::compare::grow::axis::Axis;
use crate::compare::grow::series::{Growth, Measured};
use crate::compare::measure;
use crate::compare::outcome::Machine;
use crate::compare::peers::{House, Kind, Stage};
use crate::compare::{ended_by_signals, progress};

/// What grows, how long, and where the result goes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// What grows [default: all]
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    only: Vec<Axis>,
    /// Who is measured, where it says anything of them
    #[arg(long, value_enum, value_name = "PEERS", value_delimiter = ',', default_values = ["nginx", "haproxy", "ntonix"])]
    peers: Vec<Kind>,
    /// How often each point is measured with each peer; medians are told
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long requests are begun in one measurement
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// No points beyond this
    #[arg(long, value_name = "COUNT")]
    up_to: Option<u32>,
    /// File for the result, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for the plots, SVG
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

/// Plots of an earlier result.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PlotSettings {
    /// Result of `grow --json`
    #[arg(value_name = "FILE")]
    json: PathBuf,
    /// Folder for the plots
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

const AFTER_HELP: &str = "\
What grows: streams that are open at once, 20,000 tokens per second in all; routes, keys and backends of the pool in the \
configuration of NTONIX; the size of the question; and the tokens that a backend writes at once. As with compare, every \
measurement starts its own programs, and every token is checked.

Examples:
  ntonix-load grow --json growth.json --plots docs/plots
  ntonix-load grow --only routes,keys --rounds 1
  ntonix-load plot growth.json docs/plots";

/// Says whether every token was right and every request succeeded.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<bool> {
    ended_by_signals(grow(settings)).await
}

/// Draws what was measured earlier.
pub(crate) fn plot(settings: &PlotSettings) -> anyhow::Result<()> {
    let path = settings.json.display();
    let text = fs::read_to_string(&settings.json).with_context(|| format!("cannot read {path}"))?;
    let growth: Growth = serde_json::from_str(&text).with_context(|| format!("{path} is no result of grow"))?;
    draw(&growth, &settings.folder)
}

async fn grow(settings: &Settings) -> anyhow::Result<bool> {
    // Before the run: one of an hour must not end with nowhere to go.
    let json = settings.json.as_ref().map(fs::File::create).transpose().context("cannot write --json")?;
    if let Some(folder) = &settings.plots {
        fs::create_dir_all(folder).context("cannot write --plots")?;
    }
    for kind in &settings.peers {
        kind.program()?;
    }
    let machine = Machine::now(&settings.peers);
    let measured = measure_all(settings).await?;
    let growth = Growth::new(machine, settings.rounds, settings.duration, &measured);
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &growth).context("cannot write --json")?;
    }
    if let Some(folder) = &settings.plots {
        draw(&growth, folder)?;
    }
    crate::tell(&growth.to_string())?;
    Ok(growth.is_clean())
}

/// Round by round, point by point, peer by peer.
async fn measure_all(settings: &Settings) -> anyhow::Result<Vec<Measured>> {
    let house = House::new()?;
    let turns = turns(settings);
    let mut measured = Vec::new();
    for round in 1..=settings.rounds {
        for (axis, at, peer) in &turns {
            let one = measure_one(&house, *axis, *at, *peer, settings.duration);
            let one = one.await.with_context(|| format!("{} {at} with {}", axis.name(), peer.name()))?;
            let done = measured.len() + 1;
            progress(&format!("round {round}  {one}"), done, turns.len() * settings.rounds as usize);
            measured.push(one);
        }
    }
    Ok(measured)
}

/// What is measured in one round.
fn turns(settings: &Settings) -> Vec<(Axis, u32, Kind)> {
    let is_wanted = |axis: &Axis| settings.only.is_empty() || settings.only.contains(axis);
    let mut turns = Vec::new();
    for axis in Axis::ALL.into_iter().filter(is_wanted) {
        let is_near = |at: &u32| settings.up_to.is_none_or(|most| *at <= most);
        for at in axis.points().iter().copied().filter(is_near) {
            let peers = axis.peers().iter().filter(|peer| settings.peers.contains(peer));
            turns.extend(peers.map(|peer| (axis, at, *peer)));
        }
    }
    turns
}

async fn measure_one(house: &House, axis: Axis, at: u32, peer: Kind, duration: Duration) -> anyhow::Result<Measured> {
    let stage = Stage::start(house, peer, axis.size(at), false).await?;
    let urls = || stage.plain_urls();
    measure::warm_up(&stage, axis.warm_up(at, urls(), duration)).await?;
    let report = measure::drive(&stage, axis.load(at, urls(), duration)).await?;
    Ok(Measured { axis, at, peer, report })
}

/// Writes each plot to a file of its own.
fn draw(growth: &Growth, folder: &Path) -> anyhow::Result<()> {
    for (name, svg) in plot::all(growth) {
        let path = folder.join(name);
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
