//! What is wrong in a draft: one fault, and all of them.

use std::{error::Error, fmt};

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as in `routes[0].targets[1].pool`; empty when it is about the whole.
    pub path: String,
    /// What, lower case, no full stop.
    pub reason: String,
    /// What may have been meant, as in `did you mean "llama"?`.
    pub hint: Option<String>,
    /// The line of the file, from 1, when there is a file.
    pub line: Option<u32>,
}

/// Everything that is wrong, in the order in which it was found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

// === impl Fault ===

impl Fault {
    /// A fault at a path.
    #[must_use]
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into(), hint: None, line: None }
    }

    /// The same with the known name that was probably meant, when there is one.
    #[must_use]
    pub fn meaning(mut self, name: Option<&str>) -> Self {
        self.hint = name.map(|name| format!("did you mean \"{name}\"?"));
        self
    }

    /// The same with a line of the file, from 1.
    #[must_use]
    pub fn on_line(mut self, line: Option<u32>) -> Self {
        self.line = line;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.as_str(), self.line) {
            ("", None) => {}
            ("", Some(line)) => write!(f, "line {line}: ")?,
            (path, None) => write!(f, "{path}: ")?,
            (path, Some(line)) => write!(f, "{path} (line {line}): ")?,
        }
        f.write_str(&self.reason)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

// === impl Faults ===

impl Faults {
    /// All of `faults`; nothing when there are none.
    #[must_use]
    pub fn new(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then_some(Self(faults))
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    /// How many, at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The same with the line that `line_of` knows for a path, in the order of the lines.
    pub(crate) fn on_lines(mut self, line_of: impl Fn(&str) -> Option<u32>) -> Self {
        for fault in &mut self.0 {
            fault.line = fault.line.or_else(|| line_of(&fault.path));
        }
        self.0.sort_by_key(|fault| fault.line);
        self
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_where_what_and_what_may_have_been_meant() {
        let fault = Fault::new("routes[0].targets[0].pool", "no pool is named \"lama\"")
            .meaning(Some("llama"))
            .on_line(Some(12));
        assert_eq!(
            fault.to_string(),
            "routes[0].targets[0].pool (line 12): no pool is named \"lama\"; did you mean \"llama\"?"
        );
        assert_eq!(Fault::new("", "not YAML").on_line(Some(3)).to_string(), "line 3: not YAML");
        assert_eq!(Fault::new("", "not YAML").to_string(), "not YAML");
    }

    #[test]
    fn faults_are_written_one_on_a_line() {
        let faults = Faults::new(vec![Fault::new("a", "wrong"), Fault::new("b", "wrong too")]).unwrap();
        assert_eq!(faults.to_string(), "a: wrong\nb: wrong too");
        assert_eq!(faults.len(), 2);
        assert!(Faults::new(Vec::new()).is_none());
    }
}
