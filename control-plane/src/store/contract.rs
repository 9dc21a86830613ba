//! What every store must do, as one test that each store runs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

/// A time after 1970 in whole microseconds.
pub(crate) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, 123_456_000)
}

pub(crate) fn commit(number: u64, entries: &[(&str, &str)]) -> Commit {
    let revision = Revision {
        number,
        author: "alice".to_owned(),
        time: at(number),
        message: format!("number {number}"),
        digest: [u8::try_from(number % 250).unwrap(); 32],
        rollback_of: number / 2,
    };
    let entries = entries
        .iter()
        .map(|(name, text)| Entry { name: (*name).to_owned(), bytes: Bytes::copy_from_slice(text.as_bytes()) });
    Commit { stored: Stored { revision, entries: entries.collect() }, answer: None }
}

fn answer(id: &str, reply: &'static str, time: SystemTime) -> Answer {
    Answer {
        author: "alice".to_owned(),
        id: id.to_owned(),
        request: [7; 32],
        reply: Bytes::from_static(reply.as_bytes()),
        time,
    }
}

fn key(name: &str) -> ManagedKey {
    ManagedKey {
        name: name.to_owned(),
        tenant: "research".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        created: at(5),
        author: "alice".to_owned(),
        expires: Some(at(9_000_000_000)),
        revoked: None,
    }
}

async fn recalled(store: &dyn Store, author: &str, id: &str, now: SystemTime) -> Option<Answer> {
    store.recall(author.to_owned(), id.to_owned(), now).await.unwrap()
}

/// Runs the whole contract; `open` opens the same store again and again, and the newest `kept` revisions stay.
pub(crate) async fn holds(open: impl Fn() -> Box<dyn Store>, kept: u64) {
    let store = open();
    let store_id = a_new_store_is_empty(store.as_ref()).await;
    revisions_follow_one_another(store.as_ref()).await;
    answers_come_with_their_revision_and_grow_old(store.as_ref()).await;
    keys_are_made_once_and_revoked_for_good(store.as_ref()).await;
    store.close().await;
    assert!(matches!(store.load().await, Err(StoreFault::Unavailable(_))));

    let store = open();
    everything_is_there_after_a_restart(store.as_ref(), &store_id).await;
    old_revisions_go(store.as_ref(), kept).await;
    store.close().await;
}

async fn a_new_store_is_empty(store: &dyn Store) -> String {
    let contents = store.load().await.unwrap();
    assert_eq!((contents.newest, contents.keys, contents.keys_version), (None, Vec::new(), 0));
    assert_eq!(store.oldest().await.unwrap(), 0);
    assert_eq!(store.revision(1).await.unwrap(), None);
    assert!(store.revisions(u64::MAX, 10).await.unwrap().is_empty());
    assert!(contents.store_id.len() >= 16);
    contents.store_id
}

async fn revisions_follow_one_another(store: &dyn Store) {
    assert!(matches!(store.commit(commit(2, &[])).await, Err(StoreFault::Stale)));
    let first = commit(1, &[("pools/b", "1"), ("pools/a", "2"), ("routes/x/*", "1")]);
    store.commit(first.clone()).await.unwrap();
    assert!(matches!(store.commit(commit(1, &[])).await, Err(StoreFault::Stale)));
    assert!(matches!(store.commit(commit(3, &[])).await, Err(StoreFault::Stale)));
    store.commit(commit(2, &[])).await.unwrap();
    assert_eq!(store.revision(1).await.unwrap(), Some(first.stored.clone()));
    assert_eq!(store.revision(2).await.unwrap().unwrap().entries, []);
    let numbers = |revisions: Vec<Revision>| revisions.iter().map(|revision| revision.number).collect::<Vec<_>>();
    assert_eq!(numbers(store.revisions(u64::MAX, 10).await.unwrap()), [2, 1]);
    assert_eq!(numbers(store.revisions(2, 10).await.unwrap()), [1]);
    assert_eq!(numbers(store.revisions(u64::MAX, 1).await.unwrap()), [2]);
    assert_eq!(store.revisions(2, 1).await.unwrap(), [first.stored.revision]);
}

async fn answers_come_with_their_revision_and_grow_old(store: &dyn Store) {
    let given = answer("one", "reply", at(1000));
    let stale = Commit { answer: Some(given.clone()), ..commit(9, &[]) };
    assert!(store.commit(stale).await.is_err());
    assert_eq!(recalled(store, "alice", "one", at(1000)).await, None, "an answer without its revision");
    store.commit(Commit { answer: Some(given.clone()), ..commit(3, &[]) }).await.unwrap();
    assert_eq!(recalled(store, "alice", "one", at(1000)).await, Some(given.clone()));
    assert_eq!(recalled(store, "alice", "one", at(1000) + ANSWERS_KEPT).await, Some(given));
    assert_eq!(recalled(store, "bob", "one", at(1000)).await, None, "an answer of somebody else");
    let late = at(1001) + ANSWERS_KEPT;
    assert_eq!(recalled(store, "alice", "one", late).await, None);
    store.remember(answer("two", "other", late)).await.unwrap();
    store.remember(answer("one", "again", late)).await.unwrap();
    assert_eq!(recalled(store, "alice", "one", late).await.unwrap().reply, "again");
}

async fn keys_are_made_once_and_revoked_for_good(store: &dyn Store) {
    assert_eq!(store.add_key(key("bob")).await.unwrap(), 1);
    assert!(matches!(store.add_key(key("bob")).await, Err(StoreFault::Taken)));
    assert_eq!(store.add_key(key("ann")).await.unwrap(), 2);
    assert_eq!(store.revoke_key("bob".to_owned(), at(7)).await.unwrap(), 3);
    assert!(matches!(store.add_key(key("bob")).await, Err(StoreFault::Taken)));
}

async fn everything_is_there_after_a_restart(store: &dyn Store, store_id: &str) {
    let contents = store.load().await.unwrap();
    assert_eq!(contents.store_id, store_id);
    assert_eq!(contents.newest.unwrap().revision.number, 3);
    assert_eq!(contents.keys, [key("ann"), ManagedKey { revoked: Some(at(7)), ..key("bob") }]);
    assert_eq!(contents.keys_version, 3);
    let late = at(1001) + ANSWERS_KEPT;
    assert_eq!(recalled(store, "alice", "two", late).await.unwrap().reply, "other");
}

async fn old_revisions_go(store: &dyn Store, kept: u64) {
    for number in 4..=3 + kept {
        store.commit(commit(number, &[("pools/a", "2")])).await.unwrap();
    }
    assert_eq!(store.oldest().await.unwrap(), 4);
    assert_eq!(store.revision(3).await.unwrap(), None);
    assert_eq!(store.revision(4).await.unwrap().unwrap().entries[0].bytes, "2");
    assert_eq!(store.load().await.unwrap().newest.unwrap().revision.number, 3 + kept);
}
