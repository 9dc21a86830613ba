//! What leads from one snapshot to another, encoded once for all workers that need it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use ntonix_proto::sync::v1::{self as sync, Begin, Chunk, SyncResponse, sync_response::Frame};
use prost::Message as _;

use super::Snapshot;
use crate::store::Entry;

/// The size of a chunk, unless one resource is larger.
const CHUNK_MAX: usize = 256 * 1024;
/// What a name or a resource costs on the wire beside its bytes, at most.
const OVERHEAD: usize = 16;

/// The frames from `base` (`None`: from nothing) to `target`.
pub fn encode(base: Option<&Snapshot>, target: &Snapshot) -> Vec<Bytes> {
    let base_entries = base.map_or(&[][..], |base| &base.entries);
    let difference = Difference::between(base_entries, &target.entries);
    let begin = Begin {
        base_digest: base.map(|base| base.id.digest.clone()).unwrap_or_default(),
        target: Some(target.id.clone()),
    };
    let order = if difference.keeps_order(base_entries, &target.entries) {
        Vec::new()
    } else {
        target.entries.iter().map(|entry| entry.name.clone()).collect()
    };
    let commit = sync::Commit { target: Some(target.id.clone()), order };
    let mut frames = vec![frame(Frame::Begin(begin))];
    frames.extend(difference.chunks().into_iter().map(|chunk| frame(Frame::Chunk(chunk))));
    frames.push(frame(Frame::Commit(commit)));
    frames
}

/// One frame as bytes.
pub fn frame(frame: Frame) -> Bytes {
    SyncResponse { frame: Some(frame) }.encode_to_vec().into()
}

struct Difference<'a> {
    upserts: Vec<&'a Entry>,
    deletes: Vec<&'a str>,
}

impl<'a> Difference<'a> {
    fn between(base: &'a [Entry], target: &'a [Entry]) -> Self {
        let old: HashMap<&str, &Bytes> = base.iter().map(|entry| (entry.name.as_str(), &entry.bytes)).collect();
        let new: HashSet<&str> = target.iter().map(|entry| entry.name.as_str()).collect();
        let differs = |entry: &&Entry| old.get(entry.name.as_str()).is_none_or(|bytes| **bytes != entry.bytes);
        let gone = base.iter().map(|entry| entry.name.as_str()).filter(|name| !new.contains(name));
        Self { upserts: target.iter().filter(differs).collect(), deletes: gone.collect() }
    }

    /// Whether the target's order is the base's with the deletes taken out and the new names at the end.
    fn keeps_order(&self, base: &[Entry], target: &[Entry]) -> bool {
        let old: HashSet<&str> = base.iter().map(|entry| entry.name.as_str()).collect();
        let gone: HashSet<&str> = self.deletes.iter().copied().collect();
        let staying = base.iter().map(|entry| entry.name.as_str()).filter(|name| !gone.contains(name));
        let added = self.upserts.iter().map(|entry| entry.name.as_str()).filter(|name| !old.contains(name));
        staying.chain(added).eq(target.iter().map(|entry| entry.name.as_str()))
    }

    fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let (mut chunk, mut size) = (Chunk::default(), 0);
        let deletes = self.deletes.iter().map(|name| (name.len() + OVERHEAD, Part::Delete(name)));
        let upserts = self.upserts.iter().map(|entry| {
            let size = entry.name.len() + entry.bytes.len() + 2 * OVERHEAD;
            (size, Part::Upsert(entry))
        });
        for (part_size, part) in deletes.chain(upserts) {
            if size > 0 && size + part_size > CHUNK_MAX {
                chunks.push(std::mem::take(&mut chunk));
                size = 0;
            }
            size += part_size;
            match part {
                Part::Delete(name) => chunk.deletes.push(name.to_owned()),
                Part::Upsert(entry) => {
                    chunk.upserts.push(sync::Entry { name: entry.name.clone(), resource: entry.bytes.clone() });
                }
            }
        }
        if size > 0 {
            chunks.push(chunk);
        }
        chunks
    }
}

