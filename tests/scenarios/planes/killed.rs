//! The control plane dies in the middle of its writes: what it acknowledged is there, and nothing is half there.

use std::time::Duration;

use ntonix_fuzz::{Rng, Seed};
use ntonix_tests::cluster::Cluster;
use ntonix_tests::sandbox;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::books::Operator;

/// How often it is killed.
const KILLS: usize = 200;
/// More often than any of the calls is made in a start, a write and an end.
const CALLS_MOST: usize = 200;
/// The system calls by which a write reaches the disk.
const CALLS: [&str; 4] = ["pwrite64", "fsync", "ftruncate", "unlink"];
/// Syncs of three writes, and of the directory.
const SYNCS: usize = 4;
/// What it is when the disk does not do what it was told.
const BROKEN: &str = "The store is broken";

/// Writes with all there is until the control plane is gone.
async fn write_until_gone(operator: &Operator) {
    let applies = async { while operator.apply().await.is_ok() {} };
    let creates = async { while operator.create().await.is_ok() {} };
    let revokes = async { while operator.create().await.is_ok() && operator.revoke().await.is_ok() {} };
    tokio::join!(applies, creates, revokes);
}

/// A write of each kind, until one fails; whether all went well.
async fn write_once(operator: &Operator) -> bool {
    operator.apply().await.is_ok() && operator.create().await.is_ok() && operator.revoke().await.is_ok()
}

/// Kills it after some acknowledgements and some time.
async fn kill(cluster: &mut Cluster, operator: &Operator, rng: &mut Rng) {
    operator.acknowledged_further(rng.usize(0..8)).await;
    // Not to wait for anything: a moment that nobody chose is what is tested.
    sleep(Duration::from_micros(rng.u64(0..6_000))).await;
    cluster.kill_plane().await.unwrap();
}

#[tokio::test]
async fn two_hundred_kills_lose_no_acknowledged_write_and_leave_none_half_done() {
    // Row P11, item 43.
    let seed = Seed::pick();
    let mut rng = seed.rng();
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    let mut operator = Operator::new(&cluster);
    let mut slowest = Duration::ZERO;
    for _ in 0..KILLS {
        tokio::join!(write_until_gone(&operator), kill(&mut cluster, &operator, &mut rng));
        let begun = Instant::now();
        cluster.start_plane().await.unwrap();
        slowest = slowest.max(begun.elapsed());
        operator.compare(&cluster).await;
    }
    let acknowledged = operator.acknowledged();
    assert!(acknowledged > 3 * KILLS, "only {acknowledged} writes in all");
    println!("seed {}: {KILLS} kills, {acknowledged} acknowledged writes, restart {slowest:?} at most", seed.number());
    // The worker finds its way back through all of that.
    let newest = cluster.plane_metric("ntonix_control_revision").await.unwrap();
    worker.runs(newest as u64).await.unwrap();
}

#[tokio::test]
async fn killed_at_each_call_that_writes_it_loses_nothing() {
    // Item 44. The calls are those of the program as it is shipped: when it makes its store, in each kind of write, and
    // when it puts the log back into the database as it ends.
    let mut killed = 0;
    for call in CALLS {
        let mut cluster = Cluster::without_plane().unwrap();
        let mut operator = Operator::new(&cluster);
        for number in 1..=CALLS_MOST {
            assert!(number < CALLS_MOST, "{call} is made without end, or no start succeeds any more");
            let Some(wrapper) = sandbox::failing_calls(&format!("{call}:signal=KILL:when={number}")) else { return };
            cluster.wrap_plane(&wrapper);
            if let Err(error) = cluster.start_plane().await {
                // Killed, it says nothing; what fails by itself says why.
                let error = format!("{error:#}");
                assert!(!error.contains("\"ERROR\""), "not killed, but broken: {error}");
                killed += 1;
                continue;
            }
            operator.compare(&cluster).await;
            if write_once(&operator).await {
                cluster.signal_plane(Signal::TERM).unwrap();
            }
            let ended = cluster.plane_ended().await.unwrap();
            if ended.status.success() {
                break;
            }
            killed += 1;
        }
        cluster.wrap_plane(&[]);
        cluster.start_plane().await.unwrap();
        operator.compare(&cluster).await;
    }
    println!("killed at {killed} calls");
    assert!(killed > 30, "each write makes many calls: killed at {killed}");
}

#[tokio::test]
async fn a_sync_that_fails_is_not_acknowledged_and_ends_it_while_workers_serve_on() {
    // Row P13, item 45.
    let mut failed = 0;
    for number in 1..=SYNCS {
        let mut cluster = Cluster::start().await.unwrap();
        let mut operator = Operator::new(&cluster);
        operator.apply().await.unwrap();
        let worker = cluster.worker("w1").await.unwrap();
        cluster.kill_plane().await.unwrap();
        let Some(wrapper) = sandbox::failing_calls(&format!("fsync:error=EIO:when={number}")) else { return };
        cluster.wrap_plane(&wrapper);
        cluster.start_plane().await.unwrap();
        if write_once(&operator).await {
            // That one was of the directory, in which the log is new: SQLite does not ask how it went.
            continue;
        }
        failed += 1;
        let ended = cluster.plane_ended().await.unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains(BROKEN), "{}", ended.log);
        worker.process().logged("Not connected; what runs runs on").await.unwrap();
        assert_eq!(worker.page("/readyz").await.unwrap().0, 200);
        cluster.wrap_plane(&[]);
        cluster.start_plane().await.unwrap();
        operator.compare(&cluster).await;
    }
    assert_eq!(failed, SYNCS - 1, "each write is synced");
}
