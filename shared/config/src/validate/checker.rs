//! Gathers faults, and checks what occurs in many places: names, ranges, references.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    time::Duration,
};

use crate::{Fault, nearest, scalar};

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// Names of our own have at most so many bytes.
const NAME_MAX: usize = 63;
/// Characters of a name that is repeated: no model has more.
const SHOWN_MAX: usize = 256;
/// Comparisons of names that all hints together may cost: each name that leads nowhere is compared with all there are.
const COMPARED_MAX: usize = 20_000;

/// Gathers what is wrong.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Wrong by itself.
    pub(super) faults: Vec<Fault>,
    /// Names that lead nowhere.
    pub(super) dangling: Vec<Fault>,
    /// Comparisons that went into hints.
    compared: usize,
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
        } else if name.len() > NAME_MAX || name.starts_with('-') || !name.bytes().all(allowed) {
            self.fault(
                path,
                format!("must be 1 to 63 of a-z, 0-9 and \"-\", starting with a letter or digit, not {}", quoted(name)),
            );
        }
    }

    /// What must be unique: notes a fault for each that was there before.
    pub(super) fn unique<'a>(&mut self, what: &str, named: impl IntoIterator<Item = (String, &'a str)>) {
        self.repeated(named, |name| format!("the {what} {} is", quoted(name)));
    }

    /// As [`Checker::unique`], for what may be a secret: it is not repeated.
    pub(super) fn unique_untold<'a>(&mut self, named: impl IntoIterator<Item = (String, &'a str)>) {
        self.repeated(named, |_| "is".to_owned());
    }

    fn repeated<'a>(&mut self, named: impl IntoIterator<Item = (String, &'a str)>, subject: impl Fn(&str) -> String) {
        let mut first: HashMap<&str, String> = HashMap::new();
        for (path, name) in named.into_iter().filter(|(_, name)| !name.is_empty()) {
            match first.get(name) {
                Some(before) => self.fault(path, format!("{} taken by {before}", subject(name))),
                None => _ = first.insert(name, path),
            }
        }
    }

    /// A name that must lead to one of `known`.
    pub(super) fn reference(&mut self, path: impl Into<String>, kind: &str, name: &str, known: &HashSet<&str>) {
        if name.is_empty() {
            self.fault(path, format!("must name a {kind}"));
        } else if !known.contains(name) {
            let fault = Fault::new(path, format!("no {kind} is named {}", quoted(name)));
            self.compared = self.compared.saturating_add(known.len());
            let meant = if self.compared <= COMPARED_MAX { nearest(name, known.iter().copied()) } else { None };
            self.dangling.push(fault.meaning(meant));
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

/// A name between quotation marks, cut when it is too long for one.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &name[..end], name.len()),
        None => format!("{name:?}"),
    }
}

fn shown(bound: &Duration) -> String {
    prost_types::Duration::try_from(*bound).map(|bound| scalar::format_duration(&bound)).unwrap_or_default()
}
