//! The truth: revisions, managed keys and given answers, on disk before anybody hears of them.

pub mod sqlite;

#[cfg(test)]
mod contract;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// How long an answer is given again for the same request id.
pub const ANSWERS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A store for one control plane. Every write is on disk when its future resolves; a future that is dropped may still
/// have written.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Everything that a control plane needs to start.
    fn load(&self) -> BoxFuture<'_, Result<Contents, StoreFault>>;

    /// Adds a revision, and the answer to who asked for it, both or neither. Its number must follow the newest one:
    /// otherwise [`StoreFault::Stale`].
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// Keeps an answer that came without a revision.
    fn remember(&self, answer: Answer) -> BoxFuture<'_, Result<(), StoreFault>>;

    /// The answer that `author` got for the request `id` within [`ANSWERS_KEPT`] before `now`.
    fn recall(&self, author: String, id: String, now: SystemTime) -> BoxFuture<'_, Result<Option<Answer>, StoreFault>>;

    /// A revision with its content; `None` when there never was one or it is no longer kept.
    fn revision(&self, number: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreFault>>;

    /// At most `limit` revisions with numbers below `below`, newest first.
    fn revisions(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Revision>, StoreFault>>;

    /// The oldest revision that is kept; 0 before the first.
    fn oldest(&self) -> BoxFuture<'_, Result<u64, StoreFault>>;

    /// Adds a key and returns the new version of the key set. A name that was ever used is [`StoreFault::Taken`].
    fn add_key(&self, key: ManagedKey) -> BoxFuture<'_, Result<u64, StoreFault>>;

    /// Revokes a key that is not revoked yet and returns the new version of the key set.
    fn revoke_key(&self, name: String, at: SystemTime) -> BoxFuture<'_, Result<u64, StoreFault>>;

    /// Finishes what was begun and lets go of the files; whatever is asked after that is [`StoreFault::Unavailable`].
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A stored configuration, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// From 1, without gaps.
    pub number: u64,
    /// Who wrote it.
    pub author: String,
    /// When, in whole microseconds.
    pub time: SystemTime,
    /// What the author said about it.
    pub message: String,
    /// SHA-256 of the content.
    pub digest: [u8; 32],
    /// The revision whose content a rollback took; 0 for an apply.
    pub rollback_of: u64,
}

/// A resource as it is stored, hashed and pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in "pools/llama".
    pub name: String,
    /// An encoded `ntonix.config.v1.Resource`.
    pub bytes: Bytes,
}

/// A revision with its content, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What it is.
    pub revision: Revision,
    /// What it holds.
    pub entries: Vec<Entry>,
}

/// A key that the key service made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedKey {
    /// Never used again.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// "sha256:" and 64 hex digits.
    pub digest: String,
    /// When it was made, in whole microseconds.
    pub created: SystemTime,
    /// Who made it.
    pub author: String,
    /// From then on it is refused; `None`: never.
    pub expires: Option<SystemTime>,
    /// When it was revoked.
    pub revoked: Option<SystemTime>,
}

/// What was answered to a request with an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub author: String,
    /// The id of the request.
    pub id: String,
    /// SHA-256 of what was asked.
    pub request: [u8; 32],
    /// The encoded reply.
    pub reply: Bytes,
    /// When, in whole microseconds.
    pub time: SystemTime,
}

/// A revision to write.
#[derive(Clone, Debug)]
pub struct Commit {
    /// It and its content.
    pub stored: Stored,
    /// For who asked with a request id.
    pub answer: Option<Answer>,
}

/// What a store holds, as far as a control plane keeps it in memory.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Made anew with each store, so that numbers of different stores are never compared.
    pub store_id: String,
    /// The newest revision; `None` before the first.
    pub newest: Option<Stored>,
    /// All managed keys by name, revoked ones too.
    pub keys: Vec<ManagedKey>,
    /// Counts the changes of the key set, from 0.
    pub keys_version: u64,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreFault {
    /// Another revision is the newest.
    #[error("another revision was written in between")]
    Stale,
    /// The name of a key was used before.
    #[error("a key with this name was made before")]
    Taken,
    /// The disk is full. Nothing was written; reads go on.
    #[error("the disk is full")]
    Full,
    /// What was written may or may not be on disk, or what is on disk cannot be read: the process must end.
    #[error("the store is broken: {0}")]
    Broken(String),
    /// It cannot answer now.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// A time as it is stored: whole microseconds, not before 1970.
pub fn stored_time(time: SystemTime) -> SystemTime {
    from_micros(to_micros(time))
}

fn to_micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn from_micros(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}
