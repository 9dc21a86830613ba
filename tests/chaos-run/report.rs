//! What came of a run: one table, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use ntonix_tests::ledger::{Books, Invariant, Shape, Sums, Transport, Violation};
use serde::Serialize;

use crate::plan::CLIENT_FAULTS;
use crate::schedule::Schedule;

/// Violations that are shown one by one.
const SHOWN: usize = 20;
/// How much more resident memory the last round may leave than the first.
const GROWTH_MAX: f64 = 0.05;

/// What came of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) streams: Vec<Row>,
    /// Streams for which a backend was asked and that did not simply pass.
    pub(crate) faulted: u64,
    pub(crate) tokens: u64,
    pub(crate) attempts: u64,
    pub(crate) records: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Changes of the configuration that every worker ran.
    pub(crate) pushed: u64,
    /// Of the worker that lives from the beginning to the end.
    pub(crate) memory: Resident,
    /// Broken promises by invariant.
    pub(crate) broken: BTreeMap<&'static str, u64>,
    /// What should have been exercised and was not.
    pub(crate) idle: Vec<String>,
    /// Whether the run was long enough for that to be its failure.
    pub(crate) must_exercise_all: bool,
    pub(crate) violations: Vec<Violation>,
}

/// Streams of a kind by how they ended.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    transport: Transport,
    shape: Shape,
    complete: u64,
    error: u64,
    abort: u64,
    left: u64,
    silent: u64,
    /// The errors by their codes.
    codes: BTreeMap<String, u64>,
}

/// Resident memory in KiB.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Resident {
    pub(crate) start_kib: u64,
    pub(crate) peak_kib: u64,
    /// After each round, when no stream was under way.
    pub(crate) rounds_kib: Vec<u64>,
}

/// What a run hands over.
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) books: Books,
    pub(crate) violations: Vec<Violation>,
    pub(crate) struck: BTreeMap<&'static str, u64>,
    pub(crate) pushed: u64,
    pub(crate) memory: Resident,
    pub(crate) must_exercise_all: bool,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(run: Run) -> Self {
        let Run { seed, seconds, books, mut violations, mut struck, pushed, memory, must_exercise_all } = run;
        violations.extend(books.violations());
        violations.extend(memory.growth());
        for kind in Schedule::kinds().into_iter().chain(CLIENT_FAULTS) {
            struck.entry(kind).or_default();
        }
        let mut broken: BTreeMap<&'static str, u64> =
            Invariant::ALL.iter().map(|invariant| (invariant.name(), 0)).collect();
        for violation in &violations {
            *broken.entry(violation.invariant.name()).or_default() += 1;
        }
        let sums = books.sums();
        let streams = rows(&sums);
        Self {
            seed,
            seconds,
            faulted: books.faulted(),
            tokens: sums.tokens,
            attempts: books.attempts().len() as u64,
            records: books.records.len() as u64,
            idle: idle(&streams, &struck, pushed),
            must_exercise_all,
            streams,
            faults: struck,
            pushed,
            memory,
            broken,
            violations,
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty() && (self.idle.is_empty() || !self.must_exercise_all)
    }
}

fn rows(sums: &Sums) -> Vec<Row> {
    let shapes = [Shape::Streamed, Shape::Whole];
    let kinds = Transport::ALL.into_iter().flat_map(|transport| shapes.map(|shape| (transport, shape)));
    let row = |(transport, shape)| {
        let mut row =
            Row { transport, shape, complete: 0, error: 0, abort: 0, left: 0, silent: 0, codes: BTreeMap::new() };
        for ((_, _, ending), count) in sums.streams.iter().filter(|((t, s, _), _)| (*t, *s) == (transport, shape)) {
            row.add(ending, *count);
        }
        row
    };
    kinds.map(row).collect()
}

fn idle(streams: &[Row], struck: &BTreeMap<&'static str, u64>, pushed: u64) -> Vec<String> {
    let streams = streams.iter().filter(|row| row.complete == 0);
    let streams = streams.map(|row| format!("no complete stream: {} {:?}", row.transport.name(), row.shape));
    let faults = struck.iter().filter(|(_, times)| **times == 0).map(|(kind, _)| format!("no fault: {kind}"));
    let pushes = (pushed == 0).then(|| "no push that every worker ran".to_owned());
    streams.chain(faults).chain(pushes).collect()
}

