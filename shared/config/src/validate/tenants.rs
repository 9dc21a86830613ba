//! Checks tenants and keys.

use std::{collections::HashSet, time::SystemTime};

use ntonix_proto::config::v1;

use super::checker::Checker;
use crate::{Draft, Key, KeyDigest, ModelPattern, Tenant};

impl Checker {
    pub(super) fn tenants(&mut self, draft: &Draft) -> Vec<Tenant> {
        let names = draft.tenants.iter().enumerate();
        self.unique("name", names.map(|(index, tenant)| (format!("tenants[{index}].name"), tenant.name.as_str())));
        let tenants = draft.tenants.iter().enumerate();
        tenants.map(|(index, tenant)| self.tenant(&format!("tenants[{index}]"), tenant)).collect()
    }

    fn tenant(&mut self, at: &str, tenant: &v1::Tenant) -> Tenant {
        self.name(format!("{at}.name"), &tenant.name);
        let limits = tenant.limits.unwrap_or_default();
        let (requests, streams) = (limits.requests_per_minute, limits.streams);
        let models = tenant.models.iter().enumerate();
        Tenant {
            name: tenant.name.clone(),
            models: models
                .filter_map(|(index, model)| self.kept(format!("{at}.models[{index}]"), ModelPattern::parse(model)))
                .collect(),
            requests_per_minute: self.optional_count(
                &format!("{at}.limits.requests_per_minute"),
                requests,
                1..=10_000_000,
            ),
            streams: self.optional_count(&format!("{at}.limits.streams"), streams, 1..=1_000_000),
        }
    }

    pub(super) fn keys(&mut self, draft: &Draft) -> Vec<Key> {
        let tenants: HashSet<&str> = draft.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        let keys = draft.keys.iter().enumerate();
        self.unique("name", keys.clone().map(|(index, key)| (format!("keys[{index}].name"), key.name.as_str())));
        self.unique_untold(keys.clone().map(|(index, key)| (format!("keys[{index}].digest"), key.digest.as_str())));
        keys.filter_map(|(index, key)| self.key(&format!("keys[{index}]"), key, &tenants)).collect()
    }

    fn key(&mut self, at: &str, key: &v1::Key, tenants: &HashSet<&str>) -> Option<Key> {
        self.name(format!("{at}.name"), &key.name);
        self.reference(format!("{at}.tenant"), "tenant", &key.tenant, tenants);
        let expires = key.expires.map(|time| self.kept(format!("{at}.expires"), moment(time)));
        // What was written is not repeated: somebody may have pasted the key itself.
        let digest = KeyDigest::parse(&key.digest).ok_or("must be \"sha256:\" and 64 lower-case hex digits");
        let digest = self.kept(format!("{at}.digest"), digest)?;
        Some(Key { name: key.name.clone(), tenant: key.tenant.clone(), digest, expires: expires.flatten() })
    }
}

fn moment(time: prost_types::Timestamp) -> Result<SystemTime, &'static str> {
    let in_range = (0..1_000_000_000).contains(&time.nanos);
    SystemTime::try_from(time).ok().filter(|_| in_range).ok_or("is not a time that there is")
}
