//! What is left of the files after a crash, at every point of a commit: each write is there whole or not at all.
//!
//! In WAL mode a transaction reaches the disk as frames appended to the log, then one sync, and only then is it
//! acknowledged. So a fresh log cut off at any byte is what a crash at any point of the commit path leaves behind; one that
//! is written over from its beginning has old frames behind the new ones, and is not made here.

use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::super::contract::{self, at};
use super::*;
use crate::store::Answer;

const LOG: &str = "control-plane.sqlite-wal";
/// What SQLite writes before each page of the log, and the page.
const FRAME: usize = 24 + 4096;

/// All that a store says of itself.
#[derive(Debug, PartialEq)]
struct Seen {
    newest: Option<Stored>,
    revisions: Vec<Revision>,
    keys: Vec<ManagedKey>,
    keys_version: u64,
    answer: Option<Answer>,
}

async fn seen(store: &Sqlite) -> Result<Seen, StoreFault> {
    let contents = store.load().await?;
    Ok(Seen {
        newest: contents.newest,
        revisions: store.revisions(u64::MAX, 100).await?,
        keys: contents.keys,
        keys_version: contents.keys_version,
        answer: store.recall("alice".to_owned(), "again".to_owned(), at(2000)).await?,
    })
}

/// Opens what a crash has left, looks, and lets go.
async fn after_crash(files: &[(&str, &[u8])]) -> Result<Seen, StoreFault> {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let store = Sqlite::open(directory.path(), 3)?;
    let seen = seen(&store).await;
    store.close().await;
    seen
}

fn answer() -> Answer {
    Answer {
        author: "alice".to_owned(),
        id: "again".to_owned(),
        request: [7; 32],
        reply: Bytes::from_static(b"the answer"),
        time: at(1500),
    }
}

fn key(name: &str) -> ManagedKey {
    ManagedKey {
        name: name.to_owned(),
        tenant: "research".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        created: at(5),
        author: "alice".to_owned(),
        expires: None,
        revoked: None,
    }
}

/// A store with three revisions and two keys; the fourth revision pushes the first one out.
async fn filled(directory: &Path) -> Sqlite {
    let store = Sqlite::open(directory, 3).unwrap();
    for number in 1..=3 {
        let content = format!("content {number}");
        store.commit(contract::commit(number, &[("pools/a", &content), ("pools/b", "same")])).await.unwrap();
    }
    store.add_key(key("ann")).await.unwrap();
    store.add_key(key("bob")).await.unwrap();
    store
}

/// Each kind of write, by its name.
async fn write(store: &Sqlite, kind: &str) {
    match kind {
        "commit" => {
            let large = "x".repeat(20_000);
            let commit = contract::commit(4, &[("pools/a", &large), ("pools/b", "same")]);
            store.commit(Commit { answer: Some(answer()), ..commit }).await.unwrap();
        }
        "remember" => store.remember(answer()).await.unwrap(),
        "add key" => drop(store.add_key(key("eve")).await.unwrap()),
        "revoke key" => drop(store.revoke_key("bob".to_owned(), at(9)).await.unwrap()),
        other => panic!("no such write: {other}"),
    }
}

/// Places to cut `log` at: around the edge of each frame, in its header and inside of its page.
fn cuts(from: usize, log: usize) -> impl Iterator<Item = usize> {
    let inside = [0, 1, 8, 23, 24, 25, 24 + 2048, FRAME - 1];
    (from..log).step_by(FRAME).flat_map(move |frame| inside.map(|at| frame + at)).chain([log])
}

#[tokio::test]
async fn wherever_the_log_is_cut_a_write_is_there_whole_or_not_at_all() {
    // Row P11, items 43 and 44.
    for kind in ["commit", "remember", "add key", "revoke key"] {
        let directory = tempfile::tempdir().unwrap();
        let store = filled(directory.path()).await;
        let path = |name: &str| directory.path().join(name);
        let (before, from) = (seen(&store).await.unwrap(), fs::read(path(LOG)).unwrap().len());
        write(&store, kind).await;
        let (after, log) = (seen(&store).await.unwrap(), fs::read(path(LOG)).unwrap());
        let database = fs::read(path(DATABASE)).unwrap();
        assert!(before != after && from < log.len(), "{kind}");
        for cut in cuts(from, log.len()) {
            let left = after_crash(&[(DATABASE, &database), (LOG, &log[..cut])]).await.unwrap();
            let expected = if cut == log.len() { &after } else { &before };
            assert_eq!(&left, expected, "{kind}, cut at {cut} of {}", log.len());
        }
        store.close().await;
    }
}
