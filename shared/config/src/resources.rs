//! Resources: the named pieces that a configuration is stored and pushed as.

use ntonix_proto::config::v1::{Resource, resource::Kind};

use crate::{Draft, key::sha256};

/// What the names of keys that the key service made start with in a snapshot; each is a resource of kind key.
pub const MANAGED_KEYS: &str = "managed-keys/";

/// The name of a resource, as in "pools/llama", "routes/llama-3" or "limits/worker"; `None` when it holds nothing.
#[must_use]
pub fn resource_name(resource: &Resource) -> Option<String> {
    Some(match resource.kind.as_ref()? {
        Kind::Pool(pool) => format!("pools/{}", pool.name),
        Kind::Route(route) => format!("routes/{}", route.model),
        Kind::Tenant(tenant) => format!("tenants/{}", tenant.name),
        Kind::Key(key) => format!("keys/{}", key.name),
        Kind::Secret(secret) => format!("secrets/{}", secret.name),
        Kind::Limits(_) => "limits/worker".to_owned(),
    })
}

/// Takes a draft apart, in the order of its fields.
#[must_use]
pub fn to_resources(draft: &Draft) -> Vec<(String, Resource)> {
    let pools = draft.pools.iter().cloned().map(Kind::Pool);
    let routes = draft.routes.iter().cloned().map(Kind::Route);
    let tenants = draft.tenants.iter().cloned().map(Kind::Tenant);
    let keys = draft.keys.iter().cloned().map(Kind::Key);
    let secrets = draft.secrets.iter().cloned().map(Kind::Secret);
    let limits = draft.limits.iter().cloned().map(Kind::Limits);
    pools
        .chain(routes)
        .chain(tenants)
        .chain(keys)
        .chain(secrets)
        .chain(limits)
        .map(|kind| Resource { kind: Some(kind) })
        .filter_map(|resource| Some((resource_name(&resource)?, resource)))
        .collect()
}

/// Puts a draft together; the order of each list is the order of its resources.
pub fn from_resources<I: IntoIterator<Item = Resource>>(resources: I) -> Draft {
    let mut draft = Draft::default();
    for kind in resources.into_iter().filter_map(|resource| resource.kind) {
        match kind {
            Kind::Pool(pool) => draft.pools.push(pool),
            Kind::Route(route) => draft.routes.push(route),
            Kind::Tenant(tenant) => draft.tenants.push(tenant),
            Kind::Key(key) => draft.keys.push(key),
            Kind::Secret(secret) => draft.secrets.push(secret),
            Kind::Limits(limits) => draft.limits = Some(limits),
        }
    }
    draft
}

/// The digest of a snapshot: SHA-256 over, for each entry in order, the length of the name (4 bytes, big-endian), the
/// name, and the SHA-256 of the bytes.
pub fn snapshot_digest<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> [u8; 32] {
    let mut hashed = Vec::new();
    for (name, bytes) in entries {
        // A name has at most some hundred characters; a longer one is still told apart by its own bytes.
        hashed.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
        hashed.extend_from_slice(name.as_bytes());
        hashed.extend_from_slice(&sha256([bytes]));
    }
    sha256([hashed.as_slice()])
}

#[cfg(test)]
mod tests {
    use ntonix_proto::config::v1;

    use super::*;

    fn draft() -> Draft {
        let pool = |name: &str| v1::Pool { name: name.to_owned(), ..v1::Pool::default() };
        Draft {
            pools: vec![pool("b"), pool("a")],
            routes: vec![v1::Route { model: "x/*".to_owned(), ..v1::Route::default() }],
            tenants: vec![v1::Tenant { name: "t".to_owned(), ..v1::Tenant::default() }],
            keys: vec![v1::Key { name: "k".to_owned(), ..v1::Key::default() }],
            secrets: vec![v1::Secret { name: "s".to_owned(), from: None }],
            limits: Some(v1::Limits { streams: Some(1), ..v1::Limits::default() }),
        }
    }

    #[test]
    fn an_empty_resource_has_no_name_and_adds_nothing() {
        assert_eq!(resource_name(&Resource { kind: None }), None);
        assert_eq!(from_resources([Resource { kind: None }]), Draft::default());
    }

    #[test]
    fn a_draft_survives_being_taken_apart() {
        let parts = to_resources(&draft());
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["pools/b", "pools/a", "routes/x/*", "tenants/t", "keys/k", "secrets/s", "limits/worker"]);
        assert_eq!(from_resources(parts.into_iter().map(|(_, resource)| resource)), draft());
    }

    #[test]
    fn a_digest_tells_names_bytes_and_order_apart() {
        let of = |entries: &[(&'static str, &'static [u8])]| snapshot_digest(entries.iter().copied());
        let base = of(&[("a", b"1"), ("b", b"2")]);
        for other in [
            of(&[]),
            of(&[("b", b"2"), ("a", b"1")]),
            of(&[("a", b"1"), ("b", b"3")]),
            of(&[("ab", b"1"), ("", b"2")]),
            of(&[("a", b"1")]),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base, of(&[("a", b"1"), ("b", b"2")]));
    }
}
