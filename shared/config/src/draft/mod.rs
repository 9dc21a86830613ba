//! Reads the file that a person wrote, led by the descriptors of the messages: there is no second schema to drift.

mod reader;

use std::{collections::BTreeMap, path::Path};

use ntonix_proto::config::v1::{self, secret_source};

use crate::{Draft, Fault, Faults, draft::reader::Reader, tree, validate};

/// A configuration file: what it says, and on which line it says what.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Source {
    /// What it says; not yet checked, but for its types.
    pub draft: Draft,
    /// The line of each path that was written.
    lines: BTreeMap<String, u32>,
}

impl Source {
    /// Reads YAML or JSON. Relative paths in it become relative to `base`, the absolute folder of the file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, with path and line: a text that is not YAML, unknown fields, wrong types, and, when
    /// there is one of these, also what [`validate`](crate::validate) finds in the rest.
    pub fn read(text: &str, base: &Path) -> Result<Self, Faults> {
        // A file that an editor or a full disk has cut, or a pipe whose first command failed: taken at its word it would
        // delete every key and open the gateway to all.
        if text.trim().is_empty() {
            return Err(Fault::new("", "there is nothing in it; to configure nothing, write \"pools: []\"").into());
        }
        let root = tree::parse(text)?;
        let mut reader = Reader::default();
        let draft = reader.draft(&root);
        let (mut source, faults) = (Self { draft, lines: reader.lines }, reader.faults);
        source.anchor(base);
        match Faults::new(faults) {
            None => Ok(source),
            Some(misread) => Err(source.with_the_rest(misread)),
        }
    }

    /// Adds its line to each fault that has none: that of its path, or of the nearest thing around it. The faults come
    /// back in the order of their lines.
    #[must_use]
    pub fn locate(&self, faults: Faults) -> Faults {
        faults.on_lines(|path| self.line(path))
    }

    fn line(&self, path: &str) -> Option<u32> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// Makes the paths of files absolute.
    fn anchor(&mut self, base: &Path) {
        let absolute = |file: &mut String| {
            if !file.is_empty() {
                *file = base.join(&*file).to_string_lossy().into_owned();
            }
        };
        let backends = self.draft.pools.iter_mut().flat_map(|pool| &mut pool.backends);
        backends.filter_map(|backend| backend.ca.as_mut()).for_each(|ca| absolute(&mut ca.file));
        for source in self.draft.secrets.iter_mut().filter_map(|secret| secret.from.as_mut()) {
            if let v1::SecretSource { source: Some(secret_source::Source::File(file)) } = source {
                absolute(file);
            }
        }
    }

    /// Adds what is wrong beside what could not be read, so that one look at the file mends all of it. Left out is what
    /// only follows from the first: faults at the same place, and names that are missing because they were not read.
    fn with_the_rest(&self, misread: Faults) -> Faults {
        let (others, dangling) = validate::faults_of(&self.draft);
        let names_were_read = misread.iter().all(|fault| !holds_names(&fault.path));
        let dangling = dangling.into_iter().filter(|_| names_were_read);
        let same_place = |fault: &Fault| misread.iter().any(|other| is_around(&fault.path, &other.path));
        let rest: Vec<Fault> = others.into_iter().chain(dangling).filter(|fault| !same_place(fault)).collect();
        let all = misread.iter().cloned().chain(rest).collect();
        self.locate(Faults::new(all).unwrap_or(misread))
    }
}

/// Whether what could not be read may have held the names that others refer to: a whole list, an item of one, a name.
fn holds_names(path: &str) -> bool {
    path.ends_with(".name") || !path.contains('.')
}

/// Whether one path is, or is inside, the other.
fn is_around(one: &str, other: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    inside(one, other) || inside(other, one)
}

#[cfg(test)]
mod tests;
