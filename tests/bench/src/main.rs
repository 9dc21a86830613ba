//! Counts the instructions of the hot path under callgrind and compares them with those on record.
//!
//! `ntonix-bench check` runs itself once for each row, as `ntonix-bench row NAME`, which is what callgrind counts.

mod callgrind;
mod check;
mod counted;
mod lockstep;
mod record;
mod rows;
mod site;
mod websocket;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::check::Order;

/// Counts instructions of the hot path.
#[derive(Debug, Parser)]
struct Settings {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts all rows and compares them with the record; exits with 1 when one has grown too much.
    Check(Check),
    /// Runs one row and prints over how many units its instructions are spread.
    Row { name: String },
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The record.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// Writes what was counted into the record instead.
    #[arg(long, conflicts_with = "only")]
    renew: bool,
    /// Counts these rows only.
    #[arg(long, value_delimiter = ',', value_name = "ROWS")]
    only: Vec<String>,
    /// This program, built with the feature `unobserved`.
    #[arg(long, value_name = "PROGRAM")]
    unobserved: PathBuf,
}

fn main() -> ExitCode {
    let done = match Settings::parse().command {
        Command::Row { name } => rows::run(&name).and_then(|units| {
            tell(&format!("{units}\n"))?;
            Ok(true)
        }),
        Command::Check(Check { record, renew, only, unobserved }) => {
            check::run(&Order { record, renew, only, unobserved }).and_then(|(page, is_good)| {
                tell(&page)?;
                Ok(is_good)
            })
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            let _ = writeln!(std::io::stderr(), "ntonix-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
