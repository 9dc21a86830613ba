//! Instructions that a process runs, as callgrind counts them: the same on every machine and under any other load.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::compare::programs::installed;

/// Under this, a program is some fifty times slower.
const VALGRIND: &str = "valgrind";
/// Speaks with it; comes with it.
const CONTROL: &str = "callgrind_control";
/// What it writes, numbered, when it is told to.
const OUTPUT: &str = "callgrind.out";

/// The line that runs a program under callgrind, with its output in `folder`.
pub(crate) fn line(program: &Path, folder: &Path) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let output = folder.join(OUTPUT);
    let args = ["--tool=callgrind".into(), format!("--callgrind-out-file={}", output.display()).into(), program.into()];
    Ok((installed(VALGRIND)?, args.to_vec()))
}

/// Forgets what the process has run so far.
pub(crate) fn forget(process: u32) -> anyhow::Result<()> {
    control("--zero", process)
}

/// The instructions that it has run since.
pub(crate) fn counted(process: u32, folder: &Path) -> anyhow::Result<u64> {
    control("--dump", process)?;
    let file = folder.join(format!("{OUTPUT}.1"));
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    total(&text).context("callgrind tells no total")
}

fn control(what: &str, process: u32) -> anyhow::Result<()> {
    let mut command = Command::new(CONTROL);
    command.args([what, &process.to_string()]).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("there is no {CONTROL}"))?;
    let told = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success() && told.contains("OK."), "{CONTROL} {what}: {told}");
    Ok(())
}

fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_last_of_what_is_told() {
        assert_eq!(total("events: Ir\nfn=(0) x\n12 7\n\ntotals: 25636899\n"), Some(25_636_899));
        assert_eq!(total("events: Ir\nsummary: 7\n"), None);
    }
}
