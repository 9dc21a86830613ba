//! A configuration that a file owns: read at the start, when it is saved, and on SIGHUP.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ntonix_config::{Config, Faults, Source, validate};
use ntonix_runtime::{
    chain::Chain,
    reload::{FileWatch, hangups},
};

use crate::{
    live::{Cell, Live, Origin, OriginSource},
    worker::Changes,
};

/// Why a file is not served from.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] io::Error),
    /// It is no good, or this worker cannot run it.
    #[error("{0} is refused:\n{1}")]
    Faults(String, Faults),
}

/// Takes the file, or says everything that is wrong with it; then what ran before runs on.
pub(crate) fn take(cell: &Cell, path: &Path) -> Result<Arc<Live>, FileFault> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| FileFault::Read(name.clone(), error))?;
    let refused = |faults| FileFault::Faults(name.clone(), faults);
    let (source, config) = parse(&text, path).map_err(refused)?;
    let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
    let prepared = cell.prepare(&config, origin).map_err(|faults| refused(source.locate(faults)))?;
    for warning in config.warnings() {
        tracing::warn!(path = warning.path, reason = warning.reason, "Probably not meant");
    }
    Ok(cell.swap(prepared))
}

fn parse(text: &str, path: &Path) -> Result<(Source, Config), Faults> {
    let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
    let source = Source::read(text, &base)?;
    match validate(&source.draft) {
        Ok(config) => Ok((source, config)),
        Err(faults) => Err(source.locate(faults)),
    }
}

/// Takes the file again whenever `saved` says that it has changed, for as long as it is polled.
///
/// # Errors
/// When SIGHUP cannot be listened for.
pub(crate) async fn follow(cell: Arc<Cell>, path: PathBuf, mut saved: FileWatch, changes: Changes) -> io::Result<()> {
    let mut hangups = hangups()?;
    loop {
        // Whichever loses is a wait; the next round waits again.
        tokio::select! {
            () = saved.changed() => {}
            () = hangups.next() => {}
        }
        match take(&cell, &path) {
            Ok(live) => {
                changes.note();
                tracing::info!(file = %path.display(), routes = live.routes().routes().len(), "Configuration applied");
            }
            Err(fault) => tracing::warn!(error = %Chain(&fault), "Configuration refused, the one before runs on"),
        }
    }
}
