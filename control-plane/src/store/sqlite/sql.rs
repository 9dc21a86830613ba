//! The statements: each function is one transaction at most.

use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use bytes::Bytes;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, Transaction, TransactionBehavior, params,
};

use crate::store::{
    ANSWERS_KEPT, Answer, Commit, Contents, Entry, ManagedKey, Revision, StoreFault, Stored, from_micros, to_micros,
};

/// Counted up when the tables change.
const LAYOUT: i64 = 1;

const TABLES: &str = "
    CREATE TABLE store (id TEXT NOT NULL, keys_version INTEGER NOT NULL);
    CREATE TABLE revision (
        number INTEGER PRIMARY KEY, author TEXT NOT NULL, time_us INTEGER NOT NULL, message TEXT NOT NULL,
        digest BLOB NOT NULL, rollback_of INTEGER NOT NULL);
    -- Equal resources of many revisions are kept once.
    CREATE TABLE blob (hash BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL);
    CREATE TABLE entry (
        revision INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (revision, position)) WITHOUT ROWID;
    CREATE INDEX entry_hash ON entry (hash);
    CREATE TABLE managed_key (
        name TEXT PRIMARY KEY, tenant TEXT NOT NULL, digest TEXT NOT NULL, created_us INTEGER NOT NULL,
        author TEXT NOT NULL, expires_us INTEGER, revoked_us INTEGER) WITHOUT ROWID;
    CREATE TABLE answer (
        author TEXT NOT NULL, id TEXT NOT NULL, request BLOB NOT NULL, reply BLOB NOT NULL, time_us INTEGER NOT NULL,
        PRIMARY KEY (author, id));
    CREATE INDEX answer_time ON answer (time_us);
";

type Outcome<T> = Result<T, StoreFault>;

impl From<rusqlite::Error> for StoreFault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::OutOfMemory) => {
                Self::Unavailable(error.to_string())
            }
            // Also a failed fsync: after it nobody knows what is on disk, and asking again would not tell.
            _ => Self::Broken(error.to_string()),
        }
    }
}

pub(super) fn open_for_writing(path: &Path) -> Outcome<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: the log is synced on each commit, before it is acknowledged.
    connection.pragma_update(None, "synchronous", "FULL")?;
    let layout: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match layout {
        0 => create(&mut connection)?,
        LAYOUT => {}
        _ => return Err(StoreFault::Broken(format!("it has layout {layout}, this program knows {LAYOUT}"))),
    }
    Ok(connection)
}

pub(super) fn open_for_reading(path: &Path) -> Outcome<Connection> {
    Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

fn create(connection: &mut Connection) -> Outcome<()> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| StoreFault::Unavailable("the system has no random bytes".to_owned()))?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let transaction = begin(connection)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute("INSERT INTO store VALUES (?1, 0)", [id])?;
    transaction.pragma_update(None, "user_version", LAYOUT)?;
    Ok(transaction.commit()?)
}

fn begin(connection: &mut Connection) -> Outcome<Transaction<'_>> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

pub(super) fn load(connection: &Connection) -> Outcome<Contents> {
    let (store_id, keys_version) =
        connection.query_row("SELECT id, keys_version FROM store", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let newest = match newest(connection)? {
        0 => None,
        number => revision(connection, number)?,
    };
    let mut statement = connection.prepare("SELECT * FROM managed_key ORDER BY name")?;
    let keys = statement.query_map([], read_key)?.collect::<Result<_, _>>()?;
    Ok(Contents { store_id, newest, keys, keys_version })
}

fn newest(connection: &Connection) -> Outcome<u64> {
    Ok(connection.query_row("SELECT coalesce(max(number), 0) FROM revision", [], |row| row.get(0))?)
}

pub(super) fn oldest(connection: &Connection) -> Outcome<u64> {
    Ok(connection.query_row("SELECT coalesce(min(number), 0) FROM revision", [], |row| row.get(0))?)
}

pub(super) fn commit(connection: &mut Connection, commit: &Commit, kept: u64) -> Outcome<()> {
    let transaction = begin(connection)?;
    let revision = &commit.stored.revision;
    if newest(&transaction)? + 1 != revision.number {
        return Err(StoreFault::Stale);
    }
    transaction.execute(
        "INSERT INTO revision VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            revision.number,
            revision.author,
            to_micros(revision.time),
            revision.message,
            revision.digest,
            revision.rollback_of
        ],
    )?;
    insert_entries(&transaction, revision.number, &commit.stored.entries)?;
    prune_revisions(&transaction, revision.number.saturating_sub(kept))?;
    if let Some(answer) = &commit.answer {
        insert_answer(&transaction, answer)?;
    }
    Ok(transaction.commit()?)
}