enum Part<'a> {
    Delete(&'a str),
    Upsert(&'a Entry),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::snapshot::tests::snapshot;
    use ntonix_config::snapshot_digest;

    /// Applies frames as a worker does and returns the entries and the digest that was promised.
    pub(crate) fn apply(mut entries: Vec<(String, Bytes)>, frames: &[Bytes]) -> (Vec<(String, Bytes)>, Bytes) {
        let mut promised = Bytes::new();
        for bytes in frames {
            match SyncResponse::decode(bytes.clone()).unwrap().frame.unwrap() {
                Frame::Begin(begin) => promised = begin.target.unwrap().digest,
                Frame::Chunk(chunk) => {
                    entries.retain(|(name, _)| !chunk.deletes.contains(name));
                    for upsert in chunk.upserts {
                        match entries.iter_mut().find(|(name, _)| *name == upsert.name) {
                            Some(entry) => entry.1 = upsert.resource,
                            None => entries.push((upsert.name, upsert.resource)),
                        }
                    }
                }
                Frame::Commit(commit) if commit.order.is_empty() => {}
                Frame::Commit(commit) => {
                    entries.sort_by_key(|(name, _)| commit.order.iter().position(|ordered| ordered == name));
                }
                other => panic!("not part of a transition: {other:?}"),
            }
        }
        (entries, promised)
    }

    fn leads_there(base: Option<&Snapshot>, target: &Snapshot) -> usize {
        let frames = encode(base, target);
        let before = base.map_or(&[][..], |base| &base.entries);
        let before = before.iter().map(|entry| (entry.name.clone(), entry.bytes.clone())).collect();
        let (entries, promised) = apply(before, &frames);
        let digest = snapshot_digest(entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_ref())));
        assert_eq!(promised, digest.as_slice());
        assert_eq!(target.id.digest, digest.as_slice());
        frames.len()
    }

    #[test]
    fn every_way_between_snapshots_ends_at_the_digest() {
        let all = [
            snapshot(1, &[], &[]),
            snapshot(2, &["a"], &[]),
            snapshot(3, &["a", "b", "c"], &["k"]),
            snapshot(4, &["c", "b", "a"], &["k", "l"]),
            snapshot(5, &["b", "d"], &["l"]),
            snapshot(6, &["x", "a", "b"], &["a", "k"]),
        ];
        for target in &all {
            leads_there(None, target);
            for base in &all {
                leads_there(Some(base), target);
            }
        }
    }

    #[test]
    fn equal_content_needs_no_chunk() {
        assert_eq!(leads_there(Some(&snapshot(1, &["a"], &[])), &snapshot(2, &["a"], &[])), 2);
    }

    #[test]
    fn a_deleted_resource_is_named() {
        let frames = encode(Some(&snapshot(1, &["a", "b"], &[])), &snapshot(2, &["b"], &[]));
        let Some(Frame::Chunk(chunk)) = SyncResponse::decode(frames[1].clone()).unwrap().frame else {
            panic!("no chunk")
        };
        assert_eq!((chunk.deletes, chunk.upserts), (vec!["tenants/a".to_owned()], Vec::new()));
    }

    #[test]
    fn a_small_change_of_a_large_configuration_is_small() {
        let names: Vec<String> = (0..5000).map(|number| format!("tenant-{number}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        let base = snapshot(1, &names, &["k"]);
        names.remove(2500);
        let frames = encode(Some(&base), &snapshot(2, &names, &["k"]));
        assert!(frames.iter().map(Bytes::len).sum::<usize>() < 2048);
    }

    #[test]
    fn large_content_is_cut_into_chunks() {
        let names: Vec<String> = (0..30_000).map(|number| format!("tenant-{number:030}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let target = snapshot(1, &names, &[]);
        let frames = encode(None, &target);
        assert!(frames.len() > 5);
        // The commit of an unchanged order is small, too.
        assert!(frames.iter().all(|frame| frame.len() <= CHUNK_MAX + 1024));
        assert!(leads_there(None, &target) == frames.len());
    }
}
