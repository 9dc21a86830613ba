//! The form in which a revision is pushed: its resources and the managed keys as bytes, under one digest.

pub mod delta;
pub mod publish;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ntonix_config::{Draft, MANAGED_KEYS, from_resources, snapshot_digest};
use ntonix_proto::config::v1::{Key, Resource, resource::Kind};
use ntonix_proto::sync::v1::SnapshotId;
use prost::Message as _;
use tokio::time::Instant;

use crate::store::{Entry, ManagedKey, Revision, StoreFault, Stored};

/// A revision with its content, both as bytes and as messages.
#[derive(Debug)]
pub struct Content {
    /// Which one.
    pub revision: Revision,
    /// The bytes.
    pub entries: Vec<Entry>,
    /// What they say.
    pub draft: Draft,
}

/// The managed keys at one moment.
#[derive(Debug, Default)]
pub struct Keys {
    /// Counts their changes.
    pub version: u64,
    /// All of them by name, revoked ones too.
    pub all: Vec<ManagedKey>,
}

/// What every worker should run.
#[derive(Debug)]
pub struct Snapshot {
    /// What it is called on the wire.
    pub id: SnapshotId,
    /// The revision.
    pub content: Arc<Content>,
    /// The keys beside it.
    pub keys: Arc<Keys>,
    /// The revision's entries, then one for each key that is not revoked.
    pub entries: Vec<Entry>,
    /// Since when it should run.
    pub published: Instant,
}

// === impl Content ===

impl Content {
    /// Reads the messages in the bytes, which must be those that were stored.
    ///
    /// # Errors
    /// [`StoreFault::Broken`] when they are no messages, or not the revision's own: the pages of the store have no
    /// checksums, and a flipped bit must not become a configuration that nobody wrote.
    pub fn read(stored: Stored) -> Result<Self, StoreFault> {
        let Stored { revision, entries } = stored;
        let resources = entries.iter().map(|entry| {
            let broken = |error| format!("revision {}: {}: {error}", revision.number, entry.name);
            Resource::decode(entry.bytes.clone()).map_err(|error| StoreFault::Broken(broken(error)))
        });
        let draft = from_resources(resources.collect::<Result<Vec<_>, _>>()?);
        if digest_of(&entries) != revision.digest {
            let reason = format!("revision {} is damaged: its content is not what was stored", revision.number);
            return Err(StoreFault::Broken(reason));
        }
        Ok(Self { revision, entries, draft })
    }
}

// === impl Keys ===

impl Keys {
    /// The key of this name, revoked or not.
    pub fn find(&self, name: &str) -> Option<&ManagedKey> {
        self.all.iter().find(|key| key.name == name)
    }

