use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ntonix_proto::config::v1::{self, Backend, Pool, Tenant};

use super::*;
use crate::store::sqlite::Sqlite;
use crate::store::{Answer, Commit, ManagedKey, Revision, Stored};

/// A store whose disk can fail, or take its time.
#[derive(Debug)]
pub(crate) struct Flawed {
    inner: Sqlite,
    breaks: AtomicBool,
    delay: Duration,
}

impl Flawed {
    pub(crate) fn open(directory: &std::path::Path, delay: Duration) -> Arc<Self> {
        let inner = Sqlite::open(directory, 10).unwrap();
        Arc::new(Self { inner, breaks: AtomicBool::new(false), delay })
    }

    pub(crate) fn break_syncs(&self) {
        self.breaks.store(true, Ordering::Release);
    }
}

impl Store for Flawed {
    fn load(&self) -> BoxFuture<'_, Result<Contents, StoreFault>> {
        self.inner.load()
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), StoreFault>> {
        async move {
            if self.breaks.load(Ordering::Acquire) {
                return Err(StoreFault::Broken("fsync failed".to_owned()));
            }
            tokio::time::sleep(self.delay).await;
            self.inner.commit(commit).await
        }
        .boxed()
    }

    fn remember(&self, answer: Answer) -> BoxFuture<'_, Result<(), StoreFault>> {
        self.inner.remember(answer)
    }

    fn recall(&self, author: String, id: String, now: SystemTime) -> BoxFuture<'_, Result<Option<Answer>, StoreFault>> {
        self.inner.recall(author, id, now)
    }

    fn revision(&self, number: u64) -> BoxFuture<'_, Result<Option<Stored>, StoreFault>> {
        self.inner.revision(number)
    }

    fn revisions(&self, below: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Revision>, StoreFault>> {
        self.inner.revisions(below, limit)
    }

    fn oldest(&self) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.inner.oldest()
    }

    fn add_key(&self, key: ManagedKey) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.inner.add_key(key)
    }

    fn revoke_key(&self, name: String, at: SystemTime) -> BoxFuture<'_, Result<u64, StoreFault>> {
        self.inner.revoke_key(name, at)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}

struct Desk {
    directory: tempfile::TempDir,
    store: Arc<Flawed>,
    ledger: Arc<Ledger>,
}

async fn desk(delay: Duration) -> Desk {
    let directory = tempfile::tempdir().unwrap();
    let store = Flawed::open(directory.path(), delay);
    let ledger = Arc::new(Ledger::open(store.clone(), Metrics::new()).await.unwrap());
    Desk { directory, store, ledger }
}

fn tenants(names: &[&str]) -> Draft {
    let tenant = |name: &&str| Tenant { name: (*name).to_owned(), ..Tenant::default() };
    Draft { tenants: names.iter().map(tenant).collect(), ..Draft::default() }
}

fn apply(draft: Draft) -> Change {
    Change {
        what: What::Draft(draft),
        author: "alice".to_owned(),
        message: String::new(),
        expected_revision: None,
        request_id: String::new(),
        validate_only: false,
    }
}

fn new_key(name: &str, tenant: &str) -> NewKey {
    NewKey { name: name.to_owned(), tenant: tenant.to_owned(), expires: None, author: "alice".to_owned() }
}