// === impl Row ===

impl Row {
    fn add(&mut self, ending: &ntonix_tests::ledger::Ending, count: u64) {
        use ntonix_tests::ledger::Ending;
        match ending {
            Ending::Complete => self.complete += count,
            Ending::Error(code) => {
                self.error += count;
                *self.codes.entry(code.clone()).or_default() += count;
            }
            Ending::Abort => self.abort += count,
            Ending::Left => self.left += count,
            Ending::Silent => self.silent += count,
        }
    }
}

// === impl Resident ===

impl Resident {
    fn growth(&self) -> Option<Violation> {
        let (first, last) = (*self.rounds_kib.first()?, *self.rounds_kib.last()?);
        let allowed = first as f64 * (1.0 + GROWTH_MAX);
        let what = format!("{last} KiB after the last round are more than 5 % above {first} KiB after the first");
        (last as f64 > allowed).then(|| Violation::new(Invariant::BoundedMemory, "w1", what))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "chaos, seed {}, {:.0} s", self.seed, self.seconds)?;
        writeln!(
            f,
            "\n{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "streams", "complete", "error", "abort", "left", "silent"
        )?;
        let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &self.streams {
            let shape = if row.shape == Shape::Streamed { "streamed" } else { "whole" };
            let name = format!("{} {shape}", row.transport.name());
            let Row { complete, error, abort, left, silent, .. } = row;
            writeln!(f, "{name:<28}{complete:>10}{error:>10}{abort:>10}{left:>10}{silent:>10}")?;
            for (code, count) in &row.codes {
                *codes.entry(code).or_default() += count;
            }
        }
        writeln!(f, "\nerrors: {}", list(&codes))?;
        let Self { faulted, tokens, attempts, records, pushed, .. } = self;
        writeln!(
            f,
            "{tokens} tokens, {faulted} faulted streams, {attempts} attempts, {records} records, {pushed} pushes"
        )?;
        writeln!(f, "\n{:<48}{:>10}", "faults", "times")?;
        for (kind, times) in &self.faults {
            writeln!(f, "{kind:<48}{times:>10}")?;
        }
        let Resident { start_kib, peak_kib, rounds_kib } = &self.memory;
        writeln!(
            f,
            "\nresident memory of w1: {start_kib} KiB at the start, {peak_kib} at most, {rounds_kib:?} after each round"
        )?;
        let promise = |invariant: Invariant| format!("{invariant:<6}{}", invariant.promise());
        let width =
            Invariant::ALL.map(|invariant| promise(invariant).chars().count()).into_iter().max().unwrap_or_default();
        writeln!(f, "\n{:<width$}{:>10}", "invariant", "broken")?;
        for invariant in Invariant::ALL {
            let name = promise(invariant);
            let count = self.broken.get(invariant.name()).copied().unwrap_or_default();
            writeln!(f, "{name:<width$}{count:>10}")?;
        }
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "{violation}")?;
        }
        let remark = if self.must_exercise_all { "" } else { " (a run of less than two minutes need not)" };
        for idle in &self.idle {
            writeln!(f, "not exercised{remark}: {idle}")?;
        }
        Ok(())
    }
}

fn list(counts: &BTreeMap<&str, u64>) -> String {
    let items: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(must_exercise_all: bool) -> Report {
        Report::new(Run {
            seed: 1,
            seconds: 3.0,
            books: Books::default(),
            violations: Vec::new(),
            struck: BTreeMap::new(),
            pushed: 0,
            memory: Resident::default(),
            must_exercise_all,
        })
    }

    #[test]
    fn a_run_that_exercised_nothing_fails_only_when_it_was_long_enough() {
        assert!(!report(true).is_clean());
        let short = report(false);
        assert!(short.is_clean());
        assert!(
            short.to_string().contains("not exercised (a run of less than two minutes need not): no fault: "),
            "{short}"
        );
    }

    #[test]
    fn the_rows_of_all_invariants_end_in_one_column() {
        let table = report(false).to_string();
        let rows = table.lines().skip_while(|line| !line.starts_with("invariant")).take(1 + Invariant::ALL.len());
        let ends: Vec<usize> = rows.map(|row| row.chars().count()).collect();
        assert_eq!(ends, [ends[0]; 1 + Invariant::ALL.len()], "{table}");
    }
}
