//! Makes a [`Live`] of a configuration: all that can fail happens here, and every failure is named.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use http::HeaderValue;
use ntonix_config::{self as config, Config, Fault, Faults};
use ntonix_runtime::tls;

use super::{Key, Live, Origin, OriginSource, Tenant, secrets};
use crate::{
    balance::{Backend, Pool, load::Load},
    metrics::Metrics,
    policy::quota::Usage,
    routing::{Route, Table, Target},
    upstream::Connector,
};

pub(super) struct Preparation<'a> {
    config: &'a Config,
    current: Option<&'a Live>,
    metrics: &'a Metrics,
    threads: usize,
    faults: Vec<Fault>,
}

// === impl Preparation ===

impl<'a> Preparation<'a> {
    pub(super) fn new(config: &'a Config, current: Option<&'a Live>, metrics: &'a Metrics, threads: usize) -> Self {
        Self { config, current, metrics, threads, faults: Vec::new() }
    }

    pub(super) fn run(mut self, origin: Origin) -> Result<Live, Faults> {
        #[cfg(test)]
        assert!(self.config.pools.iter().all(|pool| pool.name != super::tests::POISON), "on purpose");
        let credentials = self.credentials();
        let pools = self.pools(&credentials);
        let routes = self.routes(&pools);
        let tenants = self.tenants();
        let keys = self.keys(&tenants);
        if let Some(faults) = Faults::new(self.faults) {
            return Err(faults);
        }
        Ok(Live {
            confirmed: AtomicBool::new(origin.source != OriginSource::Disk),
            origin,
            open: self.config.is_open(),
            limits: self.config.limits.clone(),
            routes: Table::new(routes),
            pools,
            tenants,
            keys,
        })
    }

    /// Every secret is looked up, also one that no pool uses: what is configured must be there.
    fn credentials(&mut self) -> HashMap<&'a str, HeaderValue> {
        let mut credentials = HashMap::new();
        for (index, secret) in self.config.secrets.iter().enumerate() {
            match secrets::bearer(secret) {
                Ok(value) => drop(credentials.insert(secret.name.as_str(), value)),
                Err(reason) => self.faults.push(Fault::new(format!("secrets[{index}].from"), reason)),
            }
        }
        credentials
    }

    fn pools(&mut self, credentials: &HashMap<&str, HeaderValue>) -> HashMap<String, Arc<Pool>> {
        let config = self.config;
        let mut pools = HashMap::new();
        for (index, spec) in config.pools.iter().enumerate() {
            let credential = spec.credential.as_deref().and_then(|name| credentials.get(name).cloned());
            let before = self.current.and_then(|live| live.pools.get(&spec.name));
            if let Some(same) = before.filter(|before| before.is_as(spec, credential.as_ref())) {
                pools.insert(spec.name.clone(), Arc::clone(same));
                continue;
            }
            let mut backends = Vec::with_capacity(spec.backends.len());
            for (place, backend) in spec.backends.iter().enumerate() {
                match self.backend(spec, backend) {
                    Ok(backend) => backends.push(Arc::new(backend)),
                    Err(reason) => {
                        self.faults.push(Fault::new(format!("pools[{index}].backends[{place}]"), reason));
                    }
                }
            }
            pools.insert(spec.name.clone(), Arc::new(Pool::new(spec, backends, credential)));
        }
        pools
    }

    fn backend(&self, pool: &config::Pool, spec: &config::Backend) -> Result<Backend, String> {
        let before = self.backend_before(pool, spec);
        let load = before.map_or_else(|| Arc::new(Load::new()), |before| Arc::clone(&before.load));
        // A certificate authority is read anew: its file may have changed.
        let same = before.filter(|before| {
            before.spec.http2 == spec.http2 && spec.ca_file.is_none() && before.spec.ca_file.is_none()
        });
        let connector = match same {
            Some(before) => Arc::clone(&before.connector),
            None => Arc::new(self.connector(spec)?),
        };
        let metrics = self.metrics.backend(&pool.name, &spec.name);
        Ok(Backend { name: spec.name.as_str().into(), spec: spec.clone(), load, connector, metrics })
    }

    /// The same backend in what runs: the same pool, name and URL.
    fn backend_before(&self, pool: &config::Pool, spec: &config::Backend) -> Option<&'a Backend> {
        let pool = self.current?.pools.get(&pool.name)?;
        let same = |before: &&Arc<Backend>| *before.name == *spec.name && before.spec.url == spec.url;
        pool.backends.iter().find(same).map(|backend| &**backend)
    }

    fn connector(&self, spec: &config::Backend) -> Result<Connector, String> {
        let tls = if spec.url.tls {
            let protocols: &[&[u8]] = if spec.http2 { &[b"h2"] } else { &[b"http/1.1"] };
            Some(tls::client_config(spec.ca_file.as_deref(), None, protocols).map_err(|fault| fault.to_string())?)
        } else {
            None
        };
        Connector::new(spec, tls, self.threads).map_err(|_| format!("\"{}\" is no name for TLS", spec.url.host))
    }

    fn routes(&self, pools: &HashMap<String, Arc<Pool>>) -> Vec<Arc<Route>> {
        let routes = self.config.routes.iter().map(|spec| {
            // An alias means the route's model; behind a glob the client's own word is the only name there is.
            let default_model = match &spec.model {
                config::ModelPattern::Exact(model) => Some(model.clone()),
                config::ModelPattern::Glob(_) => None,
            };
            let target = |target: &config::Target| {
                let pool = Arc::clone(pools.get(&target.pool)?);
                let model = target.model.clone().or_else(|| default_model.clone());
                Some(Target { pool, model, weight: target.weight })
            };
            // The validator has seen to it that every pool is there.
            let route = Route {
                name: spec.name().into(),
                targets: spec.targets.iter().filter_map(target).collect(),
                fallback: spec.fallback.iter().filter_map(target).collect(),
                metrics: self.metrics.route(spec.name()),
                spec: spec.clone(),
            };
            Arc::new(route)
        });
        routes.collect()
    }

    fn tenants(&self) -> HashMap<String, Arc<Tenant>> {
        let tenants = self.config.tenants.iter().map(|spec| {
            let before = self.current.and_then(|live| live.tenants.get(&spec.name));
            let tenant = Tenant {
                name: spec.name.as_str().into(),
                models: spec.models.clone(),
                requests_per_minute: spec.requests_per_minute,
                streams: spec.streams,
                usage: before.map_or_else(|| Arc::new(Usage::new()), |before| Arc::clone(&before.usage)),
            };
            (spec.name.clone(), Arc::new(tenant))
        });
        tenants.collect()
    }

    fn keys(&mut self, tenants: &HashMap<String, Arc<Tenant>>) -> HashMap<config::KeyDigest, Arc<Key>> {
        let keys = self.config.keys.iter().filter_map(|spec| {
            // A key made by the key service whose tenant is gone stands for nobody.
            let tenant = Arc::clone(tenants.get(&spec.tenant)?);
            Some((spec.digest, Arc::new(Key { name: spec.name.as_str().into(), tenant, expires: spec.expires })))
        });
        keys.collect()
    }
}