fn paths(refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Invalid(faults) => faults.into_iter().map(|fault| fault.path).collect(),
        other => panic!("not a fault: {other}"),
    }
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_ends_all_writing() {
    let desk = desk(Duration::ZERO).await;
    desk.ledger.change(apply(tenants(&["a"]))).await.unwrap();
    desk.store.break_syncs();
    let refused = desk.ledger.change(apply(tenants(&["b"]))).await.unwrap_err();
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused}");
    assert_eq!(desk.ledger.broken().await, "fsync failed");
    assert_eq!(desk.ledger.content(0).await.unwrap().revision.number, 1);
    desk.store.breaks.store(false, Ordering::Release);
    assert!(desk.ledger.change(apply(tenants(&["b"]))).await.is_err(), "nobody knows what is on disk");
    assert!(desk.ledger.create_key(new_key("k", "a")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_caller_leaves_is_still_published() {
    let desk = desk(Duration::from_secs(5)).await;
    let caller = desk.ledger.change(apply(tenants(&["a"])));
    assert!(tokio::time::timeout(Duration::from_secs(1), caller).await.is_err());
    let mut newest = desk.ledger.publisher().subscribe();
    let published = newest.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(published.id.revision, 1);
    assert_eq!(desk.store.inner.load().await.unwrap().newest.unwrap().revision.number, 1);
}

#[tokio::test]
async fn writers_at_the_same_time_are_put_in_order() {
    let desk = desk(Duration::ZERO).await;
    let names: Vec<String> = (0..20).map(|number| format!("t{number}")).collect();
    let writers = names.iter().map(|name| desk.ledger.change(apply(tenants(&[name]))));
    let replies = futures_util::future::join_all(writers).await;
    let mut numbers: Vec<u64> = replies.into_iter().map(|reply| reply.unwrap().revision.unwrap().number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_writers_with_one_expected_revision_one_gets_a_conflict() {
    let desk = desk(Duration::ZERO).await;
    desk.ledger.change(apply(tenants(&["a"]))).await.unwrap();
    let change = |name: &str| Change { expected_revision: Some(1), ..apply(tenants(&[name])) };
    let (one, other) = tokio::join!(desk.ledger.change(change("b")), desk.ledger.change(change("c")));
    let refused = [one, other].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(refused[..], [Refusal::Conflict { current: 2 }]), "{refused:?}");
}

#[tokio::test]
async fn a_configuration_may_not_take_the_tenant_of_a_managed_key_nor_its_name() {
    let desk = desk(Duration::ZERO).await;
    desk.ledger.change(apply(tenants(&["a", "b"]))).await.unwrap();
    let (key, _) = desk.ledger.create_key(new_key("bob", "a")).await.unwrap();
    let mut draft = tenants(&["b"]);
    let repeated = ntonix_proto::config::v1::Key {
        name: "bob".to_owned(),
        tenant: "b".to_owned(),
        digest: key.digest,
        expires: None,
    };
    draft.keys.push(repeated);
    draft.pools.push(Pool { name: "p".to_owned(), backends: vec![Backend::default()], ..Pool::default() });
    let found = paths(desk.ledger.change(apply(draft.clone())).await.unwrap_err());
    assert!(found.iter().any(|path| path == "tenants"), "{found:?}");
    assert!(found.iter().any(|path| path == "keys[0].name"), "{found:?}");
    assert!(found.iter().any(|path| path.starts_with("pools[0].backends[0]")), "{found:?}");
    assert_eq!(paths(desk.ledger.plan(&draft, None).unwrap_err()), found, "a plan refuses what an apply refuses");
    desk.ledger.revoke_key("bob".to_owned(), "alice".to_owned()).await.unwrap();
    desk.ledger.change(apply(tenants(&["b"]))).await.unwrap();
}

#[tokio::test]
async fn an_empty_first_configuration_is_a_revision() {
    let desk = desk(Duration::ZERO).await;
    let reply = desk.ledger.change(apply(Draft::default())).await.unwrap();
    assert_eq!(reply.revision.unwrap().number, 1);
    let again = desk.ledger.change(apply(Draft::default())).await.unwrap();
    assert_eq!(again.revision.unwrap().number, 1);
}

#[tokio::test]
async fn a_revision_that_is_gone_is_told_from_one_that_never_was() {
    let desk = desk(Duration::ZERO).await;
    assert!(matches!(desk.ledger.content(0).await, Err(Refusal::NotFound(_))));
    for number in 0..12 {
        desk.ledger.change(apply(tenants(&[&format!("t{number}")]))).await.unwrap();
    }
    assert!(matches!(desk.ledger.content(2).await, Err(Refusal::NoLonger(_))));
    assert!(matches!(desk.ledger.content(13).await, Err(Refusal::NotFound(_))));
    assert!(matches!(desk.ledger.content(u64::MAX).await, Err(Refusal::NotFound(_))));
    assert_eq!(desk.ledger.oldest().await.unwrap(), 3);
    assert!(desk.ledger.step(3).await.unwrap().changes.is_empty(), "the one before is no longer kept");
    assert_eq!(desk.ledger.step(4).await.unwrap().changes.len(), 2);
    let rollback = Change { what: What::Rollback(1), ..apply(Draft::default()) };
    assert!(matches!(desk.ledger.change(rollback).await, Err(Refusal::NoLonger(_))));
}

#[tokio::test]
async fn a_bad_file_is_refused_with_every_fault_and_changes_nothing() {
    let desk = desk(Duration::ZERO).await;
    let path = desk.directory.path().join("ntonix.yaml");
    std::fs::write(&path, "tenants: [{ name: a }]").unwrap();
    let owner = file::Owner::new(path.clone(), desk.ledger.clone());
    owner.apply().await.unwrap();
    std::fs::write(&path, "tenants: [{ name: A }, { name: a, modles: [] }]").unwrap();
    let told = owner.apply().await.unwrap_err().to_string();
    for part in ["tenants[0].name (line 1)", "tenants[1].modles (line 1)"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    std::fs::write(&path, "\n").unwrap();
    assert!(owner.apply().await.unwrap_err().to_string().contains("there is nothing in it"));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(owner.apply().await, Err(file::FileFault::Read { .. })));
    assert_eq!(desk.ledger.content(0).await.unwrap().revision.number, 1);
}

/// Carol's key of the configuration and bob's, which the key service made, are one and the same. Only a store of an
/// older version can hold that.
async fn one_key_under_two_names(after: Option<Draft>) -> (Desk, Arc<Ledger>) {
    let desk = desk(Duration::ZERO).await;
    let digest = ntonix_config::KeyDigest::of(b"the same").to_string();
    let (carol, tenant) = ("carol".to_owned(), "a".to_owned());
    let mut draft = tenants(&["a"]);
    draft.keys.push(v1::Key { name: carol, tenant: tenant.clone(), digest: digest.clone(), expires: None });
    desk.ledger.change(apply(draft)).await.unwrap();
    if let Some(after) = after {
        desk.ledger.change(apply(after)).await.unwrap();
    }
    let (name, author, created) = ("bob".to_owned(), "alice".to_owned(), now());
    let bob = ManagedKey { name, tenant, digest, created, author, expires: None, revoked: None };
    desk.store.inner.add_key(bob).await.unwrap();
    let ledger = Arc::new(Ledger::open(desk.store.clone(), Metrics::new()).await.unwrap());
    (desk, ledger)
}

#[tokio::test]
async fn no_configuration_gives_a_managed_key_a_second_name() {
    let desk = desk(Duration::ZERO).await;
    desk.ledger.change(apply(tenants(&["a"]))).await.unwrap();
    let (key, _) = desk.ledger.create_key(new_key("bob", "a")).await.unwrap();
    let mut draft = tenants(&["a"]);
    let carol = v1::Key { name: "carol".to_owned(), tenant: "a".to_owned(), digest: key.digest, expires: None };
    draft.keys.push(carol);
    assert_eq!(paths(desk.ledger.change(apply(draft.clone())).await.unwrap_err()), ["keys[0].digest"]);
    desk.ledger.revoke_key("bob".to_owned(), "alice".to_owned()).await.unwrap();
    let refused = desk.ledger.change(apply(draft.clone())).await.unwrap_err();
    let told = refused.to_string();
    assert!(told.contains("\"bob\", which is revoked") && !told.contains("sha256"), "{told}");
    assert_eq!(paths(refused), ["keys[0].digest"]);
    assert_eq!(paths(desk.ledger.plan(&draft, None).unwrap_err()), ["keys[0].digest"]);
}

#[tokio::test]
async fn a_rollback_does_not_bring_a_managed_key_back_under_another_name() {
    let (_desk, ledger) = one_key_under_two_names(Some(tenants(&["a"]))).await;
    ledger.revoke_key("bob".to_owned(), "alice".to_owned()).await.unwrap();
    let rollback = Change { what: What::Rollback(1), ..apply(Draft::default()) };
    assert_eq!(paths(ledger.change(rollback).await.unwrap_err()), ["keys[0].digest"]);
}

#[tokio::test]
async fn a_revocation_that_would_leave_the_key_open_under_another_name_is_refused() {
    let (_desk, ledger) = one_key_under_two_names(None).await;
    let revoke = || ledger.revoke_key("bob".to_owned(), "alice".to_owned());
    let refused = revoke().await.unwrap_err();
    assert!(matches!(refused, Refusal::StillOpen { .. }) && refused.to_string().contains("\"carol\""), "{refused}");
    assert!(ledger.managed_keys().unrevoked().any(|key| key.name == "bob"), "all or nothing");
    ledger.change(apply(tenants(&["a"]))).await.unwrap();
    assert!(revoke().await.unwrap().revoked.is_some());
    let newest = ledger.publisher().newest().unwrap();
    assert!(newest.entries.iter().all(|entry| !entry.name.contains("keys/")), "nothing opens any more");
}

#[tokio::test]
async fn whoever_opens_or_shuts_the_gateway_for_everybody_is_told() {
    let desk = desk(Duration::ZERO).await;
    let mut keyed = tenants(&["a"]);
    let digest = ntonix_config::KeyDigest::of(b"x").to_string();
    keyed.keys.push(v1::Key { name: "x".to_owned(), tenant: "a".to_owned(), digest, expires: None });
    let open = Draft::default();
    for (draft, wanted) in [
        (&keyed, None),
        (&open, Some("no tenant and no key is left: ")),
        (&keyed, Some("until now nobody needed a key: ")),
        (&keyed, None),
        (&tenants(&["a"]), Some("no key opens anything, ")),
        (&keyed, None),
        (&open, Some("no tenant and no key is left: ")),
    ] {
        let planned = desk.ledger.plan(draft, None).unwrap().warnings;
        let applied = desk.ledger.change(apply(draft.clone())).await.unwrap().warnings;
        assert_eq!(planned, applied);
        assert!(planned.iter().all(|warning| warning.path == "keys"), "{planned:?}");
        match (planned.as_slice(), wanted) {
            ([], None) => {}
            ([warning], Some(wanted)) => assert!(warning.reason.starts_with(wanted), "{warning:?}"),
            (planned, wanted) => panic!("{planned:?} instead of {wanted:?}"),
        }
    }
    let back = desk.ledger.change(Change { what: What::Rollback(1), ..apply(open) }).await.unwrap();
    assert_eq!(back.warnings.len(), 1, "a rollback tells it too: {:?}", back.warnings);
}

#[tokio::test]
async fn a_managed_key_is_a_key() {
    let desk = desk(Duration::ZERO).await;
    desk.ledger.change(apply(tenants(&["a"]))).await.unwrap();
    desk.ledger.create_key(new_key("bob", "a")).await.unwrap();
    assert_eq!(desk.ledger.plan(&tenants(&["a", "b"]), None).unwrap().warnings, []);
    desk.ledger.revoke_key("bob".to_owned(), "alice".to_owned()).await.unwrap();
    assert_eq!(desk.ledger.plan(&Draft::default(), None).unwrap().warnings.len(), 1, "from nobody to everybody");
}
