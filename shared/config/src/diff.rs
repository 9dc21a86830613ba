//! What one draft changes against another, resource by resource.

use std::collections::{BTreeSet, HashMap};

use ntonix_proto::config::v1::Resource;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

use crate::{
    Draft,
    resources::to_resources,
    schema::{DURATION, RESOURCE, TIMESTAMP, reflect},
};

/// What happened to one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What happened.
    pub action: Action,
    /// Its name, as in "pools/llama".
    pub resource: String,
    /// The fields that differ, by path within the resource, as in `backends[0].weight`; empty unless updated.
    pub fields: Vec<String>,
    /// Before; absent when created.
    pub before: Option<Resource>,
    /// After; absent when deleted.
    pub after: Option<Resource>,
}

/// What can happen to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is new.
    Created,
    /// It differs.
    Updated,
    /// It is gone.
    Deleted,
    /// It is the same at another place in the order.
    Moved,
}

/// What changes from `before` to `after`: in the order of `after`, then what is gone. Empty: they say the same.
#[must_use]
pub fn diff(before: &Draft, after: &Draft) -> Vec<Change> {
    let (old, new) = (to_resources(before), to_resources(after));
    let old_places: HashMap<&str, usize> = places(&old);
    let new_places: HashMap<&str, usize> = places(&new);
    let moved = moved(new.iter().filter_map(|(name, _)| old_places.get(name.as_str()).copied()));

    let mut changes = Vec::new();
    for (name, resource) in &new {
        match old_places.get(name.as_str()) {
            None => changes.push(change(Action::Created, name, None, Some(resource))),
            Some(place) => {
                let was = &old[*place].1;
                if was != resource {
                    changes.push(change(Action::Updated, name, Some(was), Some(resource)));
                } else if moved.contains(place) {
                    changes.push(change(Action::Moved, name, Some(was), Some(resource)));
                }
            }
        }
    }
    let gone = old.iter().filter(|(name, _)| !new_places.contains_key(name.as_str()));
    changes.extend(gone.map(|(name, resource)| change(Action::Deleted, name, Some(resource), None)));
    changes
}

fn places(resources: &[(String, Resource)]) -> HashMap<&str, usize> {
    resources.iter().enumerate().map(|(place, (name, _))| (name.as_str(), place)).collect()
}

fn change(action: Action, name: &str, before: Option<&Resource>, after: Option<&Resource>) -> Change {
    let fields = match (action, before, after) {
        (Action::Updated, Some(before), Some(after)) => fields(before, after),
        _ => Vec::new(),
    };
    Change { action, resource: name.to_owned(), fields, before: before.cloned(), after: after.cloned() }
}

/// The fewest of the old places that must move so that the rest keeps its order: all but a longest rising run.
fn moved(places: impl Iterator<Item = usize>) -> BTreeSet<usize> {
    let places: Vec<usize> = places.collect();
    // `ends[n]` is the index of the smallest place that ends a rising run of n + 1 places.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(places.len());
    for (index, place) in places.iter().enumerate() {
        let length = ends.partition_point(|end| places[*end] < *place);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(index);
        } else {
            ends[length] = index;
        }
    }
    let run = std::iter::successors(ends.last().copied(), |index| before[*index]);
    let stays: BTreeSet<usize> = run.map(|index| places[index]).collect();
    places.into_iter().filter(|place| !stays.contains(place)).collect()
}

fn fields(before: &Resource, after: &Resource) -> Vec<String> {
    let mut paths = Vec::new();
    let (before, after) = (reflect(before, RESOURCE), reflect(after, RESOURCE));
    for kind in before.descriptor().fields() {
        if let (Value::Message(before), Value::Message(after)) = (&*before.get_field(&kind), &*after.get_field(&kind)) {
            compare(before, after, "", &mut paths);
        }
    }
    paths
}

