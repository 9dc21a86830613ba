//! The store in one SQLite file: a thread that writes and a thread that reads, so that reads never wait for a fsync.

mod desk;
mod sql;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{Answer, Commit, Contents, ManagedKey, Revision, Store, StoreFault, Stored};
use desk::Desk;

/// Revisions that are kept unless said otherwise.
pub const REVISIONS_KEPT: u64 = 1000;

/// The file in the state directory.
const DATABASE: &str = "control-plane.sqlite";
/// Held for as long as the store is open: two control planes on one directory would both believe to be the one writer.
const LOCK: &str = "control-plane.lock";

/// A store in a directory.
#[derive(Debug)]
pub struct Sqlite {
    writer: Desk,
    reader: Desk,
    revisions_kept: u64,
}

// === impl Sqlite ===

impl Sqlite {
    /// Opens the store in `directory`, making both when they are not there. Of the revisions the newest
    /// `revisions_kept` (at least 1) stay.
    ///
    /// # Errors
    /// [`StoreFault::Unavailable`] when the directory cannot be used or another process has it, and
    /// [`StoreFault::Broken`] when what is there is not a store of this program.
    pub fn open(directory: &Path, revisions_kept: u64) -> Result<Self, StoreFault> {
        let away = |error: std::io::Error| StoreFault::Unavailable(format!("{}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(away)?;
        let lock = File::create(directory.join(LOCK)).map_err(away)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                StoreFault::Unavailable(format!("another control plane uses {} (--state-dir)", directory.display()))
            }
            TryLockError::Error(error) => away(error),
        })?;
        let path = directory.join(DATABASE);
        let writer = sql::open_for_writing(&path)?;
        let reader = sql::open_for_reading(&path)?;
        Ok(Self {
            writer: Desk::start("store-write", writer, Some(lock))?,
            reader: Desk::start("store-read", reader, None)?,
            revisions_kept: revisions_kept.max(1),
        })
    }

    /// Lets the file grow no further than so many pages of 4 KiB, as if the disk were full then.
    #[cfg(test)]
    pub(crate) async fn limit_pages(&self, pages: u32) {
        self.writer.run(move |connection| sql::limit_pages(connection, pages)).await.unwrap();
    }
}

impl Store for Sqlite {
    fn load(&self) -> BoxFuture<'_, Result<Contents, StoreFault>> {
        self.writer.run(|connection| sql::load(connection)).boxed()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StoreFault>> {
        let kept = self.revisions_kept;
        self.writer.run(move |connection| sql::commit(connection, &commit, kept)).boxed()
    }

    fn remember(&self, answer: Answer) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.writer.run(move |connection| sql::remember(connection, &answer)).boxed()
    }

    fn recall(&self, author: String, id: String, now: SystemTime) -> BoxFuture<'_, Result<Option<Answer>, StoreFault>> {
        self.reader.run(move |connection| sql::recall(connection, author, id, now)).boxed()
    }

    fn revision(&self, number: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreFault>> {
        self.reader.run(move |connection| sql::revision(connection, number)).boxed()
    }

    fn revisions(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Revision>, StoreFault>> {
        self.reader.run(move |connection| sql::revisions(connection, below, limit)).boxed()
    }

    fn oldest(&self) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.reader.run(|connection| sql::oldest(connection)).boxed()
    }

    fn add_key(&self, key: ManagedKey) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.writer.run(move |connection| sql::add_key(connection, &key)).boxed()
    }

    fn revoke_key(&self, name: String, at: SystemTime) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.writer.run(move |connection| sql::revoke_key(connection, &name, at)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.reader.close().await;
            self.writer.close().await;
        }
        .boxed()
    }
}

#[cfg(test)]
mod crash_tests;

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    fn open(directory: &tempfile::TempDir) -> Sqlite {
        Sqlite::open(directory.path(), 5).unwrap()
    }

    #[tokio::test]
    async fn it_keeps_the_contract_of_every_store() {
        let directory = tempfile::tempdir().unwrap();
        contract::holds(|| Box::new(open(&directory)), 5).await;
    }

    #[tokio::test]
    async fn a_second_process_does_not_get_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        let second = Sqlite::open(directory.path(), 5).unwrap_err();
        assert!(second.to_string().contains("another control plane uses"), "{second}");
        store.close().await;
        open(&directory);
    }

    #[tokio::test]
    async fn a_file_that_is_no_store_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(DATABASE), vec![b'x'; 8192]).unwrap();
        assert!(matches!(Sqlite::open(directory.path(), 5), Err(StoreFault::Broken(_))));
    }

    #[tokio::test]
    async fn a_store_of_a_newer_program_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        store.writer.run(|connection| sql::set_layout(connection, 99)).await.unwrap();
        store.close().await;
        let refused = Sqlite::open(directory.path(), 5).unwrap_err();
        assert!(refused.to_string().contains("layout 99"), "{refused}");
    }

    #[tokio::test]
    async fn a_full_disk_refuses_the_write_and_leaves_the_rest_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        store.commit(contract::commit(1, &[("pools/a", "small")])).await.unwrap();
        store.limit_pages(1).await;
        let large = "x".repeat(200_000);
        let refused = store.commit(contract::commit(2, &[("pools/a", &large)])).await;
        assert!(matches!(refused, Err(StoreFault::Full)), "{refused:?}");
        assert_eq!(store.revision(1).await.unwrap().unwrap().entries[0].bytes, "small");
        assert_eq!(store.revision(2).await.unwrap(), None);
        store.limit_pages(1_000_000).await;
        store.commit(contract::commit(2, &[("pools/a", &large)])).await.unwrap();
    }

    #[tokio::test]
    async fn content_that_no_revision_holds_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        for number in 1..=20 {
            let content = format!("content {number}");
            store.commit(contract::commit(number, &[("pools/same", "same"), ("pools/a", &content)])).await.unwrap();
        }
        let blobs = store.reader.run(|connection| sql::count_blobs(connection)).await.unwrap();
        assert_eq!(blobs, 5 + 1);
    }
}
