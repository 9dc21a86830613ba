//! `ntonixctl validate`: checks files without a server.

use std::{io::Write, path::PathBuf};

use anyhow::anyhow;
use ntonix_config::{Config, validate};

use crate::file::File;

/// Check files as the control plane and the workers would; no server is needed
///
/// Every fault is told with its line. What only a worker can know (whether a secret is there, whether a certificate can
/// be read) is not looked at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  ntonixctl validate -f ntonix.yaml -f spare.yaml")]
pub(crate) struct Args {
    /// A file, YAML or JSON; "-" reads standard input; may be given several times
    #[arg(long = "file", short, value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

// === impl Args ===

impl Args {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut bad = Vec::new();
        for path in &self.files {
            if let Err(error) = File::read(path).and_then(|file| check(&file, out)) {
                bad.push(format!("{error:#}"));
            }
        }
        if bad.is_empty() { Ok(()) } else { Err(anyhow!("{}", bad.join("\n"))) }
    }
}

fn check(file: &File, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = validate(file.draft()).map_err(|faults| file.complain(faults))?;
    file.warn(config.warnings().iter().map(|warning| (warning.path.as_str(), warning.reason.as_str())), out)?;
    writeln!(out, "{}: valid ({})", file.name(), contents(&config))?;
    Ok(())
}

/// What there is in a configuration, as in "2 pools, 1 route".
fn contents(config: &Config) -> String {
    let counted = [
        (config.pools.len(), "pool"),
        (config.routes.len(), "route"),
        (config.tenants.len(), "tenant"),
        (config.keys.len(), "key"),
        (config.secrets.len(), "secret"),
    ];
    let shown = counted.iter().filter(|(count, _)| *count > 0);
    let shown: Vec<String> =
        shown.map(|(count, name)| format!("{count} {name}{}", if *count == 1 { "" } else { "s" })).collect();
    if shown.is_empty() { "empty".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told_and_what_is_good_is_counted() {
        let mut out = Vec::new();
        let bad = File::from_text("x", "routes:\n  - model: a\n    targets: [{pool: b}]\n").unwrap();
        let error = check(&bad, &mut out).unwrap_err().to_string();
        assert_eq!(error, "1 fault in x\nx:3: routes[0].targets[0].pool: no pool is named \"b\"");

        let good = File::from_text("y", "pools: [{name: p, backends: [{name: b, url: 'http://b'}]}]").unwrap();
        check(&good, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "warning: y:1: pools[0]: no route leads to \"p\"\ny: valid (1 pool)\n"
        );
    }

    #[test]
    fn every_bad_file_is_told() {
        let files = vec![PathBuf::from("no/such/a"), PathBuf::from("no/such/b")];
        let error = Args { files }.run(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("no/such/a") && error.contains("no/such/b"));
    }
}
