//! One measurement, and the medians of several.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compare::cases::{Case, Shape};
use crate::compare::peers::{House, Kind, Stage};
use crate::report::Report;
use crate::settings::{Departure, Load, Mode};

/// One case with one peer, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) case: String,
    pub(crate) peer: Kind,
    pub(crate) round: u32,
    pub(crate) report: Report,
    /// What came of it the second time on the same process.
    pub(crate) again: Option<Report>,
    /// Streams that were not open when all had to be.
    pub(crate) missing: u64,
    /// For each request, where they were counted.
    pub(crate) instructions: Option<f64>,
}

/// One case with one peer: medians of all rounds, counts of all together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) peer: Kind,
    pub(crate) rounds: usize,
    /// Answers when they are not streamed, else tokens; `None` where both only wait.
    pub(crate) per_second: Option<f64>,
    /// Of the peer's processes, for each answer when they are not streamed, else for each token.
    pub(crate) cpu_us: Option<f64>,
    /// The least and the most CPU of all rounds.
    pub(crate) cpu_us_range: Option<[f64; 2]>,
    pub(crate) kib_per_stream: Option<f64>,
    /// The most memory in the second go as a multiple of that in the first.
    pub(crate) growth: Option<f64>,
    /// For each request, where they were counted.
    pub(crate) instructions: Option<f64>,
    /// `request`, `first_token`, `travel`: p50 and p99 in µs.
    pub(crate) times: BTreeMap<String, [f64; 2]>,
    /// Requests that failed, and streams that were missing when all had to be open.
    pub(crate) failed: u64,
    /// Tokens that were lost, doubled, reordered or somebody else's.
    pub(crate) wrong: u64,
}

/// What goes before a measurement must go well, or there is nothing to measure.
pub(crate) async fn warm_up(stage: &Stage, load: (Mode, Load)) -> anyhow::Result<()> {
    let warm = drive(stage, load).await?;
    anyhow::ensure!(warm.is_clean(), "the warm-up failed:\n{warm}");
    Ok(())
}

/// Puts a load on a peer and says what came of it.
pub(crate) async fn drive(stage: &Stage, (mode, load): (Mode, Load)) -> anyhow::Result<Report> {
    crate::drive(mode, Departure::default(), stage.aim(load)?).await
}

// === impl Run ===

impl Run {
    /// Starts everything, warms it up and measures.
    pub(crate) async fn of(
        house: &House,
        case: &Case,
        kind: Kind,
        round: u32,
        duration: Duration,
    ) -> anyhow::Result<Self> {
        let is_counted = matches!(case.shape, Shape::Counted(_));
        let stage = Stage::start(house, kind, case.shape.size(), is_counted).await?;
        let urls = || stage.urls(case);
        warm_up(&stage, case.warm_up(urls(), duration)).await?;
        if is_counted {
            stage.forget_instructions()?;
        }
        let report = drive(&stage, case.load(urls(), duration)).await?;
        let instructions = if is_counted { Some(stage.instructions()? as f64 / report.requests as f64) } else { None };
        let again = match case.shape {
            Shape::Twice(_) => Some(drive(&stage, case.load(urls(), duration)).await?),
            _ => None,
        };
        Ok(Self { instructions, ..Self::new(case, kind, round, report, again) })
    }

    pub(crate) fn new(case: &Case, peer: Kind, round: u32, report: Report, again: Option<Report>) -> Self {
        let mut run = Self { case: case.name(), peer, round, report, again, missing: 0, instructions: None };
        if case.shape.is_held() {
            let wanted = u64::from(case.shape.streams());
            run.missing = run.reports().map(|report| wanted.saturating_sub(report.open_most)).sum();
        }
        run
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        [Some(&self.report), self.again.as_ref()].into_iter().flatten()
    }

    fn failed(&self) -> u64 {
        self.reports().flat_map(|report| report.failed.values()).sum::<u64>() + self.missing
    }

    fn wrong(&self) -> u64 {
        self.reports().map(|report| report.wrong.total()).sum()
    }

    /// What the CPU is divided by is what comes again and again: requests that nothing streams, else tokens.
    fn cpu_us(&self) -> Option<f64> {
        let report = &self.report;
        // An interval without a tick of the clock tells nothing.
        let cost = if is_streamed(report) { report.cpu_us_per_token } else { report.cpu_us_per_request };
        cost.filter(|cost| *cost > 0.0 && self.is_timed())
    }