/// Notes the path of each field that differs, as deep as both sides go.
fn compare(before: &DynamicMessage, after: &DynamicMessage, path: &str, paths: &mut Vec<String>) {
    for field in before.descriptor().fields() {
        let at = if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
        if before.has_field(&field) != after.has_field(&field) {
            paths.push(at);
            continue;
        }
        compare_values(&before.get_field(&field), &after.get_field(&field), at, paths);
    }
}

fn compare_values(before: &Value, after: &Value, at: String, paths: &mut Vec<String>) {
    match (before, after) {
        (Value::Message(one), Value::Message(other)) if !is_moment(one) => compare(one, other, &at, paths),
        (Value::List(ones), Value::List(others)) if ones.len() == others.len() => {
            for (index, (one, other)) in ones.iter().zip(others).enumerate() {
                compare_values(one, other, format!("{at}[{index}]"), paths);
            }
        }
        (before, after) if before != after => paths.push(at),
        _ => {}
    }
}

/// Durations and times are compared as a whole: they are one value to whoever wrote them.
fn is_moment(message: &DynamicMessage) -> bool {
    matches!(message.descriptor().full_name(), DURATION | TIMESTAMP)
}

#[cfg(test)]
mod tests {
    use ntonix_proto::config::v1;

    use super::*;

    fn route(model: &str) -> v1::Route {
        v1::Route { model: model.to_owned(), ..v1::Route::default() }
    }

    fn routes(models: &[&str]) -> Draft {
        Draft { routes: models.iter().map(|model| route(model)).collect(), ..Draft::default() }
    }

    fn pool(url: &str, seconds: i64) -> Draft {
        let backend = v1::Backend { name: "b".to_owned(), url: url.to_owned(), ..v1::Backend::default() };
        let every = Some(prost_types::Duration { seconds, nanos: 0 });
        let health = Some(v1::Health { every, ..v1::Health::default() });
        let pool = v1::Pool { name: "p".to_owned(), backends: vec![backend], health, ..v1::Pool::default() };
        Draft { pools: vec![pool], ..Draft::default() }
    }

    fn told(before: &Draft, after: &Draft) -> Vec<String> {
        diff(before, after)
            .iter()
            .map(|c| format!("{:?} {} {}", c.action, c.resource, c.fields.join(" ")).trim().to_owned())
            .collect()
    }

    #[test]
    fn equal_drafts_do_not_differ() {
        assert_eq!(told(&pool("x", 1), &pool("x", 1)), [""; 0]);
        assert_eq!(told(&Draft::default(), &Draft::default()), [""; 0]);
    }

    #[test]
    fn what_is_new_gone_or_different_is_told_by_its_field() {
        assert_eq!(told(&Draft::default(), &routes(&["a"])), ["Created routes/a"]);
        assert_eq!(told(&routes(&["a"]), &Draft::default()), ["Deleted routes/a"]);
        assert_eq!(told(&pool("x", 1), &pool("y", 2)), ["Updated pools/p backends[0].url health.every"]);
        let mut more = pool("x", 1);
        more.pools[0].backends.push(v1::Backend::default());
        more.pools[0].health = None;
        assert_eq!(told(&pool("x", 1), &more), ["Updated pools/p backends health"]);
    }

    #[test]
    fn only_what_changed_its_place_among_those_that_stay_has_moved() {
        assert_eq!(told(&routes(&["a", "b", "c", "d"]), &routes(&["d", "a", "b", "c"])), ["Moved routes/d"]);
        assert_eq!(told(&routes(&["a", "b", "c"]), &routes(&["b", "c"])), ["Deleted routes/a"]);
        assert_eq!(told(&routes(&["a", "b"]), &routes(&["x", "a", "b"])), ["Created routes/x"]);
        assert_eq!(told(&routes(&["a", "b", "c"]), &routes(&["c", "b", "a"])).len(), 2);
    }

    #[test]
    fn a_change_carries_both_sides() {
        let change = diff(&pool("x", 1), &pool("y", 1)).remove(0);
        assert!(change.before.is_some() && change.after.is_some() && change.before != change.after);
        assert!(diff(&pool("x", 1), &Draft::default())[0].after.is_none());
    }
}
