//! Runs one row under callgrind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::counted::COUNTED;

/// How long a row may take, in seconds; it takes some.
const PATIENCE_S: &str = "300";

/// The instructions of one unit of `row`, run by `program`.
pub(crate) fn instructions(program: &Path, row: &str) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("callgrind.out");
    // Out of step, client and gateway would wait for each other.
    let mut command = Command::new("timeout");
    command
        .args([PATIENCE_S, "valgrind", "--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["row", row])
        .stdin(Stdio::null());
    // What the caller's environment says is not what is measured.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NTONIX_")) {
        command.env_remove(variable);
    }
    let output = command.output().context("there is no valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{row} under callgrind: {}", said.trim());
    let units: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("a row tells its units")?;
    let total = total(&fs::read_to_string(&file)?).context("callgrind tells no total")?;
    anyhow::ensure!(total > 0 && units > 0, "{row}: nothing was counted");
    Ok(total as f64 / units as f64)
}

/// The version, as it tells it.
pub(crate) fn version() -> anyhow::Result<String> {
    let output = Command::new("valgrind").arg("--version").output().context("there is no valgrind")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn total(text: &str) -> Option<u64> {
    let told = |line: &str| line.strip_prefix("totals: ").or(line.strip_prefix("summary: "))?.trim().parse().ok();
    text.lines().rev().find_map(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_what_is_told_last() {
        assert_eq!(total("events: Ir\nfn=(0) x\n12 7\n\ntotals: 25636899\n"), Some(25_636_899));
        assert_eq!(total("events: Ir\n"), None);
    }
}
