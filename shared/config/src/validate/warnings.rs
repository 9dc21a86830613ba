//! What is allowed but probably not meant.

use crate::{Config, ModelPattern, Warning};

pub(super) fn of(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |path: String, reason: String| warnings.push(Warning { path, reason });
    for (index, route) in config.routes.iter().enumerate() {
        if let Some(wider) = config.routes[..index].iter().find(|earlier| shadows(&earlier.model, &route.model)) {
            let reason =
                format!("is never reached: {:?} stands before it and matches everything that it matches", wider.name());
            warn(format!("routes[{index}].model"), reason);
        }
    }
    for (index, pool) in config.pools.iter().enumerate() {
        let mut targets = config.routes.iter().flat_map(|route| route.targets.iter().chain(&route.fallback));
        if !targets.any(|target| target.pool == pool.name) {
            warn(format!("pools[{index}]"), format!("no route leads to {:?}", pool.name));
        }
        for (number, backend) in pool.backends.iter().enumerate() {
            if backend.ca_file.is_some() && !backend.url.tls {
                let reason = "is without meaning: the URL is http, not https".to_owned();
                warn(format!("pools[{index}].backends[{number}].ca"), reason);
            }
        }
    }
    for (index, secret) in config.secrets.iter().enumerate() {
        if !config.pools.iter().any(|pool| pool.credential.as_ref() == Some(&secret.name)) {
            warn(format!("secrets[{index}]"), format!("no pool uses {:?}", secret.name));
        }
    }
    warnings
}

/// Whether an earlier route takes all that a later one could get. Exact names win wherever they stand.
fn shadows(earlier: &ModelPattern, later: &ModelPattern) -> bool {
    matches!((earlier, later), (ModelPattern::Glob(earlier), ModelPattern::Glob(later)) if earlier.covers(later))
}
