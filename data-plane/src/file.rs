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
    access,
    live::{Cell, Live, Origin, OriginSource},
    settings::TrafficArgs,
    worker::Changes,
};

/// Faults of a file that get a line in the log.
const FAULTS_LOGGED: usize = 20;

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
    let readied = cell.guarded(|| {
        let (source, config) = parse(&text, path)?;
        let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
        let prepared = cell.prepare(&config, origin).map_err(|faults| source.locate(faults))?;
        Ok((config, prepared))
    });
    let (config, prepared) = readied.map_err(refused)?;
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
pub(crate) async fn follow(
    cell: Arc<Cell>,
    path: PathBuf,
    mut saved: FileWatch,
    changes: Changes,
    traffic: TrafficArgs,
) -> io::Result<()> {
    let mut hangups = hangups()?;
    loop {
        // Whichever loses is a wait; the next round waits again.
        tokio::select! {
            () = saved.changed() => {}
            () = hangups.next() => {}
        }
        let before = cell.load();
        match take(&cell, &path) {
            Ok(live) => {
                changes.note();
                applied(&path, before.as_deref(), &live, &traffic);
            }
            Err(fault) => refused(&fault),
        }
    }
}

fn applied(path: &Path, before: Option<&Live>, live: &Live, traffic: &TrafficArgs) {
    let (file, routes) = (path.display(), live.routes().routes().len());
    match access::turned(before, live, traffic) {
        Some(access) if live.is_open() => tracing::warn!(%file, routes, access, "Configuration applied"),
        access => tracing::info!(%file, routes, access, "Configuration applied"),
    }
}

fn refused(fault: &FileFault) {
    const WHAT: &str = "Configuration refused, the one before runs on";
    match fault {
        FileFault::Read(..) => tracing::warn!(error = %Chain(fault), "{WHAT}"),
        // One on a line.
        FileFault::Faults(file, faults) => {
            for fault in faults.iter().take(FAULTS_LOGGED) {
                tracing::warn!(file, error = %fault, "{WHAT}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{live::tests::POISON, metrics::Metrics};

    /// O12: a file that trips a bug of ours is refused, and what ran before runs on.
    #[test]
    fn a_panic_while_a_file_is_taken_refuses_the_file() {
        let metrics = Metrics::new();
        let cell = Cell::new(metrics.clone(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ntonix.yaml");
        let save = |pool: &str| {
            let text = format!("pools: [{{ name: {pool}, backends: [{{ name: b, url: 'http://127.0.0.1:1' }}] }}]\n");
            fs::write(&path, text).unwrap();
        };
        save("p");
        let before = take(&cell, &path).unwrap();
        save(POISON);
        let fault = take(&cell, &path).unwrap_err();
        assert!(fault.to_string().contains("the worker failed while it prepared"), "{fault}");
        assert!(Arc::ptr_eq(&cell.load().unwrap(), &before));
        assert_eq!(metrics.panics.get(), 1);
        save("q");
        assert!(!Arc::ptr_eq(&take(&cell, &path).unwrap(), &before), "the next one is taken");
    }
}