    /// Those that are not revoked.
    pub fn unrevoked(&self) -> impl Iterator<Item = &ManagedKey> {
        self.all.iter().filter(|key| key.revoked.is_none())
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Puts a revision and the keys together. Bytes that `before` holds too are shared with it.
    pub fn new(store_id: &str, content: Arc<Content>, keys: Arc<Keys>, before: Option<&Self>) -> Self {
        let known: HashMap<&str, &Bytes> =
            before.iter().flat_map(|before| &before.entries).map(|entry| (entry.name.as_str(), &entry.bytes)).collect();
        let share = |entry: Entry| match known.get(entry.name.as_str()) {
            Some(bytes) if **bytes == entry.bytes => Entry { bytes: Bytes::clone(bytes), ..entry },
            _ => entry,
        };
        let managed = keys.unrevoked().map(managed_entry);
        let entries: Vec<Entry> = content.entries.iter().cloned().chain(managed).map(share).collect();
        let id = SnapshotId {
            store_id: store_id.to_owned(),
            revision: content.revision.number,
            keys_version: keys.version,
            digest: Bytes::copy_from_slice(&digest_of(&entries)),
        };
        Self { id, content, keys, entries, published: Instant::now() }
    }
}

/// The digest over entries in their order.
pub fn digest_of(entries: &[Entry]) -> [u8; 32] {
    snapshot_digest(entries.iter().map(|entry| (entry.name.as_str(), entry.bytes.as_ref())))
}

fn managed_entry(key: &ManagedKey) -> Entry {
    let message = Key {
        name: key.name.clone(),
        tenant: key.tenant.clone(),
        digest: key.digest.clone(),
        expires: key.expires.map(Into::into),
    };
    let resource = Resource { kind: Some(Kind::Key(message)) };
    Entry { name: format!("{MANAGED_KEYS}{}", key.name), bytes: resource.encode_to_vec().into() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::stored_time;
    use std::time::{Duration, SystemTime};

    /// A snapshot of a revision with tenants of these names, in this order, and managed keys of those.
    pub(crate) fn snapshot(number: u64, tenants: &[&str], keys: &[&str]) -> Arc<Snapshot> {
        let tenant = |name: &&str| {
            let message = ntonix_proto::config::v1::Tenant { name: (*name).to_owned(), ..Default::default() };
            let resource = Resource { kind: Some(Kind::Tenant(message)) };
            Entry { name: format!("tenants/{name}"), bytes: resource.encode_to_vec().into() }
        };
        let entries: Vec<Entry> = tenants.iter().map(tenant).collect();
        let revision = Revision {
            number,
            author: "local".to_owned(),
            time: stored_time(SystemTime::UNIX_EPOCH + Duration::from_secs(number)),
            message: String::new(),
            digest: digest_of(&entries),
            rollback_of: 0,
        };
        let content = Arc::new(Content::read(Stored { revision, entries }).unwrap());
        let all = keys.iter().map(|name| key(name, None)).collect();
        let keys = Arc::new(Keys { version: keys.len() as u64, all });
        Arc::new(Snapshot::new("store", content, keys, None))
    }

    fn key(name: &str, revoked: Option<SystemTime>) -> ManagedKey {
        ManagedKey {
            name: name.to_owned(),
            tenant: "a".to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
            created: SystemTime::UNIX_EPOCH,
            author: "local".to_owned(),
            expires: None,
            revoked,
        }
    }

    #[test]
    fn content_that_is_not_what_was_stored_breaks_the_store() {
        // Row P14: the resource can be decoded, and is not the one that was written.
        let first = snapshot(1, &["alice"], &[]);
        let mut stored = Stored { revision: first.content.revision.clone(), entries: first.content.entries.clone() };
        assert!(Content::read(stored.clone()).is_ok());
        stored.entries[0].bytes = snapshot(1, &["alicf"], &[]).content.entries[0].bytes.clone();
        assert!(matches!(Content::read(stored), Err(StoreFault::Broken(reason)) if reason.contains("is damaged")));
    }

    #[test]
    fn bytes_that_are_no_resource_break_the_store() {
        let mut stored = Stored { revision: snapshot(1, &[], &[]).content.revision.clone(), entries: Vec::new() };
        stored.entries.push(Entry { name: "pools/a".to_owned(), bytes: Bytes::from_static(b"\xff\xff") });
        assert!(matches!(Content::read(stored), Err(StoreFault::Broken(reason)) if reason.contains("pools/a")));
    }

    #[test]
    fn a_revoked_key_is_not_pushed() {
        let first = snapshot(1, &["a"], &["bob"]);
        let revoked = Keys { version: 2, all: vec![key("bob", Some(SystemTime::UNIX_EPOCH))] };
        let second = Snapshot::new("store", first.content.clone(), Arc::new(revoked), Some(&first));
        assert_eq!(first.entries.last().unwrap().name, "managed-keys/bob");
        assert_eq!(second.entries.len(), 1);
        assert_ne!(first.id.digest, second.id.digest);
        assert_eq!((second.id.revision, second.id.keys_version), (1, 2));
    }

    #[test]
    fn bytes_are_shared_with_the_snapshot_before() {
        let first = snapshot(1, &["a", "b"], &[]);
        let second =
            Snapshot::new("store", snapshot(2, &["b", "c"], &[]).content.clone(), Arc::default(), Some(&first));
        assert_eq!(second.entries[0].bytes.as_ptr(), first.entries[1].bytes.as_ptr());
    }
}
