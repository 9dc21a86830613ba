//! Counts the rows and holds them against the record and the goals.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::callgrind::instructions;
use crate::record::{Figures, Record, Tools};
use crate::rows::{BURST, REQUEST, REQUEST_LARGE, ROWS, TOKEN, UNOBSERVED};

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) record: PathBuf,
    pub(crate) renew: bool,
    /// Empty: all.
    pub(crate) only: Vec<String>,
    pub(crate) unobserved: PathBuf,
}

/// At most so many times the instructions: of a request with 10,000 routes and 100,000 keys beside one with 10 of each,
/// of a token with all of observability beside one without.
const GOALS: [(&str, &str, f64); 3] =
    [(REQUEST_LARGE, REQUEST, 1.05), (TOKEN, "token-unobserved", 1.10), (BURST, "token-burst-unobserved", 1.10)];

/// Does it, and returns what to tell and whether all is well.
pub(crate) fn run(order: &Order) -> anyhow::Result<(String, bool)> {
    let counted = count(order)?;
    let (before, tools) = if order.renew {
        let record = Record::new(counted.clone())?;
        record.write(&order.record)?;
        let tools = record.tools.clone();
        (record, tools)
    } else {
        (Record::read(&order.record)?, Tools::present()?)
    };
    let mut comparison = before.compare(&counted, order.only.is_empty());
    for (row, other, at_most) in GOALS {
        comparison.hold(&counted, row, other, at_most);
    }
    comparison.note_tools(&before.tools, &tools);
    Ok((comparison.page, comparison.is_good))
}

fn count(order: &Order) -> anyhow::Result<Figures> {
    let itself = std::env::current_exe().context("this program has no name")?;
    let all = ROWS.iter().map(|row| (row.name.to_owned(), row.name, itself.as_path()));
    let unobserved = UNOBSERVED.iter().map(|row| (format!("{row}-unobserved"), *row, order.unobserved.as_path()));
    let rows: Vec<(String, &str, &Path)> = all.chain(unobserved).collect();
    if let Some(unknown) = order.only.iter().find(|only| !rows.iter().any(|(name, ..)| name == *only)) {
        anyhow::bail!("there is no row {unknown:?}");
    }
    let wanted = rows.into_iter().filter(|(name, ..)| order.only.is_empty() || order.only.contains(name));
    // To a tenth of an instruction: what is behind that is no news.
    wanted.map(|(name, row, program)| Ok((name, (instructions(program, row)? * 10.0).round() / 10.0))).collect()
}
