//! When to read files again: on SIGHUP, and when their content changes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// From one look at the files to the next.
const EVERY: Duration = Duration::from_secs(1);
/// A file that was just being written gets this long to be finished.
const SETTLE: Duration = Duration::from_millis(100);

/// Two writes in this time may leave a file with the same time: file systems count in steps, the coarsest in 2 s.
const GRAIN: Duration = Duration::from_secs(2);

/// Notices when the content of some files changes, appears or goes away, by looking at them once a second. They are read
/// only when something else than their content shows that they may have changed: a configuration may have many megabytes.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Look,
}

/// What is known of some files.
#[derive(Clone, Debug)]
struct Look {
    content: u64,
    stamps: Vec<Option<Stamp>>,
    /// Will the stamps be others when the content is another?
    is_certain: bool,
}

/// What changes with a file's content, and costs nothing to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// On Unix: which file it is, and when its name, content or times changed last, in nanoseconds.
    identity: (u64, u64, i128),
}

impl FileWatch {
    /// Takes the files as they are now as known.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = Look::at(&paths);
        Self { paths, seen }
    }

    /// Waits until the content differs from what was known and has not changed for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            sleep(EVERY).await;
            let mut now = self.look(&self.seen).await;
            if now.content == self.seen.content {
                self.seen = now;
                continue;
            }
            loop {
                sleep(SETTLE).await;
                let later = self.look(&now).await;
                if later.content == now.content {
                    break;
                }
                now = later;
            }
            let is_news = now.content != self.seen.content;
            self.seen = now;
            if is_news {
                return;
            }
        }
    }

    /// Looks off the runtime's threads, for a file may lie on a slow disk.
    async fn look(&self, known: &Look) -> Look {
        let (paths, before) = (self.paths.clone(), known.clone());
        // It fails only when the runtime ends; then nothing has changed.
        tokio::task::spawn_blocking(move || before.again(&paths)).await.unwrap_or_else(|_| known.clone())
    }
}

// === impl Look ===

impl Look {
    /// Reads the files.
    fn at(paths: &[PathBuf]) -> Self {
        // In this order: what is written in between shows in the next stamps.
        let (now, stamps) = (SystemTime::now(), stamps(paths));
        let age = |stamp: &Stamp| now.duration_since(stamp.modified?).ok();
        let is_old = |stamp: &Stamp| age(stamp).is_some_and(|age| age > GRAIN);
        Self { content: fingerprint(paths), is_certain: stamps.iter().flatten().all(is_old), stamps }
    }

    /// Reads the files if they may have changed.
    fn again(self, paths: &[PathBuf]) -> Self {
        if self.is_certain && self.stamps == stamps(paths) { self } else { Self::at(paths) }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some(Stamp { length: file.len(), modified: file.modified().ok(), identity: identity(&file) })
    };
    paths.iter().map(stamp).collect()
}

#[cfg(unix)]
fn identity(file: &std::fs::Metadata) -> (u64, u64, i128) {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino(), i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec()))
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> (u64, u64, i128) {
    (0, 0, 0)
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

    /// As if its content had been another when it was read.
    fn misread(paths: &[PathBuf]) -> Look {
        let look = Look::at(paths);
        Look { content: !look.content, ..look }
    }

    fn set_time(path: &PathBuf, time: SystemTime) {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    fn age(path: &PathBuf, by: Duration) {
        set_time(path, SystemTime::now() - by);
    }

    #[test]
    fn a_file_that_nobody_touched_is_not_read_again() {
        let (_folder, path, _) = watched("a");
        age(&path, LONG);
        let paths = [path];
        let known = misread(&paths);
        assert_eq!(known.clone().again(&paths).content, known.content);
    }

    /// The time of a file is that of the step in which it was written.
    #[test]
    fn a_file_that_was_just_written_is_read_again_although_its_time_is_the_same() {
        let (_folder, path, _) = watched("a");
        let paths = [path];
        let known = misread(&paths);
        assert_ne!(known.clone().again(&paths).content, known.content);
    }

    /// Its time comes from elsewhere, and says nothing of when it was written.
    #[test]
    fn a_file_of_the_future_is_read_each_time() {
        let (_folder, path, _) = watched("a");
        set_time(&path, SystemTime::now() + LONG);
        let paths = [path];
        let known = misread(&paths);
        assert_ne!(known.clone().again(&paths).content, known.content);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_the_same_length_and_time_in_its_place_is_read() {
        let (folder, path, _) = watched("a");
        let other = folder.path().join("other");
        std::fs::write(&other, "b").unwrap();
        age(&path, LONG);
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
        let paths = [path];
        let known = Look::at(&paths);
        std::fs::rename(&other, &paths[0]).unwrap();
        assert_ne!(known.clone().again(&paths).content, known.content);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_sighup_is_heard() {
        let mut hangups = hangups().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        hangups.next().await;
    }
}
