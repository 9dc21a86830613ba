//! Who answers for a model: exact names first, then globs in their order.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ntonix_config::{self as config, ModelPattern};
use tokio::time::Instant;

use crate::{
    balance::{Backend, Nobody, Picked, Pool},
    exchange::Exchange,
    metrics::{OBSERVED, RouteMetrics},
    policy::gate::Gate,
    refusal::{Kind, Refusal},
};

/// What clients may ask for, as one revision has it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<String, Arc<Route>>,
    globs: Vec<Arc<Route>>,
    /// All of them in the order of the configuration.
    all: Vec<Arc<Route>>,
}

/// One route, as one revision has it.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its name in the log and the metrics: the model as it was configured.
    pub(crate) name: Arc<str>,
    /// Its settings.
    pub(crate) spec: config::Route,
    /// Who answers, by weight.
    pub(crate) targets: Vec<Target>,
    /// Who answers when no target can.
    pub(crate) fallback: Vec<Target>,
    /// What is counted of it.
    pub(crate) metrics: RouteMetrics,
}

/// A pool that answers for a route.
#[derive(Debug)]
pub(crate) struct Target {
    /// The pool.
    pub(crate) pool: Arc<Pool>,
    /// The name that its backends know; `None`: the one that the client used.
    pub(crate) model: Option<String>,
    /// Share of the traffic.
    pub(crate) weight: u32,
}

/// The gate that finds the route of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FindRoute;

// === impl Table ===

impl Table {
    /// A table of `routes`, the first of which wins.
    pub(crate) fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut table = Self { all: routes.clone(), ..Self::default() };
        for route in routes {
            for alias in &route.spec.aliases {
                table.exact.entry(alias.clone()).or_insert_with(|| Arc::clone(&route));
            }
            match &route.spec.model {
                ModelPattern::Exact(model) => {
                    table.exact.entry(model.clone()).or_insert(route);
                }
                ModelPattern::Glob(_) => table.globs.push(route),
            }
        }
        table
    }

    /// The route that answers for `model`.
    pub(crate) fn find(&self, model: &str) -> Option<&Arc<Route>> {
        self.exact.get(model).or_else(|| self.globs.iter().find(|route| route.spec.model.matches(model)))
    }

    /// All routes in the order of the configuration.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.all
    }

    /// Does a glob lead to this pool? Then its backends are asked which models they have.
    pub(crate) fn asks_for_models_of(&self, pool: &Arc<Pool>) -> bool {
        let leads_there = |target: &Target| Arc::ptr_eq(&target.pool, pool);
        self.globs.iter().any(|route| route.targets.iter().chain(&route.fallback).any(leads_there))
    }

    /// The names that a client can ask for: exact ones and aliases, and what the backends behind globs report.
    pub(crate) fn models(&self) -> Vec<String> {
        let mut models: Vec<String> = Vec::new();
        for route in &self.all {
            match &route.spec.model {
                ModelPattern::Exact(model) => models.push(model.clone()),
                ModelPattern::Glob(glob) => {
                    let reported = route.reported_models();
                    models.extend(reported.into_iter().filter(|model| glob.matches(model)));
                }
            }
            models.extend(route.spec.aliases.iter().cloned());
        }
        let mut seen = HashSet::new();
        models.retain(|model| seen.insert(model.clone()));
        models
    }
}

// === impl Route ===

impl Route {
    /// Is anything counted of any route? See [`OBSERVED`].
    pub(crate) const IS_OBSERVED: bool = OBSERVED;

    /// Picks a backend: of a target drawn by weight, of the other targets, of the fallbacks, in this order. Returns
    /// the name of the model that the backend knows with it.
    pub(crate) fn pick(&self, model: &str, tried: &[Arc<Backend>]) -> Result<Offer<'_>, Nobody> {
        let now = Instant::now();
        let mut why = Nobody::Tried;
        for target in self.order() {
            let asked = if self.is_glob() && target.model.is_none() { Some(model) } else { None };
            match target.pool.pick(asked, tried, now) {
                Ok(picked) => return Ok(Offer { picked, model: target.model.as_deref() }),
                Err(reason) => why = why.or(reason),
            }
        }
        Err(why)
    }

    fn is_glob(&self) -> bool {
        matches!(self.spec.model, ModelPattern::Glob(_))
    }

    fn order(&self) -> impl Iterator<Item = &Target> {
        let first = draw(&self.targets);
        let others =
            self.targets.iter().enumerate().filter(move |(index, target)| *index != first && target.weight > 0);
        self.targets.get(first).into_iter().chain(others.map(|(_, target)| target)).chain(&self.fallback)
    }

    fn reported_models(&self) -> Vec<String> {
        let pools = self.targets.iter().chain(&self.fallback).map(|target| &target.pool);
        let mut models: Vec<String> = pools
            .flat_map(|pool| &pool.backends)
            .filter_map(|backend| backend.load.models())
            .flat_map(|models| models.iter().cloned().collect::<Vec<_>>())
            .collect();
        models.sort();
        models.dedup();
        models
    }
}

/// A backend that was picked, and the name by which it knows the model; `None`: the client's.
#[derive(Debug)]
pub(crate) struct Offer<'a> {
    /// The backend.
    pub(crate) picked: Picked,
    /// The name.
    pub(crate) model: Option<&'a str>,
}

/// Draws a target by weight.
fn draw(targets: &[Target]) -> usize {
    if targets.len() < 2 {
        return 0;
    }
    let total: u32 = targets.iter().map(|target| target.weight).sum();
    let mut point = fastrand::u32(..total.max(1));
    for (index, target) in targets.iter().enumerate() {
        match point.checked_sub(target.weight) {
            Some(rest) => point = rest,
            None => return index,
        }
    }
    0
}

// === impl FindRoute ===

impl Gate for FindRoute {
    fn pass(&self, exchange: &mut Exchange) -> Result<(), Refusal> {
        let model = &exchange.call.model;
        let Some(route) = exchange.live.routes().find(model) else {
            let public = format!("the model \"{model}\" does not exist");
            return Err(Refusal::new(Kind::ModelNotFound, public).about(Some("model")));
        };
        exchange.record.facts().route = Some(Arc::clone(route));
        exchange.route = Some(Arc::clone(route));
        Ok(())
    }
}
