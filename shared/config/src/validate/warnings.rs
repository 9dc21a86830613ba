//! What is allowed but probably not meant.

use std::collections::HashSet;

use crate::{Config, Glob, ModelPattern, Warning};

/// Steps of matching that all globs together may cost, about a tenth of a second: each is compared with all before it,
/// which some hundreds of long ones could make last for minutes.
const STEPS_MAX: u64 = 10_000_000;

/// Looks for it.
pub(crate) fn of(config: &Config) -> Vec<Warning> {
    let mut steps = STEPS_MAX;
    let mut warnings = unreached(config, &mut steps);
    warnings.extend(pools(config));
    warnings.extend(secrets(config));
    warnings
}

/// Routes behind a wider glob. Exact names win wherever they stand. It takes what it costs from `steps`, and says so
/// when there are none left.
fn unreached(config: &Config, steps: &mut u64) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut earlier: Vec<&Glob> = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let ModelPattern::Glob(glob) = &route.model else { continue };
        let wider = earlier.iter().find(|earlier| *steps > 0 && earlier.covers(glob, steps));
        let mut warn = |reason| warnings.push(Warning { path: format!("routes[{index}].model"), reason });
        if let Some(wider) = wider {
            let wider = wider.as_str();
            warn(format!("is never reached: {wider:?} stands before it and matches everything that it matches"));
        } else if *steps == 0 {
            warn(
                "nobody looked whether this route and those after it are ever reached: there are too many globs".into(),
            );
            break;
        }
        earlier.push(glob);
    }
    warnings
}

fn pools(config: &Config) -> Vec<Warning> {
    let targets = config.routes.iter().flat_map(|route| route.targets.iter().chain(&route.fallback));
    let used: HashSet<&str> = targets.map(|target| target.pool.as_str()).collect();
    let mut warnings = Vec::new();
    for (index, pool) in config.pools.iter().enumerate() {
        if !used.contains(pool.name.as_str()) {
            let reason = format!("no route leads to {:?}", pool.name);
            warnings.push(Warning { path: format!("pools[{index}]"), reason });
        }
        for (number, backend) in pool.backends.iter().enumerate() {
            if backend.ca_file.is_some() && !backend.url.tls {
                let reason = "is without meaning: the URL is http, not https".to_owned();
                warnings.push(Warning { path: format!("pools[{index}].backends[{number}].ca"), reason });
            }
        }
    }
    warnings
}

fn secrets(config: &Config) -> Vec<Warning> {
    let used: HashSet<&str> = config.pools.iter().filter_map(|pool| pool.credential.as_deref()).collect();
    let unused = config.secrets.iter().enumerate().filter(|(_, secret)| !used.contains(secret.name.as_str()));
    let warning = |(index, secret): (usize, &crate::Secret)| Warning {
        path: format!("secrets[{index}]"),
        reason: format!("no pool uses {:?}", secret.name),
    };
    unused.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Source, validate};

    fn routes(count: usize, glob: impl Fn(usize) -> String) -> Config {
        let routes: String =
            (0..count).map(|n| format!("{{model: '{}', targets: [{{pool: p}}]}}, ", glob(n))).collect();
        let text = format!("pools: [{{name: p, backends: [{{name: a, url: 'http://a'}}]}}]\nroutes: [{routes}]");
        validate(&Source::read(&text, Path::new("/")).unwrap().draft).unwrap()
    }

    #[test]
    fn a_glob_in_the_way_is_found_among_many() {
        let config = routes(300, |n| format!("org-{n}/model-*"));
        let mut steps = STEPS_MAX;
        assert!(unreached(&config, &mut steps).is_empty());
        assert!(steps > STEPS_MAX / 2, "300 usual globs cost little: {}", STEPS_MAX - steps);
        let config = routes(300, |n| if n == 299 { "org-7/model-7*".to_owned() } else { format!("org-{n}/model-*") });
        let found = unreached(&config, &mut steps);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "routes[299].model");
    }

    #[test]
    fn what_is_left_when_the_steps_are_used_up_is_told_once() {
        let config = routes(5, |n| format!("*a{n}*"));
        for most in 1..200 {
            let mut steps = most;
            let found = unreached(&config, &mut steps);
            assert_eq!(found.len(), usize::from(steps == 0), "with {most} steps");
        }
    }
}