    fn per_second(&self) -> Option<f64> {
        let report = &self.report;
        let units = if is_streamed(report) { report.tokens } else { report.complete };
        self.is_timed().then(|| units as f64 / report.seconds)
    }

    fn kib_per_stream(&self) -> Option<f64> {
        self.report
            .kib_per_stream
            .filter(|_| self.is_held() && self.report.watched.as_ref().is_some_and(|usage| usage.start_kib > 0))
    }

    fn growth(&self) -> Option<f64> {
        let most = |report: &Report| report.watched.as_ref().map(|usage| usage.peak_kib as f64);
        Some(most(self.again.as_ref()?)? / most(&self.report).filter(|kib| *kib > 0.0)?)
    }

    fn is_held(&self) -> bool {
        self.report.mode == Mode::Held.name()
    }

    /// Whether time and CPU mean something: neither where streams only wait, nor where instructions are counted.
    fn is_timed(&self) -> bool {
        !self.is_held() && self.instructions.is_none()
    }

    fn time(&self, name: &str) -> Option<[f64; 2]> {
        // Of streams that are held the last token comes when it comes, and thousands come at once.
        let times = self.report.times.get(name).filter(|_| self.is_timed())?;
        Some([times.p50_us as f64, times.p99_us as f64])
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}  {:<14} {:<8}", self.round, self.case, self.peer.name())?;
        if let Some(per_second) = self.per_second() {
            write!(f, " {per_second:>8.0}/s")?;
        }
        if let Some(cpu) = self.cpu_us() {
            write!(f, " {cpu:>6.1} µs")?;
        }
        if let Some(kib) = self.kib_per_stream() {
            write!(f, " {kib:>6.1} KiB per stream")?;
        }
        if let Some(instructions) = self.instructions {
            write!(f, " {instructions:>8.0} instructions")?;
        }
        match (self.failed(), self.wrong()) {
            (0, 0) => Ok(()),
            (failed, wrong) => write!(f, "  {failed} failed, {wrong} wrong"),
        }
    }
}

fn is_streamed(report: &Report) -> bool {
    !report.mode.starts_with(Mode::Unary.name())
}

// === impl Row ===

impl Row {
    /// A row for each case and peer, in the order in which they were measured first.
    pub(crate) fn all(runs: &[Run]) -> Vec<Self> {
        let mut groups: Vec<Vec<&Run>> = Vec::new();
        for run in runs {
            let is_like = |group: &&mut Vec<&Run>| {
                group.first().is_some_and(|first| (&first.case, first.peer) == (&run.case, run.peer))
            };
            match groups.iter_mut().find(is_like) {
                Some(group) => group.push(run),
                None => groups.push(vec![run]),
            }
        }
        groups.iter().filter_map(|group| Self::of(group)).collect()
    }

    fn of(runs: &[&Run]) -> Option<Self> {
        let first = runs.first()?;
        let cpu: Vec<f64> = runs.iter().filter_map(|run| run.cpu_us()).collect();
        let of = |figure: fn(&Run) -> Option<f64>| median(runs.iter().filter_map(|run| figure(run)).collect());
        let time = |name: &str| {
            let each = |at: usize| median(runs.iter().filter_map(|run| Some(run.time(name)?[at])).collect());
            Some((name.to_owned(), [each(0)?, each(1)?]))
        };
        Some(Self {
            case: first.case.clone(),
            peer: first.peer,
            rounds: runs.len(),
            per_second: of(Run::per_second),
            cpu_us_range: range(&cpu),
            cpu_us: median(cpu),
            kib_per_stream: of(Run::kib_per_stream),
            growth: of(Run::growth),
            instructions: of(|run| run.instructions),
            times: ["request", "first_token", "travel"].into_iter().filter_map(time).collect(),
            failed: runs.iter().map(|run| run.failed()).sum(),
            wrong: runs.iter().map(|run| run.wrong()).sum(),
        })
    }
}

/// The value in the middle; of an even number, the mean of the two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

fn range(values: &[f64]) -> Option<[f64; 2]> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    Some([least, values.iter().copied().max_by(f64::total_cmp)?])
}
