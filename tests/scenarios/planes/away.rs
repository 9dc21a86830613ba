//! The control plane gone, in every way: workers serve what they have, say how old it is, and take up where they were.

use std::fs;

use ntonix_tests::client::Ask;
use ntonix_tests::cluster::{Cluster, WorkerProcess};
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use ntonix_tests::wait::eventually;
use serde_json::Value;

use super::{asked, assert_serves, to};
use crate::stage::config;

/// The files of a worker's last good configuration and of the one before.
const NEWEST: &str = "worker-last-good.bin";
const BEFORE: &str = "worker-last-good.before.bin";

/// A number after `name=` on a line of `/readyz`.
async fn readyz(worker: &WorkerProcess, name: &str) -> u64 {
    let (status, text) = worker.page("/readyz").await.unwrap();
    assert_eq!(status, 200, "{text}");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap().parse().unwrap()
}

/// The first line of a worker's log.
fn first_line(worker: &WorkerProcess) -> Value {
    let log = worker.process().log();
    serde_json::from_str(log.lines().next().unwrap()).unwrap()
}

#[tokio::test]
async fn streams_go_on_and_new_ones_start_while_the_control_plane_is_gone() {
    let mock = MockLlm::start().unwrap();
    let gate = Gate::new();
    mock.next(Script::gated(3, &gate));
    let mut cluster = Cluster::start().await.unwrap();
    let workers = [cluster.worker("w1").await.unwrap(), cluster.worker("w2").await.unwrap()];
    cluster.apply(&to(&mock)).await.unwrap();
    let mut stream = workers[0].connect().await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    gate.open(1);
    stream.until(|so_far| so_far.content() == "t0 ").await.unwrap();

    cluster.kill_plane().await.unwrap();
    for worker in &workers {
        worker.process().logged("Not connected; what runs runs on").await.unwrap();
        let new = worker.connect().await.unwrap().transcript(Ask::streamed_chat()).await.unwrap();
        assert!(new.is_done(), "{}", new.text());
        assert_eq!(readyz(worker, "config_revision").await, 1);
    }
    gate.open_for_good();
    let transcript = stream.rest().await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 ", "{}", transcript.text());

    cluster.start_plane().await.unwrap();
    for worker in &workers {
        worker.connected(2).await.unwrap();
    }
    // They run what is newest, and so are sent nothing.
    assert_eq!(cluster.plane_metric("ntonix_control_workers_up_to_date").await.unwrap(), 2.0);
    assert_eq!(cluster.plane_metric("ntonix_control_pushes_total").await.unwrap(), 0.0);
    let table = cluster.ctl("workers").await.unwrap().done().unwrap();
    assert_eq!(table.matches("up to date").count(), 2, "{table}");
}

#[tokio::test]
async fn a_worker_that_starts_alone_serves_its_last_good_revision_and_says_how_old_it_is() {
    let mock = MockLlm::start().unwrap();
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&mock)).await.unwrap();
    let aged = async || readyz(&worker, "config_age_seconds").await >= 1;
    eventually("the configuration is a second old", aged).await.unwrap();
    worker.kill().await.unwrap();
    cluster.kill_plane().await.unwrap();

    let worker = cluster.worker_with("w1", &[], &[]).await.unwrap();
    assert_serves(&worker).await;
    let line = first_line(&worker);
    assert_eq!((&line["message"], &line["config.source"]), (&"Configuration runs".into(), &"Disk".into()), "{line}");
    // Its age counts from when it came, not from this start.
    assert!(line["config.revision"] == 1 && line["config.age_seconds"].as_u64() >= Some(1), "{line}");
    let (_, text) = worker.page("/readyz").await.unwrap();
    assert!(text.contains("config_source=disk\nconfig_revision=1\n"), "{text}");
    assert!(readyz(&worker, "config_age_seconds").await >= 1);
    assert!(worker.metric("ntonix_config_age_seconds").await.unwrap() >= 1.0);
    assert_eq!(worker.metric("ntonix_config_revision").await.unwrap(), 1.0);

    cluster.start_plane().await.unwrap();
    worker.connected(1).await.unwrap();
    let (_, text) = worker.page("/readyz").await.unwrap();
    assert!(text.contains("config_source=control-plane\nconfig_revision=1\n"), "{text}");
    assert_eq!(cluster.plane_metric("ntonix_control_pushes_total").await.unwrap(), 0.0);
    assert_eq!(asked(&mock), 1);
}

#[tokio::test]
async fn a_damaged_last_good_file_is_told_and_the_one_before_is_served() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    cluster.apply(&to(&new)).await.unwrap();
    worker.kill().await.unwrap();
    cluster.kill_plane().await.unwrap();
    let file = |name: &str| cluster.state_of("w1").join(name);
    let damage = |name: &str, place: usize| {
        let mut bytes = fs::read(file(name)).unwrap();
        bytes[place] ^= 1;
        fs::write(file(name), bytes).unwrap();
    };

    // Row P14, item 48: the format's mark, the content, the checksum. Every byte of it is flipped beside the code.
    let length = fs::read(file(NEWEST)).unwrap().len();
    for (starts, place) in (1..).zip([0, 20, length / 2, length - 1]) {
        damage(NEWEST, place);
        let worker = cluster.worker_with("w1", &[], &[]).await.unwrap();
        let line = first_line(&worker);
        assert_eq!(line["message"], "A kept configuration is refused", "{line}");
        assert_eq!(line["file"], file(NEWEST).display().to_string());
        let used = worker.process().log_line("The configuration kept before it is used").await.unwrap();
        assert_eq!((&used["file"], &used["config.revision"]), (&file(BEFORE).display().to_string().into(), &1.into()));
        assert_eq!(readyz(&worker, "config_revision").await, 1);
        assert_serves(&worker).await;
        assert_eq!((asked(&old), asked(&new)), (starts, 0));
        worker.kill().await.unwrap();
        damage(NEWEST, place);
    }

    damage(NEWEST, length / 2);
    damage(BEFORE, length / 2);
    let starts = asked(&old);
    let worker = cluster.worker_with("w1", &[], &[]).await.unwrap();
    assert_eq!(worker.process().log().matches("A kept configuration is refused").count(), 2);
    let (status, text) = worker.page("/readyz").await.unwrap();
    assert_eq!((status, text.as_str()), (503, "no configuration yet\n"));
    cluster.start_plane().await.unwrap();
    worker.runs(2).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (starts, 1));
}

#[tokio::test]
async fn a_worker_that_was_away_is_sent_what_it_missed() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&config(&[&old], "", "", "")).await.unwrap();
    worker.kill().await.unwrap();
    cluster.apply(&config(&[&new], "", "", "")).await.unwrap();
    // Also over a restart of the control plane, which then knows the base only from its store.
    cluster.kill_plane().await.unwrap();
    cluster.start_plane().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    worker.runs(2).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (0, 1));
    assert_eq!(cluster.plane_metric("ntonix_control_pushes_total").await.unwrap(), 1.0);
}