fn insert_entries(transaction: &Transaction<'_>, number: u64, entries: &[Entry]) -> Outcome<()> {
    let mut blob = transaction.prepare("INSERT INTO blob VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let mut entry = transaction.prepare("INSERT INTO entry VALUES (?1, ?2, ?3, ?4)")?;
    for (position, Entry { name, bytes }) in (0_i64..).zip(entries) {
        let hash = digest(&SHA256, bytes);
        blob.execute(params![hash.as_ref(), bytes.as_ref()])?;
        entry.execute(params![number, position, name, hash.as_ref()])?;
    }
    Ok(())
}

/// Removes the revisions up to `last`, and what only they held.
fn prune_revisions(transaction: &Transaction<'_>, last: u64) -> Outcome<()> {
    if transaction.execute("DELETE FROM revision WHERE number <= ?1", [last])? == 0 {
        return Ok(());
    }
    let hashes: Vec<Vec<u8>> = transaction
        .prepare("DELETE FROM entry WHERE revision <= ?1 RETURNING hash")?
        .query_map([last], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut blob = transaction
        .prepare("DELETE FROM blob WHERE hash = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.hash = ?1)")?;
    for hash in hashes {
        blob.execute([hash])?;
    }
    Ok(())
}

pub(super) fn remember(connection: &mut Connection, answer: &Answer) -> Outcome<()> {
    let transaction = begin(connection)?;
    insert_answer(&transaction, answer)?;
    Ok(transaction.commit()?)
}

fn insert_answer(transaction: &Transaction<'_>, answer: &Answer) -> Outcome<()> {
    let old = to_micros(answer.time.checked_sub(ANSWERS_KEPT).unwrap_or(SystemTime::UNIX_EPOCH));
    transaction.execute("DELETE FROM answer WHERE time_us < ?1", [old])?;
    transaction.execute(
        "INSERT OR REPLACE INTO answer VALUES (?1, ?2, ?3, ?4, ?5)",
        params![answer.author, answer.id, answer.request, answer.reply.as_ref(), to_micros(answer.time)],
    )?;
    Ok(())
}

pub(super) fn recall(connection: &Connection, author: String, id: String, now: SystemTime) -> Outcome<Option<Answer>> {
    let oldest = to_micros(now.checked_sub(ANSWERS_KEPT).unwrap_or(SystemTime::UNIX_EPOCH));
    let found = connection
        .query_row(
            "SELECT request, reply, time_us FROM answer WHERE author = ?1 AND id = ?2 AND time_us >= ?3",
            params![author, id, oldest],
            |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?)),
        )
        .optional()?;
    Ok(found.map(|(request, reply, time)| Answer { author, id, request, reply: reply.into(), time: from_micros(time) }))
}

