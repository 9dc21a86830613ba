use ntonix_config::snapshot_digest;
use ntonix_proto::sync::v1::{Heartbeat, Welcome, sync_response::Frame};

use super::*;

fn entry(name: &str, content: &str) -> Entry {
    Entry { name: name.to_owned(), resource: content.to_owned().into_bytes().into() }
}

fn snapshot(revision: u64, entries: &[Entry]) -> Snapshot {
    let digest = snapshot_digest(entries.iter().map(|entry| (entry.name.as_str(), &entry.resource[..])));
    let digest = digest.to_vec().into();
    let id = SnapshotId { store_id: "s".into(), revision, keys_version: 0, digest };
    Snapshot { id, entries: entries.to_vec() }
}

fn frame(frame: Frame) -> SyncResponse {
    SyncResponse { frame: Some(frame) }
}

/// A session that runs `running` and was welcomed.
fn welcomed(running: Option<&Snapshot>) -> Session {
    let mut session = Session::new(running.cloned());
    session.take(frame(Frame::Welcome(Welcome::default())));
    session
}

fn begin(base: Option<&Snapshot>, target: &Snapshot) -> SyncResponse {
    let base_digest = base.map(|base| base.id.digest.clone()).unwrap_or_default();
    frame(Frame::Begin(Begin { base_digest, target: Some(target.id.clone()) }))
}

fn chunk(upserts: &[Entry], deletes: &[&str]) -> SyncResponse {
    let deletes = deletes.iter().map(ToString::to_string).collect();
    frame(Frame::Chunk(Chunk { upserts: upserts.to_vec(), deletes }))
}

fn commit(target: &Snapshot, order: &[&str]) -> SyncResponse {
    let order = order.iter().map(ToString::to_string).collect();
    frame(Frame::Commit(Commit { target: Some(target.id.clone()), order }))
}

fn is_resync(action: &Action) -> bool {
    matches!(action, Action::Send(SyncRequest { frame: Some(sync_request::Frame::Resync(_)) }))
}

#[test]
fn a_stream_begins_with_one_welcome() {
    let mut session = Session::new(None);
    assert!(matches!(session.take(frame(Frame::Heartbeat(Heartbeat::default()))), Action::End(_)));
    let mut session = welcomed(None);
    assert!(matches!(session.take(frame(Frame::Welcome(Welcome::default()))), Action::End(_)));
}

#[test]
fn a_welcome_with_the_digest_that_runs_says_up_to_date() {
    let running = snapshot(3, &[entry("pools/a", "1")]);
    let welcome = |target: &Snapshot| {
        let mut session = Session::new(Some(running.clone()));
        session.take(frame(Frame::Welcome(Welcome { target: Some(target.id.clone()), heartbeat_interval: None })))
    };
    assert_eq!(welcome(&running), Action::Welcome { heartbeat: HEARTBEAT, up_to_date: true });
    let other = snapshot(4, &[entry("pools/a", "2")]);
    assert_eq!(welcome(&other), Action::Welcome { heartbeat: HEARTBEAT, up_to_date: false });
}

/// A stream that is dead is missed after three of them: one that is too long would hold it for hours.
#[test]
fn an_interval_that_is_no_help_is_not_taken_over() {
    for (seconds, nanos, heartbeat) in [
        (7, 0, Duration::from_secs(7)),
        (60, 0, Duration::from_secs(60)),
        (0, 0, HEARTBEAT),
        (-1, 0, HEARTBEAT),
        (60, 1, HEARTBEAT_MOST),
        (i64::MAX, 0, HEARTBEAT_MOST),
    ] {
        let heartbeat_interval = Some(prost_types::Duration { seconds, nanos });
        let taken = Session::new(None).take(frame(Frame::Welcome(Welcome { target: None, heartbeat_interval })));
        assert!(
            matches!(taken, Action::Welcome { heartbeat: taken, .. } if taken == heartbeat),
            "{seconds}: {taken:?}"
        );
    }
}

#[test]
fn a_transition_changes_adds_and_removes() {
    let base = snapshot(1, &[entry("pools/a", "1"), entry("pools/b", "1"), entry("routes/c", "1")]);
    let target = snapshot(2, &[entry("pools/a", "1"), entry("routes/c", "2"), entry("tenants/d", "1")]);
    let mut session = welcomed(Some(&base));
    assert_eq!(session.take(begin(Some(&base), &target)), Action::Nothing);
    assert_eq!(session.take(chunk(&[entry("routes/c", "2")], &["pools/b"])), Action::Nothing);
    assert_eq!(session.take(chunk(&[entry("tenants/d", "1")], &[])), Action::Nothing);
    assert_eq!(session.take(commit(&target, &[])), Action::Run(target.clone()));
    session.ran(target.clone());
    assert_eq!(session.running(), Some(&target));
}

#[test]
fn an_order_is_kept_and_one_that_does_not_fit_is_refused() {
    let base = snapshot(1, &[entry("routes/a", "1"), entry("routes/b", "1")]);
    let target = snapshot(2, &[entry("routes/b", "1"), entry("routes/a", "1")]);
    for (order, runs) in
        [(&["routes/b", "routes/a"][..], true), (&["routes/b"], false), (&["routes/b", "routes/x"], false)]
    {
        let mut session = welcomed(Some(&base));
        session.take(begin(Some(&base), &target));
        let action = session.take(commit(&target, order));
        if runs { assert_eq!(action, Action::Run(target.clone())) } else { assert!(is_resync(&action)) }
    }
}

#[test]
fn what_does_not_fit_or_does_not_add_up_asks_for_everything() {
    let (base, other) = (snapshot(1, &[entry("pools/a", "1")]), snapshot(2, &[entry("pools/a", "2")]));
    // It begins elsewhere: the rest of the transition is passed over.
    let mut session = welcomed(Some(&base));
    assert!(is_resync(&session.take(begin(Some(&other), &other))));
    assert_eq!(session.take(chunk(&[entry("pools/a", "2")], &[])), Action::Nothing);
    assert_eq!(session.take(commit(&other, &[])), Action::Nothing);
    // A chunk was lost: the digest shows it.
    session.take(begin(Some(&base), &other));
    assert!(is_resync(&session.take(commit(&other, &[]))));
    // Everything, from nothing.
    session.take(begin(None, &other));
    session.take(chunk(&[entry("pools/a", "2")], &[]));
    assert_eq!(session.take(commit(&other, &[])), Action::Run(other));
}

#[test]
fn a_new_transition_replaces_one_that_was_not_committed() {
    let (first, second) = (snapshot(1, &[entry("pools/a", "1")]), snapshot(2, &[entry("pools/b", "1")]));
    let mut session = welcomed(None);
    session.take(begin(None, &first));
    session.take(chunk(&first.entries, &[]));
    session.take(begin(None, &second));
    session.take(chunk(&second.entries, &[]));
    assert_eq!(session.take(commit(&second, &[])), Action::Run(second));
}
