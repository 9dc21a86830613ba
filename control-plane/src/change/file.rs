//! A file that owns the configuration: applied at start, on SIGHUP, and when it is saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ntonix_config::Source;
use ntonix_runtime::reload::{FileWatch, Hangups};

use super::{Change, Ledger, What};
use crate::refusal::Refusal;

/// Why a file was not applied.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It was read and refused; every fault is named, one on a line.
    #[error("{} is refused:\n{refusal}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

impl FileFault {
    /// Is the file itself to blame? Then the process was started with a wrong setting.
    pub fn is_wrong_setting(&self) -> bool {
        match self {
            Self::Read { .. } => true,
            Self::Refused { refusal, .. } => matches!(refusal, Refusal::Invalid(_)),
        }
    }
}

/// The file, and the ledger that it is applied to.
#[derive(Debug)]
pub struct Owner {
    path: PathBuf,
    ledger: Arc<Ledger>,
    /// Older than the first reading, so that no change in between is missed.
    watch: FileWatch,
}

impl Owner {
    /// Makes the file at `path` the owner of the ledger's configuration.
    pub fn new(path: PathBuf, ledger: Arc<Ledger>) -> Self {
        let watch = FileWatch::new(vec![path.clone()]);
        Self { path, ledger, watch }
    }

    /// Reads the file and applies it; one that says what the newest revision says makes no new one.
    ///
    /// # Errors
    /// When it cannot be read, or the ledger refuses it.
    pub async fn apply(&self) -> Result<(), FileFault> {
        let path = || self.path.clone();
        let text = std::fs::read_to_string(&self.path).map_err(|cause| FileFault::Read { path: path(), cause })?;
        let refused = |refusal| FileFault::Refused { path: path(), refusal };
        let source = Source::read(&text, &folder(&self.path)).map_err(|faults| refused(faults.into()))?;
        let change = Change {
            what: What::Draft(source.draft.clone()),
            author: "local".to_owned(),
            message: format!("file {}", self.path.display()).chars().take(1024).collect(),
            expected_revision: None,
            request_id: String::new(),
            validate_only: false,
        };
        match self.ledger.change(change).await {
            Ok(reply) => {
                for warning in &reply.warnings {
                    tracing::warn!(path = warning.path, reason = warning.reason, "The file is applied, with a warning");
                }
                Ok(())
            }
            Err(Refusal::Invalid(faults)) => Err(refused(source.locate(faults).into())),
            Err(refusal) => Err(refused(refusal)),
        }
    }

    /// Applies the file again whenever it changes or a SIGHUP comes, for as long as it is polled. A bad one is told in the
    /// log, fault by fault, and changes nothing.
    pub async fn follow(mut self, mut hangups: Hangups) {
        loop {
            // Both are cancel-safe: what loses is met in the next round.
            tokio::select! {
                () = self.watch.changed() => {}
                () = hangups.next() => {}
            }
            if let Err(fault) = self.apply().await {
                tell(&fault);
            }
        }
    }
}

fn tell(fault: &FileFault) {
    if let FileFault::Refused { path, refusal: Refusal::Invalid(faults) } = fault {
        tracing::error!(file = %path.display(), faults = faults.len(), "The file is refused, the revision before stays");
        for fault in faults {
            tracing::error!(file = %path.display(), fault = %fault, "Fault in the file");
        }
    } else {
        tracing::error!(error = %fault, "The file was not applied, the revision before stays");
    }
}

/// The absolute folder that relative paths in the file are relative to.
fn folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().map(Path::to_owned).unwrap_or_default()
}
