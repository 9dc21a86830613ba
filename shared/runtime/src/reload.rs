//! When to read files again: on SIGHUP, and when their content changes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// From one look at the files to the next.
const EVERY: Duration = Duration::from_secs(1);
/// A file that was just being written gets this long to be finished.
const SETTLE: Duration = Duration::from_millis(100);

/// Notices when the content of some files changes, appears or goes away, by reading them once a second.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: u64,
}

impl FileWatch {
    /// Takes the files as they are now as known.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = fingerprint(&paths);
        Self { paths, seen }
    }

    /// Waits until the content differs from what was known and has not changed for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            sleep(EVERY).await;
            let mut now = self.look().await;
            if now == self.seen {
                continue;
            }
            loop {
                sleep(SETTLE).await;
                let later = self.look().await;
                if later == now {
                    break;
                }
                now = later;
            }
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Reads off the runtime's threads, for a file may lie on a slow disk.
    async fn look(&self) -> u64 {
        let paths = self.paths.clone();
        // A look fails only when the runtime ends; then nothing has changed.
        tokio::task::spawn_blocking(move || fingerprint(&paths)).await.unwrap_or(self.seen)
    }
}

fn fingerprint(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        std::fs::read(path).ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// A stream of SIGHUPs. The handler is in place when this returns; elsewhere than on Unix none ever comes.
///
/// # Errors
/// When the system refuses a handler.
pub fn hangups() -> std::io::Result<Hangups> {
    Hangups::listen()
}

#[cfg(unix)]
mod hangup {
    //! SIGHUP on Unix.

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// SIGHUPs, one by one; several that were not taken yet count as one.
    #[derive(Debug)]
    pub struct Hangups(Signal);

    impl Hangups {
        pub(super) fn listen() -> std::io::Result<Self> {
            signal(SignalKind::hangup()).map(Self)
        }

        /// Waits for the next one. Cancel-safe.
        pub async fn next(&mut self) {
            if self.0.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(not(unix))]
mod hangup {
    //! No SIGHUP elsewhere.

    /// SIGHUPs, of which there are none on this system.
    #[derive(Debug)]
    pub struct Hangups;

    impl Hangups {
        pub(super) fn listen() -> std::io::Result<Self> {
            Ok(Self)
        }

        /// Waits forever.
        pub async fn next(&mut self) {
            std::future::pending().await
        }
    }
}

pub use hangup::Hangups;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(60);

    fn watched(content: &str) -> (tempfile::TempDir, PathBuf, FileWatch) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        let watch = FileWatch::new(vec![path.clone()]);
        (folder, path, watch)
    }

    #[tokio::test(start_paused = true)]
    async fn an_untouched_file_is_no_change() {
        let (_folder, path, mut watch) = watched("a");
        std::fs::write(&path, "a").unwrap();
        assert!(timeout(LONG, watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn new_content_is_told_once() {
        let (_folder, path, mut watch) = watched("a");
        std::fs::write(&path, "b").unwrap();
        watch.changed().await;
        assert!(timeout(LONG, watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_goes_away_and_comes_back_changed_twice() {
        let (_folder, path, mut watch) = watched("a");
        std::fs::remove_file(&path).unwrap();
        watch.changed().await;
        std::fs::write(&path, "a").unwrap();
        watch.changed().await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_sighup_is_heard() {
        let mut hangups = hangups().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        hangups.next().await;
    }
}
