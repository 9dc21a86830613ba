//! Makes and revokes keys beside the revisions.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::rand;
use ntonix_config::{Fault, Faults, KeyDigest, key_from_entropy};

use super::{Ledger, now};
use crate::refusal::Refusal;
use crate::snapshot::{Keys, Snapshot};
use crate::store::{ManagedKey, StoreFault, stored_time};

/// A key that somebody asks for.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// 1 to 63 of [a-z0-9-], starting with a letter or digit; never used before.
    pub name: String,
    /// A tenant of the newest revision.
    pub tenant: String,
    /// Must lie ahead; `None`: never.
    pub expires: Option<SystemTime>,
    /// Who asks.
    pub author: String,
}

impl Ledger {
    /// Makes a key. Returns what is kept of it and the key itself, which is not.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::NotFound`] for an unknown tenant, [`Refusal::Taken`] for a name in use, and what
    /// the store says.
    pub async fn create_key(self: &Arc<Self>, new: NewKey) -> Result<(ManagedKey, String), Refusal> {
        self.in_turn(|ledger| async move { ledger.create_key_now(new).await }).await
    }

    async fn create_key_now(&self, new: NewKey) -> Result<(ManagedKey, String), Refusal> {
        check(&new)?;
        let newest = self.newest();
        let Some(newest) = newest.filter(|newest| newest.content.draft.tenants.iter().any(|t| t.name == new.tenant))
        else {
            return Err(Refusal::NotFound(format!("the newest revision has no tenant \"{}\"", new.tenant)));
        };
        if newest.content.draft.keys.iter().any(|key| key.name == new.name) {
            return Err(Refusal::Taken(format!("the configuration has a key named \"{}\"", new.name)));
        }
        let mut entropy = [0; 32];
        rand::fill(&mut entropy).map_err(|_| Refusal::Unavailable("the system has no random bytes".to_owned()))?;
        let secret = key_from_entropy(&entropy);
        let key = ManagedKey {
            name: new.name,
            tenant: new.tenant,
            digest: KeyDigest::of(secret.as_bytes()).to_string(),
            created: now(),
            author: new.author,
            expires: new.expires.map(stored_time),
            revoked: None,
        };
        let version = self.written(self.store.add_key(key.clone())).await.map_err(|fault| match fault {
            StoreFault::Taken => Refusal::Taken(format!("a key named \"{}\" was made before", key.name)),
            fault => fault.into(),
        })?;
        tracing::info!(key.name, tenant.name = key.tenant, author = key.author, "Key made");
        let mut all = newest.keys.all.clone();
        all.insert(all.partition_point(|known| known.name < key.name), key.clone());
        self.publish_keys(&newest, Keys { version, all });
        Ok((key, secret))
    }

    /// Revokes a key for good; one that is revoked already stays as it is.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::StillOpen`] when the newest revision has the same key, and what the store says.
    pub async fn revoke_key(self: &Arc<Self>, name: String, author: String) -> Result<ManagedKey, Refusal> {
        self.in_turn(|ledger| async move { ledger.revoke_key_now(name, &author).await }).await
    }

    async fn revoke_key_now(&self, name: String, author: &str) -> Result<ManagedKey, Refusal> {
        let newest = self.newest();
        let found = newest.as_ref().and_then(|newest| Some((newest, newest.keys.find(&name)?)));
        let Some((newest, key)) = found else {
            return Err(Refusal::NotFound(format!("there is no managed key \"{name}\"")));
        };
        // No new revision may have it, but one that was written before may.
        if let Some(other) = newest.content.draft.keys.iter().find(|other| other.digest == key.digest) {
            return Err(Refusal::StillOpen { name: other.name.clone() });
        }
        if key.revoked.is_some() {
            return Ok(key.clone());
        }
        let at = now();
        let version = self.written(self.store.revoke_key(name.clone(), at)).await?;
        tracing::info!(key.name = name, author, "Key revoked");
        let revoked = ManagedKey { revoked: Some(at), ..key.clone() };
        let replace = |known: &ManagedKey| if known.name == name { revoked.clone() } else { known.clone() };
        self.publish_keys(newest, Keys { version, all: newest.keys.all.iter().map(replace).collect() });
        Ok(revoked)
    }

    fn publish_keys(&self, newest: &Snapshot, keys: Keys) {
        self.publish(newest.content.clone(), Arc::new(keys));
    }
}

fn check(new: &NewKey) -> Result<(), Faults> {
    let mut faults = Vec::new();
    let known = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    let name = new.name.as_bytes();
    if name.is_empty() || name.len() > 63 || !name.iter().copied().all(known) || name.starts_with(b"-") {
        faults.push(Fault::new("name", "must be 1 to 63 of [a-z0-9-], starting with a letter or digit"));
    }
    if new.expires.is_some_and(|expires| expires <= SystemTime::now()) {
        faults.push(Fault::new("expires", "must lie ahead"));
    }
    Faults::new(faults).map_or(Ok(()), Err)
}
