//! Keeps the last good snapshot on disk, and the one before it: a worker starts from it with the control plane away.
//!
//! The file: a magic number with the format's version, when the snapshot was taken (milliseconds since the epoch,
//! big-endian), the length-delimited `SnapshotId` and `Entry`s, and the SHA-256 of all that. Any flipped bit is noticed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ntonix_proto::sync::v1::{Entry, SnapshotId};
use prost::Message as _;

use super::snapshot::Snapshot;

const MAGIC: &[u8; 8] = b"NTXGOOD\x01";
const NEWEST: &str = "worker-last-good.bin";
const BEFORE: &str = "worker-last-good.before.bin";
/// Held by whoever writes.
const LOCK: &str = "worker-last-good.lock";

/// The files of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    directory: PathBuf,
}

/// A snapshot that was kept, and when it was taken.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// When it came from the control plane.
    pub(crate) taken: SystemTime,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It was written by something else, or by a later version.
    #[error("is not a snapshot of this version")]
    Foreign,
    /// Its bytes are not those that were written.
    #[error("is damaged: its checksum does not match")]
    Damaged,
    /// The checksum is right and the content is not.
    #[error("holds something else than a snapshot")]
    Content(#[from] prost::DecodeError),
}

// === impl Keep ===

impl Keep {
    /// In `directory`, which is there.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The snapshots that are there, the newest first, each with its file or with what is wrong with it.
    pub(crate) fn load(&self) -> impl Iterator<Item = (PathBuf, Result<Kept, KeepError>)> {
        [NEWEST, BEFORE].into_iter().map(|name| self.directory.join(name)).filter_map(|path| match fs::read(&path) {
            Ok(bytes) => Some((path, decode(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some((path, Err(KeepError::Read(error)))),
        })
    }

    /// Writes the snapshot beside the newest one, which becomes the one before; at every moment one of them is whole.
    ///
    /// The fresh file is on disk before any name changes. Then the newest becomes the one before (only if it is whole: a
    /// damaged one would take the place of the last good one), and the fresh one the newest. A crash between leaves the
    /// newest missing and the one before in place; a loss of power may keep the second rename without the first, which
    /// leaves the fresh one and an older one. The directory is synced last, so that whoever is told "kept" can rely on it.
    pub(crate) fn store(&self, snapshot: &Snapshot, taken: SystemTime) -> io::Result<()> {
        // During a restart in place two processes keep what they run in the same directory.
        let lock = File::create(self.directory.join(LOCK))?;
        lock.lock()?;
        let (newest, before) = (self.directory.join(NEWEST), self.directory.join(BEFORE));
        let fresh = self.directory.join(format!("{NEWEST}.tmp"));
        let mut file = File::create(&fresh)?;
        file.write_all(&encode(snapshot, taken))?;
        file.sync_all()?;
        if fs::read(&newest).is_ok_and(|bytes| decode(&bytes).is_ok()) {
            fs::rename(&newest, before)?;
        }
        fs::rename(fresh, newest)?;
        sync_directory(&self.directory)
    }
}

/// Makes the renames last over a loss of power.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn encode(snapshot: &Snapshot, taken: SystemTime) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let millis = taken.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    bytes.extend_from_slice(&u64::try_from(millis).unwrap_or(u64::MAX).to_be_bytes());
    bytes.extend(snapshot.id.encode_length_delimited_to_vec());
    for entry in &snapshot.entries {
        bytes.extend(entry.encode_length_delimited_to_vec());
    }
    let sum = digest(&SHA256, &bytes);
    bytes.extend_from_slice(sum.as_ref());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Kept, KeepError> {
    if !bytes.starts_with(MAGIC) {
        return Err(KeepError::Foreign);
    }
    let at = bytes.len().checked_sub(SHA256_OUTPUT_LEN).ok_or(KeepError::Damaged)?;
    let (content, sum) = bytes.split_at(at);
    if digest(&SHA256, content).as_ref() != sum {
        return Err(KeepError::Damaged);
    }
    let (millis, mut rest) = content[MAGIC.len()..].split_first_chunk().ok_or(KeepError::Damaged)?;
    let id = SnapshotId::decode_length_delimited(&mut rest)?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(Entry::decode_length_delimited(&mut rest)?);
    }
    let taken = UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(*millis));
    Ok(Kept { snapshot: Snapshot { id, entries }, taken })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(revision: u64) -> Snapshot {
        let entry = |name: &str| Entry { name: name.to_owned(), resource: vec![7; 40].into() };
        let id = SnapshotId { store_id: "s".into(), revision, keys_version: 1, digest: vec![9; 32].into() };
        Snapshot { id, entries: vec![entry("pools/a"), entry("routes/b")] }
    }

    fn revisions(keep: &Keep) -> Vec<Option<u64>> {
        keep.load().map(|(_, kept)| kept.ok().map(|kept| kept.snapshot.id.revision)).collect()
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(&snapshot(3), UNIX_EPOCH + Duration::from_millis(1234));
        let kept = decode(&bytes).unwrap();
        assert_eq!((kept.snapshot, kept.taken), (snapshot(3), UNIX_EPOCH + Duration::from_millis(1234)));
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            assert!(decode(&flipped).is_err(), "byte {place}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn the_one_before_is_there_when_the_newest_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep::new(directory.path().to_owned());
        assert_eq!(revisions(&keep), []);
        for revision in 1..=3 {
            keep.store(&snapshot(revision), SystemTime::now()).unwrap();
        }
        assert_eq!(revisions(&keep), [Some(3), Some(2)]);
        let newest = directory.path().join(NEWEST);
        let whole = fs::read(&newest).unwrap();
        // Row P14: each byte of the file itself, not only of what is read from it.
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&newest, bytes).unwrap();
            assert_eq!(revisions(&keep), [None, Some(2)], "byte {place}");
        }
        fs::write(&newest, "").unwrap();
        assert_eq!(revisions(&keep), [None, Some(2)]);
    }

    #[test]
    fn a_damaged_newest_never_takes_the_place_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep::new(directory.path().to_owned());
        keep.store(&snapshot(1), SystemTime::now()).unwrap();
        keep.store(&snapshot(2), SystemTime::now()).unwrap();
        fs::write(directory.path().join(NEWEST), "damaged").unwrap();
        keep.store(&snapshot(3), SystemTime::now()).unwrap();
        assert_eq!(revisions(&keep), [Some(3), Some(1)]);
    }

    #[test]
    fn whatever_was_left_when_the_process_was_killed_one_of_them_is_whole() {
        // The four moments of `store`: a half-written fresh file, a whole one, the newest moved away, all done.
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep::new(directory.path().to_owned());
        let file = |name: &str| directory.path().join(name);
        let fresh = file(&format!("{NEWEST}.tmp"));
        keep.store(&snapshot(1), SystemTime::now()).unwrap();
        keep.store(&snapshot(2), SystemTime::now()).unwrap();
        let bytes = encode(&snapshot(3), SystemTime::now());
        fs::write(&fresh, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(revisions(&keep), [Some(2), Some(1)]);
        fs::write(&fresh, &bytes).unwrap();
        assert_eq!(revisions(&keep), [Some(2), Some(1)]);
        fs::rename(file(NEWEST), file(BEFORE)).unwrap();
        assert_eq!(revisions(&keep), [Some(2)]);
        // The next push finds its way from there.
        keep.store(&snapshot(4), SystemTime::now()).unwrap();
        assert_eq!(revisions(&keep), [Some(4), Some(2)]);
    }
}
