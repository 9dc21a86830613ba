//! Reads revisions, old and new.

use std::sync::Arc;

use ntonix_config::{Change, diff};

use super::{Ledger, draft_of};
use crate::refusal::Refusal;
use crate::snapshot::Content;
use crate::store::Revision;

/// A revision and what it changed against the one before.
#[derive(Debug)]
pub struct Step {
    /// The revision.
    pub revision: Revision,
    /// Empty also when the one before is no longer kept.
    pub changes: Vec<Change>,
}

impl Ledger {
    /// A revision with its content; 0 means the newest.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for one that never was, [`Refusal::NoLonger`] for one that is no longer kept.
    pub async fn content(&self, number: u64) -> Result<Arc<Content>, Refusal> {
        let Some(newest) = self.newest() else {
            return Err(Refusal::NotFound("there is no configuration yet".to_owned()));
        };
        let current = newest.id.revision;
        if number == 0 || number == current {
            return Ok(newest.content.clone());
        }
        if number > current {
            return Err(Refusal::NotFound(format!("there is no revision {number}; the newest is {current}")));
        }
        match self.looked_up(self.store.revision(number)).await? {
            Some(stored) => Ok(Arc::new(Content::read(stored).inspect_err(|fault| self.note(fault))?)),
            None => Err(Refusal::NoLonger(format!("revision {number} is no longer kept"))),
        }
    }

    /// A revision and what it changed; 0 means the newest.
    ///
    /// # Errors
    /// As for the content.
    pub async fn step(&self, number: u64) -> Result<Step, Refusal> {
        let after = self.content(number).await?;
        let changes = match after.revision.number {
            1 => diff(&draft_of(None), &after.draft),
            number => match self.content(number - 1).await {
                Ok(before) => diff(&before.draft, &after.draft),
                Err(Refusal::NoLonger(_)) => Vec::new(),
                Err(refusal) => return Err(refusal),
            },
        };
        Ok(Step { revision: after.revision.clone(), changes })
    }

    /// At most `limit` revisions below `below`, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revisions(&self, below: u64, limit: usize) -> Result<Vec<Revision>, Refusal> {
        Ok(self.looked_up(self.store.revisions(below, limit)).await?)
    }

    /// The oldest revision that is kept; 0 before the first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn oldest(&self) -> Result<u64, Refusal> {
        Ok(self.looked_up(self.store.oldest()).await?)
    }
}
