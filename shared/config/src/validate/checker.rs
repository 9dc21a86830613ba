//! Gathers faults, and checks what occurs in many places: names, ranges, references.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use crate::{Fault, nearest, scalar};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Gathers what is wrong.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Wrong by itself.
    pub(super) faults: Vec<Fault>,
    /// Names that lead nowhere.
    pub(super) dangling: Vec<Fault>,
}

impl Checker {
    pub(super) fn fault(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.faults.push(Fault::new(path, reason));
    }

    /// Notes a fault for an error and goes on without the value.
    pub(super) fn kept<T, E: Into<String>>(&mut self, path: impl Into<String>, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|reason| self.fault(path, reason)).ok()
    }

    /// A name of our own: 1 to 63 of [a-z0-9-], starting with a letter or digit.
    pub(super) fn name(&mut self, path: impl Into<String>, name: &str) {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.is_empty() {
            self.fault(path, "is missing");
        } else if name.len() > 63 || name.starts_with('-') || !name.bytes().all(allowed) {
            self.fault(
                path,
                format!("must be 1 to 63 of a-z, 0-9 and \"-\", starting with a letter or digit, not {name:?}"),
            );
        }
    }

    /// What must be unique: notes a fault for each that was there before.
    pub(super) fn unique<'a>(&mut self, what: &str, named: impl IntoIterator<Item = (String, &'a str)>) {
        let mut first: HashMap<&str, String> = HashMap::new();
        for (path, name) in named.into_iter().filter(|(_, name)| !name.is_empty()) {
            match first.get(name) {
                Some(before) => self.fault(path, format!("the {what} {name:?} is taken by {before}")),
                None => _ = first.insert(name, path),
            }
        }
    }

    /// A name that must lead to one of `known`.
    pub(super) fn reference(&mut self, path: impl Into<String>, kind: &str, name: &str, known: &HashSet<&str>) {
        if name.is_empty() {
            self.fault(path, format!("must name a {kind}"));
        } else if !known.contains(name) {
            let fault = Fault::new(path, format!("no {kind} is named {name:?}"));
            self.dangling.push(fault.meaning(nearest(name, known.iter().copied())));
        }
    }

    /// A number in its range.
    pub(super) fn count(&mut self, path: &str, value: Option<u32>, range: RangeInclusive<u32>, default: u32) -> u32 {
        self.optional_count(path, value, range).unwrap_or(default)
    }

    /// A number in its range, when there is one.
    pub(super) fn optional_count(&mut self, path: &str, value: Option<u32>, range: RangeInclusive<u32>) -> Option<u32> {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            self.fault(path, format!("must be from {} to {}, not {value}", range.start(), range.end()));
        }
        value
    }

    /// A duration in its range.
    pub(super) fn duration(
        &mut self,
        path: &str,
        value: Option<prost_types::Duration>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = value else { return default };
        match Duration::try_from(value) {
            Ok(duration) if range.contains(&duration) => duration,
            _ => {
                let written = scalar::format_duration(&value);
                self.fault(
                    path,
                    format!("must be from {} to {}, not {written}", shown(range.start()), shown(range.end())),
                );
                default
            }
        }
    }
}

fn shown(bound: &Duration) -> String {
    prost_types::Duration::try_from(*bound).map(|bound| scalar::format_duration(&bound)).unwrap_or_default()
}
