//! What a change must fulfil beyond what the configuration's own validator checks.

use std::collections::{BTreeMap, HashMap, HashSet};

use ntonix_config::{Config, Draft, Fault, Faults, validate};

use crate::refusal::Refusal;
use crate::snapshot::{Keys, Snapshot};
use crate::store::ManagedKey;

/// Characters of a message.
const MESSAGE_MAX: usize = 1024;
/// Characters of a request id.
const REQUEST_ID_MAX: usize = 128;

/// Refuses a request whose own fields are too long.
pub(super) fn request_fits(message: &str, request_id: &str) -> Result<(), Refusal> {
    let mut faults = Vec::new();
    for (path, text, max) in [("message", message, MESSAGE_MAX), ("request_id", request_id, REQUEST_ID_MAX)] {
        let length = text.chars().count();
        if length > max {
            faults.push(Fault::new(path, format!("has {length} characters, at most {max} are allowed")));
        }
    }
    match Faults::new(faults) {
        Some(faults) => Err(faults.into()),
        None => Ok(()),
    }
}

/// Refuses when another revision than the expected one is the newest. `None`: anything is expected.
pub(super) fn expected(newest: Option<&Snapshot>, expected: Option<u64>) -> Result<(), Refusal> {
    let current = newest.map_or(0, |newest| newest.id.revision);
    match expected {
        Some(expected) if expected != current => Err(Refusal::Conflict { current }),
        _ => Ok(()),
    }
}

/// Validates a draft, by itself and beside the managed keys.
pub(super) fn valid(draft: &Draft, keys: &Keys) -> Result<Config, Faults> {
    let beside = beside_keys(draft, keys);
    match (validate(draft), Faults::new(beside)) {
        (Ok(config), None) => Ok(config),
        (Ok(_), Some(faults)) => Err(faults),
        (Err(faults), beside) => {
            let all = faults.into_iter().chain(beside.into_iter().flatten()).collect();
            // There is at least one: the validator's.
            Err(Faults::new(all).unwrap_or_else(|| Fault::new("", "not valid").into()))
        }
    }
}

/// Managed keys live beside the revisions: none may lose its tenant, no name may mean two keys, and no key may have two
/// names, for revoking one would leave the other open.
fn beside_keys(draft: &Draft, keys: &Keys) -> Vec<Fault> {
    let tenants: HashSet<&str> = draft.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let names: HashSet<&str> = keys.all.iter().map(|key| key.name.as_str()).collect();
    let mut orphans: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in keys.unrevoked().filter(|key| !tenants.contains(key.tenant.as_str())) {
        orphans.entry(&key.tenant).or_default().push(&key.name);
    }
    let lost = orphans.into_iter().map(|(tenant, keys)| {
        let names = keys.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ");
        Fault::new(
            "tenants",
            format!("tenant \"{tenant}\" is missing but has managed keys: {names}; revoke them first"),
        )
    });
    let repeated =
        draft.keys.iter().enumerate().filter(|(_, key)| names.contains(key.name.as_str())).map(|(at, key)| {
            Fault::new(format!("keys[{at}].name"), format!("\"{}\" is the name of a managed key", key.name))
        });
    lost.chain(repeated).chain(second_names(draft, keys)).collect()
}

/// A fault for each key of a draft that is a managed key, revoked or not, under whatever name.
fn second_names(draft: &Draft, keys: &Keys) -> Vec<Fault> {
    let managed: HashMap<&str, &ManagedKey> = keys.all.iter().map(|key| (key.digest.as_str(), key)).collect();
    let found = draft.keys.iter().enumerate().filter_map(|(at, key)| Some((at, managed.get(key.digest.as_str())?)));
    found
        .map(|(at, known)| {
            let state = if known.revoked.is_some() { ", which is revoked" } else { "" };
            Fault::new(format!("keys[{at}].digest"), format!("is that of the managed key \"{}\"{state}", known.name))
        })
        .collect()
}
