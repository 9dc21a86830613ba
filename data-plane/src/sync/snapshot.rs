//! A snapshot as it is pushed and kept: named resources in their order, as bytes, and the configuration that they make.

use ntonix_config::{Config, Fault, Faults, MANAGED_KEYS, from_resources, snapshot_digest, validate};
use ntonix_proto::{
    config::v1::{Key, Resource, resource::Kind},
    sync::v1::{Entry, SnapshotId},
};
use prost::Message as _;

/// Named resources in their order, and which snapshot they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Which one.
    pub id: SnapshotId,
    /// Its resources, as bytes.
    pub entries: Vec<Entry>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Are these the resources that the id means?
    pub fn is_whole(&self) -> bool {
        let entries = self.entries.iter().map(|entry| (entry.name.as_str(), &entry.resource[..]));
        snapshot_digest(entries)[..] == self.id.digest[..]
    }

    /// The configuration that it makes.
    ///
    /// # Errors
    /// Every fault; those of decoding blame the resource by its name.
    pub fn config(&self) -> Result<Config, Faults> {
        let (mut resources, mut managed, mut faults) = (Vec::new(), Vec::<Key>::new(), Vec::new());
        for entry in &self.entries {
            let is_managed = entry.name.starts_with(MANAGED_KEYS);
            match Resource::decode(&entry.resource[..]) {
                Err(error) => faults.push(Fault::new(&entry.name, format!("cannot be decoded: {error}"))),
                Ok(Resource { kind: Some(Kind::Key(key)) }) if is_managed => managed.push(key),
                Ok(Resource { kind: None }) => {
                    faults.push(Fault::new(&entry.name, "is of a kind that this worker does not know"));
                }
                Ok(resource) => resources.push(resource),
            }
        }
        if let Some(faults) = Faults::new(faults) {
            return Err(faults);
        }
        Ok(validate(&from_resources(resources))?.with_managed_keys(managed))
    }
}
