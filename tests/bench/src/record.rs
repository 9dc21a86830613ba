//! The figures on record, and what differs from them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::callgrind;

/// Instructions of one unit of each row.
pub(crate) type Figures = BTreeMap<String, f64>;

/// What was counted when, and with what: other tools make other instructions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) tools: Tools,
    pub(crate) instructions: Figures,
}

/// What makes and counts instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tools {
    rustc: String,
    libc: String,
    valgrind: String,
}

/// The record beside what was counted now.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) page: String,
    /// No row has grown too much, and all are on record.
    pub(crate) is_good: bool,
}

/// A row may differ from its record by this share.
const MARGIN: f64 = 0.10;
const RENEW: &str = "tests/instructions --renew";

// === impl Record ===

impl Record {
    /// What was counted with the tools that are there.
    pub(crate) fn new(instructions: Figures) -> anyhow::Result<Self> {
        Ok(Self { tools: Tools::present()?, instructions })
    }

    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}; {RENEW}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record; {RENEW}", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Compares with the figures of `counted`. `is_all`: every row was counted.
    pub(crate) fn compare(&self, counted: &Figures, is_all: bool) -> Comparison {
        let mut comparison = Comparison { page: String::new(), is_good: true };
        for (row, &now) in counted {
            comparison.add(row, self.instructions.get(row).copied(), now);
        }
        let gone = self.instructions.keys().filter(|row| is_all && !counted.contains_key(*row));
        for row in gone {
            comparison.fail(format_args!("{row}: on record, but nothing counts it; {RENEW}"));
        }
        comparison
    }
}

// === impl Comparison ===

impl Comparison {
    fn add(&mut self, row: &str, before: Option<f64>, now: f64) {
        let Some(before) = before else {
            return self.fail(format_args!("{row}: {now:.1} instructions, and not on record; {RENEW}"));
        };
        let share = now / before - 1.0;
        let change = format!("{row}: {before:.1} instructions on record, {now:.1} now ({:+.1} %)", 100.0 * share);
        if share > MARGIN {
            self.fail(format_args!("{change}; if that is what it is worth: {RENEW}"));
        } else if share < -MARGIN {
            self.say(format_args!("{change}: the record is out of date; {RENEW}"));
        } else {
            self.say(format_args!("{change}"));
        }
    }

    /// A goal that must be reached: `row` takes at most so many times the instructions of `other`.
    pub(crate) fn hold(&mut self, counted: &Figures, row: &str, other: &str, at_most: f64) {
        let (Some(figure), Some(beside)) = (counted.get(row), counted.get(other)) else { return };
        let ratio = figure / beside;
        let goal = format!("{row} is {ratio:.3} times {other}, at most {at_most:.2}");
        if ratio <= at_most { self.say(format_args!("{goal}")) } else { self.fail(format_args!("{goal}")) }
    }

    /// Says so when the record was made with something else than what is there.
    pub(crate) fn note_tools(&mut self, recorded: &Tools, present: &Tools) {
        if recorded != present {
            self.say(format_args!("note: recorded with {recorded:?}, counted with {present:?}"));
        }
    }

    fn fail(&mut self, what: std::fmt::Arguments<'_>) {
        self.is_good = false;
        self.say(format_args!("FAILED: {what}"));
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        // A string takes whatever is written to it.
        let _ = writeln!(self.page, "{what}");
    }
}

// === impl Tools ===

impl Tools {
    pub(crate) fn present() -> anyhow::Result<Self> {
        Ok(Self {
            rustc: said("rustc", "--version")?,
            libc: said("getconf", "GNU_LIBC_VERSION")?,
            valgrind: callgrind::version()?,
        })
    }
}

fn said(program: &str, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output().with_context(|| format!("there is no {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(rustc: &str) -> Tools {
        Tools { rustc: rustc.to_owned(), libc: "glibc 2.36".to_owned(), valgrind: "valgrind-3.19.0".to_owned() }
    }

    fn figures(figures: &[(&str, f64)]) -> Figures {
        figures.iter().map(|(row, figure)| ((*row).to_owned(), *figure)).collect()
    }

    fn record(instructions: &[(&str, f64)]) -> Record {
        Record { tools: tools("rustc 1.95.0"), instructions: figures(instructions) }
    }

    #[test]
    fn a_row_that_grew_by_more_than_a_tenth_fails_and_says_what_to_do() {
        let record = record(&[("token", 1000.0), ("pick-2", 50.0)]);
        let comparison = record.compare(&figures(&[("token", 1101.0), ("pick-2", 50.0)]), true);
        assert!(!comparison.is_good);
        let line = "FAILED: token: 1000.0 instructions on record, 1101.0 now (+10.1 %); if that is what it is worth: tests/instructions --renew\n";
        assert!(comparison.page.contains(line), "{}", comparison.page);
    }

    #[test]
    fn a_row_within_a_tenth_passes_in_both_directions() {
        let record = record(&[("token", 1000.0)]);
        for now in [1099.0, 1000.0, 901.0] {
            let comparison = record.compare(&figures(&[("token", now)]), true);
            assert!(comparison.is_good && !comparison.page.contains("out of date"), "{}", comparison.page);
        }
    }

    #[test]
    fn a_row_that_shrank_by_more_than_a_tenth_passes_with_a_word() {
        let comparison = record(&[("token", 1000.0)]).compare(&figures(&[("token", 899.0)]), true);
        assert!(comparison.is_good);
        assert!(comparison.page.contains("(-10.1 %): the record is out of date"), "{}", comparison.page);
    }

    #[test]
    fn a_row_must_be_on_record_and_a_record_must_have_its_row() {
        let record = record(&[("old", 1.0)]);
        let comparison = record.compare(&figures(&[("new", 2.0)]), true);
        assert!(!comparison.is_good);
        assert!(comparison.page.contains("FAILED: new: 2.0 instructions, and not on record"), "{}", comparison.page);
        assert!(comparison.page.contains("FAILED: old: on record, but nothing counts it"), "{}", comparison.page);
        assert!(record.compare(&figures(&[]), false).is_good, "only some were to be counted");
    }

    #[test]
    fn a_goal_is_reached_up_to_its_bound() {
        let counted = figures(&[("with", 110.0), ("without", 100.0)]);
        for (at_most, is_good) in [(1.10, true), (1.09, false)] {
            let mut comparison = record(&[]).compare(&figures(&[]), false);
            comparison.hold(&counted, "with", "without", at_most);
            assert_eq!(comparison.is_good, is_good, "{}", comparison.page);
            comparison.hold(&counted, "with", "neither counted", 0.0);
            assert_eq!(comparison.is_good, is_good, "{}", comparison.page);
        }
    }

    #[test]
    fn other_tools_are_told() {
        let mut comparison = record(&[]).compare(&figures(&[]), false);
        comparison.note_tools(&tools("rustc 1.95.0"), &tools("rustc 1.95.0"));
        assert_eq!(comparison.page, "");
        comparison.note_tools(&tools("rustc 1.95.0"), &tools("rustc 1.96.0"));
        assert!(comparison.page.contains("1.96.0") && comparison.is_good, "{}", comparison.page);
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("instructions.json");
        let record = record(&[("token", 12.3)]);
        record.write(&file).unwrap();
        assert_eq!(Record::read(&file).unwrap(), record);
    }
}
