use std::path::Path;

use super::*;
use crate::balance::Backend;

/// A pool of this name makes the preparation panic.
pub(crate) const POISON: &str = "poison";

fn config(text: &str) -> Config {
    let source = ntonix_config::Source::read(text, Path::new("/")).unwrap();
    ntonix_config::validate(&source.draft).unwrap()
}

fn origin() -> Origin {
    Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() }
}

pub(crate) fn cell() -> Cell {
    Cell::new(Metrics::new(), 1)
}

pub(crate) fn swap(cell: &Cell, text: &str) -> Arc<Live> {
    cell.swap(cell.prepare(&config(text), origin()).unwrap())
}

fn backend(live: &Live, name: &str) -> Arc<Backend> {
    let backends = live.pools().flat_map(|pool| &pool.backends);
    Arc::clone(backends.into_iter().find(|backend| *backend.name == *name).unwrap())
}

fn pools(first: &str, second: &str) -> String {
    format!("pools:\n  - {{ name: one, backends: [{first}] }}\n  - {{ name: two, backends: [{second}] }}\n")
}

const A: &str = "{ name: a, url: 'http://127.0.0.1:1' }";
const B: &str = "{ name: b, url: 'http://127.0.0.1:2' }";
const C: &str = "{ name: c, url: 'http://127.0.0.1:3' }";

#[test]
fn everything_that_is_missing_is_named_and_nothing_changes() {
    let cell = cell();
    let before = swap(&cell, &pools(A, B));
    let text = "pools:\n  - { name: p, backends: [{ name: b, url: 'https://127.0.0.1:1', ca: { file: /no/ca.pem } }] }\n\
                secrets:\n  - { name: s, from: { file: /no/secret } }\n  - { name: t, from: { env: NTONIX_NOT_SET_ANYWHERE } }\n";
    let faults = cell.prepare(&config(text), origin()).unwrap_err();
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["secrets[0].from", "secrets[1].from", "pools[0].backends[0]"]);
    assert!(Arc::ptr_eq(&cell.load().unwrap(), &before));
}

#[test]
fn a_backend_that_stays_keeps_its_state_and_one_that_goes_drains() {
    let cell = cell();
    let before = swap(&cell, &pools(&format!("{A}, {B}"), C));
    let guard = backend(&before, "a").load.enter(None, tokio::time::Instant::now()).unwrap();
    let after = swap(&cell, &pools(&format!("{A}, {{ name: b, url: 'http://127.0.0.1:9' }}"), C));
    assert!(Arc::ptr_eq(&backend(&before, "a").load, &backend(&after, "a").load));
    assert_eq!(backend(&after, "a").load.in_flight(), 1);
    let state = |live: &Live, name: &str| backend(live, name).load.state(tokio::time::Instant::now());
    assert_eq!((state(&before, "b"), state(&after, "b")), ("draining", "healthy"), "another URL is another backend");
    assert_eq!(state(&after, "a"), "healthy");
    drop(guard);
}

#[test]
fn a_pool_that_a_change_leaves_alone_is_the_same_pool() {
    let cell = cell();
    let before = swap(&cell, &pools(A, B));
    let after = swap(&cell, &pools(A, &format!("{B}, {C}")));
    assert!(Arc::ptr_eq(&before.pools["one"], &after.pools["one"]));
    assert!(!Arc::ptr_eq(&before.pools["two"], &after.pools["two"]));
}

#[test]
fn a_backend_that_comes_back_serves_again() {
    let cell = cell();
    let first = swap(&cell, &pools(A, B));
    swap(&cell, &pools(A, C));
    let now = tokio::time::Instant::now();
    assert_eq!(backend(&first, "b").load.state(now), "draining");
    let again = swap(&cell, &pools(A, B));
    assert_eq!(backend(&again, "b").load.state(now), "healthy");
}

#[test]
fn a_tenants_use_outlives_a_change_of_its_limits() {
    let cell = cell();
    let tenant = |limit: u32| format!("tenants:\n  - {{ name: t, limits: {{ streams: {limit} }} }}\n");
    let before = swap(&cell, &tenant(1));
    let after = swap(&cell, &tenant(2));
    assert!(Arc::ptr_eq(&before.tenants["t"].usage, &after.tenants["t"].usage));
    assert_eq!(after.tenants["t"].streams, Some(2));
}
