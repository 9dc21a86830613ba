//! The medians of what was measured, axis by axis.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compare::grow::axis::{Axis, Figure};
use crate::compare::measure::median;
use crate::compare::outcome::Machine;
use crate::compare::peers::Kind;
use crate::report::Report;

/// One point of one axis with one peer, once.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) axis: Axis,
    pub(crate) at: u32,
    pub(crate) peer: Kind,
    pub(crate) report: Report,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) duration_seconds: f64,
    pub(crate) points: Vec<Point>,
}

/// One point of one axis with one peer: medians of all rounds, counts of all together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) axis: Axis,
    pub(crate) at: u32,
    pub(crate) peer: Kind,
    /// One for each figure of the axis, in its order.
    pub(crate) figures: Vec<Option<f64>>,
    /// Requests that failed, and streams that were missing when all had to be open.
    pub(crate) failed: u64,
    /// Tokens that were lost, doubled, reordered or somebody else's.
    pub(crate) wrong: u64,
}

// === impl Growth ===

impl Growth {
    pub(crate) fn new(machine: Machine, rounds: u32, duration: Duration, measured: &[Measured]) -> Self {
        let mut keys: Vec<_> = measured.iter().map(|one| (one.axis, one.at, one.peer)).collect();
        keys.sort_unstable();
        keys.dedup();
        let point = |(axis, at, peer)| {
            let is_it = |one: &&Measured| (one.axis, one.at, one.peer) == (axis, at, peer);
            Point::new(axis, at, peer, &measured.iter().filter(is_it).collect::<Vec<_>>())
        };
        let points = keys.into_iter().map(point).collect();
        Self { machine, rounds, duration_seconds: duration.as_secs_f64(), points }
    }

    /// Whether every request succeeded and every token was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.points.iter().all(|point| point.failed == 0 && point.wrong == 0)
    }

    /// The points of one axis.
    pub(crate) fn of(&self, axis: Axis) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.axis == axis)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for axis in Axis::ALL.into_iter().filter(|axis| self.of(*axis).next().is_some()) {
            let figures: Vec<&str> = axis.figures().iter().map(|figure| figure.says()).collect();
            writeln!(f, "| {} | peer | {} | failed | wrong |", axis.says(), figures.join(" | "))?;
            writeln!(f, "| --- | --- | {}--- | --- |", "--- | ".repeat(figures.len()))?;
            for point in self.of(axis) {
                write!(f, "| {} | {} |", point.at, point.peer.name())?;
                for figure in &point.figures {
                    match figure {
                        Some(figure) => write!(f, " {figure:.1} |")?,
                        None => write!(f, " – |")?,
                    }
                }
                writeln!(f, " {} | {} |", point.failed, point.wrong)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

// === impl Point ===

impl Point {
    fn new(axis: Axis, at: u32, peer: Kind, measured: &[&Measured]) -> Self {
        let figure =
            |figure: &Figure| median(measured.iter().filter_map(|one| figure.of(&one.report)).collect::<Vec<f64>>());
        Self {
            axis,
            at,
            peer,
            figures: axis.figures().iter().map(figure).collect(),
            failed: measured.iter().map(|one| one.failed()).sum(),
            wrong: measured.iter().map(|one| one.report.wrong.total()).sum(),
        }
    }
}

// === impl Measured ===

impl Measured {
    fn failed(&self) -> u64 {
        self.report.failed.values().sum::<u64>() + self.axis.missing(self.at, &self.report)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9}{:>8}  {:<8}", self.axis.name(), self.at, self.peer.name())?;
        for figure in self.axis.figures() {
            if let Some(value) = figure.of(&self.report) {
                write!(f, " {value:>8.1} {}", figure.says())?;
            }
        }
        match (self.failed(), self.report.wrong.total()) {
            (0, 0) => Ok(()),
            (failed, wrong) => write!(f, "  {failed} failed, {wrong} wrong"),
        }
    }
}
