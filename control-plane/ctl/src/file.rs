//! A configuration file on this machine, and faults shown beside its lines.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use ntonix_config::{Draft, Fault, Faults, Source};

/// A file that was read.
#[derive(Debug)]
pub(crate) struct File {
    name: String,
    source: Source,
}

// === impl File ===

impl File {
    /// Reads a file, "-" for standard input.
    ///
    /// # Errors
    ///
    /// When there is no such file, or with everything that is wrong in it.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("standard input")?;
            return Self::parse("standard input", &text, &std::env::current_dir()?);
        }
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let base = std::path::absolute(path)?.parent().map(PathBuf::from).unwrap_or_default();
        Self::parse(&path.display().to_string(), &text, &base)
    }

    fn parse(name: &str, text: &str, base: &Path) -> anyhow::Result<Self> {
        match Source::read(text, base) {
            Ok(source) => Ok(Self { name: name.to_owned(), source }),
            Err(faults) => Err(anyhow!("{} in {name}\n{}", count(&faults), lines(name, faults))),
        }
    }

    #[cfg(test)]
    pub(crate) fn from_text(name: &str, text: &str) -> anyhow::Result<Self> {
        Self::parse(name, text, Path::new("/"))
    }

    /// Its name, for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it says.
    pub(crate) fn draft(&self) -> &Draft {
        &self.source.draft
    }

    /// Faults of what it says, one on a line, each with the line of the file.
    pub(crate) fn describe(&self, faults: Faults) -> String {
        lines(&self.name, self.source.locate(faults))
    }

    /// Tells of warnings, each with the line of the file.
    ///
    /// # Errors
    ///
    /// When `out` takes nothing more.
    pub(crate) fn warn<'a>(
        &self,
        warnings: impl IntoIterator<Item = (&'a str, &'a str)>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let faults = warnings.into_iter().map(|(path, reason)| Fault::new(path, reason)).collect();
        Faults::new(faults).map_or(Ok(()), |faults| {
            self.describe(faults).lines().try_for_each(|line| writeln!(out, "warning: {line}"))
        })
    }

    /// The same as an error, with how many there are before them.
    pub(crate) fn complain(&self, faults: Faults) -> anyhow::Error {
        anyhow!("{} in {}\n{}", count(&faults), self.name, self.describe(faults))
    }
}

fn count(faults: &Faults) -> String {
    match faults.len() {
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    }
}

/// As compilers write it, so that editors find the place.
fn lines(name: &str, faults: Faults) -> String {
    let line = |fault: Fault| match fault.line {
        Some(line) => format!("{name}:{line}: {}", fault.on_line(None)),
        None => format!("{name}: {fault}"),
    };
    faults.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = File::read(Path::new("no/such/file.yaml")).unwrap_err();
        assert!(format!("{error:#}").starts_with("no/such/file.yaml: "));
    }

    #[test]
    fn an_empty_file_is_no_configuration() {
        let error = File::from_text("x.yaml", " \n").unwrap_err().to_string();
        assert!(error.contains("x.yaml") && error.contains("there is nothing in it"), "{error}");
        assert!(File::from_text("x.yaml", "pools: []").is_ok());
    }

    #[test]
    fn every_fault_of_a_file_stands_on_its_line() {
        let error = File::from_text("x.yaml", "pols: []\nlimits: {queue_wait: soon}\n").unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines[0], "2 faults in x.yaml");
        assert_eq!(lines[1], "x.yaml:1: pols: unknown field; did you mean \"pools\"?");
        assert!(lines[2].starts_with("x.yaml:2: limits.queue_wait: "));
    }
}
