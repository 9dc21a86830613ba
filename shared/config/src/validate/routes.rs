//! Checks routes: patterns, aliases, targets, deadlines.

use std::{collections::HashSet, time::Duration};

use ntonix_proto::config::v1;

use super::checker::{Checker, HOUR, MINUTE};
use crate::{
    Deadlines, Draft, ModelPattern, Route, Target,
    model::{check_characters, is_glob},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl Checker {
    pub(super) fn routes(&mut self, draft: &Draft) -> Vec<Route> {
        let pools: HashSet<&str> = draft.pools.iter().map(|pool| pool.name.as_str()).collect();
        self.unique("model", draft.routes.iter().enumerate().flat_map(|(index, route)| names(index, route)));
        let routes = draft.routes.iter().enumerate();
        routes.filter_map(|(index, route)| self.route(&format!("routes[{index}]"), route, &pools)).collect()
    }

    fn route(&mut self, at: &str, route: &v1::Route, pools: &HashSet<&str>) -> Option<Route> {
        for (index, alias) in route.aliases.iter().enumerate() {
            self.alias(&format!("{at}.aliases[{index}]"), alias);
        }
        if route.targets.is_empty() {
            self.fault(format!("{at}.targets"), "must have at least one target");
        } else if route.targets.iter().all(|target| target.weight == Some(0)) {
            self.fault(format!("{at}.targets"), "must have at least one target with a weight above 0");
        }
        let targets = self.targets(&format!("{at}.targets"), route, &route.targets, pools);
        let fallback = self.targets(&format!("{at}.fallback"), route, &route.fallback, pools);
        let deadlines = self.deadlines(&format!("{at}.deadlines"), &route.deadlines.unwrap_or_default());
        let retries = self.count(&format!("{at}.retries"), route.retries, 0..=10, 2);
        let heartbeat = self.heartbeat(&format!("{at}.heartbeat"), route.heartbeat);
        let model = self.kept(format!("{at}.model"), ModelPattern::parse(&route.model))?;
        Some(Route { model, aliases: route.aliases.clone(), targets, fallback, deadlines, retries, heartbeat })
    }

    fn alias(&mut self, at: &str, alias: &str) {
        if is_glob(alias) {
            self.fault(at, format!("must be an exact name, not {alias:?}"));
        } else {
            self.kept(at, ModelPattern::parse(alias));
        }
    }

    fn targets(&mut self, at: &str, route: &v1::Route, targets: &[v1::Target], pools: &HashSet<&str>) -> Vec<Target> {
        let numbered = targets.iter().enumerate();
        numbered.map(|(index, target)| self.target(&format!("{at}[{index}]"), route, target, pools)).collect()
    }

    fn target(&mut self, at: &str, route: &v1::Route, target: &v1::Target, pools: &HashSet<&str>) -> Target {
        self.reference(format!("{at}.pool"), "pool", &target.pool, pools);
        let model = (!target.model.is_empty()).then(|| target.model.clone());
        match &model {
            Some(model) => _ = self.kept(format!("{at}.model"), check_characters(model)),
            // The backends would be asked for the glob itself.
            None if is_glob(&route.model) && !route.aliases.is_empty() => {
                self.fault(
                    format!("{at}.model"),
                    "is missing: what asks by an alias of a glob needs a model name here",
                );
            }
            None => {}
        }
        Target {
            pool: target.pool.clone(),
            model,
            weight: self.count(&format!("{at}.weight"), target.weight, 0..=1_000, 1),
        }
    }

    fn deadlines(&mut self, at: &str, deadlines: &v1::Deadlines) -> Deadlines {
        let (hour, day) = (MILLISECOND..=HOUR, MILLISECOND..=24 * HOUR);
        Deadlines {
            connect: self.duration(&format!("{at}.connect"), deadlines.connect, MILLISECOND..=MINUTE, 2 * SECOND),
            first_token: self.duration(&format!("{at}.first_token"), deadlines.first_token, hour.clone(), MINUTE),
            idle: self.duration(&format!("{at}.idle"), deadlines.idle, hour, 30 * SECOND),
            total: self.duration(&format!("{at}.total"), deadlines.total, day, 30 * MINUTE),
        }
    }

    fn heartbeat(&mut self, at: &str, heartbeat: Option<prost_types::Duration>) -> Option<Duration> {
        if heartbeat == Some(prost_types::Duration::default()) {
            return None;
        }
        Some(self.duration(at, heartbeat, SECOND..=HOUR, 15 * SECOND))
    }
}

/// What a route answers for, each with its path: its model and its aliases share one set of names with all others.
fn names(index: usize, route: &v1::Route) -> impl Iterator<Item = (String, &str)> {
    let aliases = route.aliases.iter().enumerate();
    let aliases = aliases.map(move |(number, alias)| (format!("routes[{index}].aliases[{number}]"), alias.as_str()));
    std::iter::once((format!("routes[{index}].model"), route.model.as_str())).chain(aliases)
}