pub(super) fn revision(connection: &Connection, number: u64) -> Outcome<Option<Stored>> {
    // No number beyond what SQLite counts was ever written.
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let found = connection.query_row("SELECT * FROM revision WHERE number = ?1", [number], read_revision).optional()?;
    let Some(revision) = found else { return Ok(None) };
    let mut statement = connection.prepare(
        "SELECT name, bytes FROM entry JOIN blob ON blob.hash = entry.hash WHERE revision = ?1 ORDER BY position",
    )?;
    let read = |row: &Row<'_>| Ok(Entry { name: row.get(0)?, bytes: Bytes::from(row.get::<_, Vec<u8>>(1)?) });
    let entries = statement.query_map([number], read)?.collect::<Result<_, _>>()?;
    Ok(Some(Stored { revision, entries }))
}

pub(super) fn revisions(connection: &Connection, below: u64, limit: usize) -> Outcome<Vec<Revision>> {
    let mut statement = connection.prepare("SELECT * FROM revision WHERE number < ?1 ORDER BY number DESC LIMIT ?2")?;
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    Ok(statement.query_map(params![below, limit], read_revision)?.collect::<Result<_, _>>()?)
}

fn read_revision(row: &Row<'_>) -> rusqlite::Result<Revision> {
    Ok(Revision {
        number: row.get("number")?,
        author: row.get("author")?,
        time: from_micros(row.get("time_us")?),
        message: row.get("message")?,
        digest: row.get("digest")?,
        rollback_of: row.get("rollback_of")?,
    })
}

pub(super) fn add_key(connection: &mut Connection, key: &ManagedKey) -> Outcome<u64> {
    let transaction = begin(connection)?;
    let added = transaction.execute(
        "INSERT INTO managed_key VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL) ON CONFLICT DO NOTHING",
        params![key.name, key.tenant, key.digest, to_micros(key.created), key.author, key.expires.map(to_micros)],
    )?;
    if added == 0 {
        return Err(StoreFault::Taken);
    }
    next_keys_version(transaction)
}

pub(super) fn revoke_key(connection: &mut Connection, name: &str, at: SystemTime) -> Outcome<u64> {
    let transaction = begin(connection)?;
    transaction.execute(
        "UPDATE managed_key SET revoked_us = ?2 WHERE name = ?1 AND revoked_us IS NULL",
        params![name, to_micros(at)],
    )?;
    next_keys_version(transaction)
}

fn next_keys_version(transaction: Transaction<'_>) -> Outcome<u64> {
    let version = transaction.query_row(
        "UPDATE store SET keys_version = keys_version + 1 RETURNING keys_version",
        [],
        |row| row.get(0),
    )?;
    transaction.commit()?;
    Ok(version)
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<ManagedKey> {
    Ok(ManagedKey {
        name: row.get("name")?,
        tenant: row.get("tenant")?,
        digest: row.get("digest")?,
        created: from_micros(row.get("created_us")?),
        author: row.get("author")?,
        expires: row.get::<_, Option<i64>>("expires_us")?.map(from_micros),
        revoked: row.get::<_, Option<i64>>("revoked_us")?.map(from_micros),
    })
}

#[cfg(test)]
pub(super) fn limit_pages(connection: &Connection, pages: u32) -> Outcome<()> {
    Ok(connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?)
}

#[cfg(test)]
pub(super) fn set_layout(connection: &Connection, layout: i64) -> Outcome<()> {
    Ok(connection.pragma_update(None, "user_version", layout)?)
}

#[cfg(test)]
pub(super) fn count_blobs(connection: &Connection) -> Outcome<u64> {
    Ok(connection.query_row("SELECT count(*) FROM blob", [], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    fn fault(code: i32) -> StoreFault {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()
    }

    #[test]
    fn a_failed_sync_breaks_the_store_and_a_full_disk_does_not() {
        for code in [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_DIR_FSYNC, ffi::SQLITE_CORRUPT]
        {
            assert!(matches!(fault(code), StoreFault::Broken(_)));
        }
        assert!(matches!(fault(ffi::SQLITE_FULL), StoreFault::Full));
        assert!(matches!(fault(ffi::SQLITE_BUSY), StoreFault::Unavailable(_)));
    }
}
