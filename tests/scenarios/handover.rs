//! A new process takes the place of the old one: nobody is refused, nothing is cut.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use ntonix_tests::certs::Authority;
use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::cluster::{Cluster, WorkerProcess};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MockLlm, Pace, Script};
use ntonix_tests::process::Process;
use ntonix_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::crowd::{Crowd, Door};
use crate::stage::{assert_fine, config};

/// Restarts in a row.
const RESTARTS: usize = 20;

/// Whoever serves now; killed when the test is over, however it ends.
struct Newest(Pid);

impl Drop for Newest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Asks the newest process for a successor, and waits until that one serves.
async fn restart(process: &Process, newest: &mut Newest, times: usize) {
    kill_process(newest.0, Signal::USR2).unwrap();
    newest.0 = pid_in(process, "\"The new process serves; this one drains\"", times).await;
}

/// The process id in the last line with `text`, of which there are so many by then.
async fn pid_in(process: &Process, text: &str, times: usize) -> Pid {
    process.logged_times(text, times).await.unwrap();
    let log = process.log();
    let last = log.lines().rfind(|line| line.contains(text)).unwrap();
    let pid = serde_json::from_str::<Value>(last).unwrap()["pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

async fn is_gone(pid: Pid) {
    eventually("the old process is gone", async || test_kill_process(pid).is_err()).await.unwrap();
}

#[tokio::test]
async fn streams_end_on_the_old_process_while_the_new_one_serves() {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let mut newest = Newest(gateway.process().id().unwrap());
    gate.open(1);
    mock.next(Script::gated(3, &gate));
    let mut stream = Connection::open(gateway.address()).await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    stream.take(2).await.unwrap();

    restart(gateway.process(), &mut newest, 1).await;
    let ask = async || Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap();
    assert_fine(&ask().await);
    // The operations port is the new one's: it is ready, not draining.
    eventually("the new process answers probes", async || {
        gateway.ops("/readyz").await.is_ok_and(|(status, _)| status == 200)
    })
    .await
    .unwrap();
    gate.open_for_good();
    assert!(stream.rest().await.unwrap().is_done());
    assert_fine(&ask().await);
    kill_process(newest.0, Signal::TERM).unwrap();
    let ended = gateway.ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[tokio::test]
async fn a_new_process_that_cannot_serve_changes_nothing() {
    let mock = MockLlm::start().unwrap();
    let authority = Authority::new().unwrap();
    let pair = authority.sign("gateway", &["localhost"]).unwrap();
    let flags = [format!("--tls-cert={}", pair.certificate.display()), format!("--tls-key={}", pair.key.display())];
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[&flags[0], &flags[1]]).await.unwrap();
    // A start without it fails; the process that runs has read it.
    let key = std::fs::read(&pair.key).unwrap();
    std::fs::remove_file(&pair.key).unwrap();
    gateway.process().signal(Signal::USR2).unwrap();
    gateway.process().logged("Not handed over; this process serves on").await.unwrap();
    assert_fine(&Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap());
    assert_eq!(gateway.ops("/readyz").await.unwrap().0, 200);

    // And it can be tried again.
    std::fs::write(&pair.key, key).unwrap();
    let mut newest = Newest(gateway.process().id().unwrap());
    restart(gateway.process(), &mut newest, 1).await;
    assert_fine(&Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap());
    kill_process(newest.0, Signal::TERM).unwrap();
    is_gone(newest.0).await;
}

#[tokio::test]
async fn the_service_manager_is_told_who_serves() {
    let mock = MockLlm::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(ntonix_tests::wait::PATIENCE)).unwrap();
    let heard = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let gateway = Gateway::start_with(&config(&[&mock], "", "", ""), &[], &variables).await.unwrap();
    let mut newest = Newest(gateway.process().id().unwrap());
    let says = |pid: Pid| format!("MAINPID={}\nREADY=1\n", pid.as_raw_nonzero());
    assert_eq!(heard(), says(newest.0));
    restart(gateway.process(), &mut newest, 1).await;
    assert_eq!(heard(), says(newest.0));
}

/// Item 84.
#[tokio::test]
async fn twenty_restarts_in_a_row_fail_no_request_and_cut_no_stream() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::Answer { tokens: 20, pace: Pace::Every(Duration::from_millis(5)) });
    let gateway = Gateway::start(&config(&[&mock], "", "retries: 0", ""), &["--drain=20s"]).await.unwrap();
    let mut newest = Newest(gateway.process().id().unwrap());
    let crowd = Crowd::gather(&Door::Plain(gateway.address()), 16);
    for times in 1..=RESTARTS {
        restart(gateway.process(), &mut newest, times).await;
        crowd.served(8).await;
    }
    crowd.leave().await.unwrap();
    assert_eq!(mock.counts().cut, 0);
    kill_process(newest.0, Signal::TERM).unwrap();
    let ended = gateway.ended().await.unwrap();
    assert_eq!(ended.log.matches("\"Worker serves\"").count(), RESTARTS + 1);
    assert!(!ended.log.contains("\"ERROR\""), "{}", ended.log);
}

#[tokio::test]
async fn a_successor_follows_the_control_plane_in_the_place_of_the_old_process() {
    let mock = MockLlm::start().unwrap();
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    let draft = |streams: u32| config(&[&mock], "", "", &format!("limits: {{ streams: {streams} }}"));
    cluster.apply(&draft(100)).await.unwrap();
    let mut newest = Newest(worker.process().id().unwrap());
    let old = newest.0;
    restart(worker.process(), &mut newest, 1).await;
    let told = cluster.apply(&draft(200)).await.unwrap();
    assert_eq!(told.matches("  w1 runs it after ").count(), 1, "{told}");
    worker.runs(2).await.unwrap();
    assert_fine(&worker.connect().await.unwrap().ask(Ask::chat()).await.unwrap());
    assert_ne!(old, newest.0);
    let workers = cluster.ctl("workers").await.unwrap().done().unwrap();
    assert_eq!(workers.matches("w1").count(), 1, "{workers}");
}

/// A worker whose successor has no configuration: none is kept, and the control plane is away. Its process id.
async fn waiting_successor(cluster: &mut Cluster, worker: &WorkerProcess) -> Newest {
    for file in std::fs::read_dir(cluster.state_of("w1")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    cluster.kill_plane().await.unwrap();
    worker.process().signal(Signal::USR2).unwrap();
    Newest(pid_in(worker.process(), "\"The new process starts\"", 1).await)
}

#[tokio::test]
async fn a_successor_without_a_configuration_serves_nobody_and_can_be_told_to_end() {
    let mock = MockLlm::start().unwrap();
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&config(&[&mock], "", "", "")).await.unwrap();
    let successor = waiting_successor(&mut cluster, &worker).await;
    worker.process().logged("No configuration on disk").await.unwrap();
    for _ in 0..50 {
        // Both could accept; the one that has no configuration must not.
        assert_fine(&worker.connect().await.unwrap().ask(Ask::chat()).await.unwrap());
        assert_eq!(worker.page("/readyz").await.unwrap().0, 200);
    }
    kill_process(successor.0, Signal::TERM).unwrap();
    worker.process().logged("Not handed over; this process serves on").await.unwrap();
    assert_fine(&worker.connect().await.unwrap().ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_process_that_is_told_to_end_takes_the_successor_that_it_waits_for_with_it() {
    let mock = MockLlm::start().unwrap();
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&config(&[&mock], "", "", "")).await.unwrap();
    let successor = waiting_successor(&mut cluster, &worker).await;
    worker.process().signal(Signal::TERM).unwrap();
    is_gone(successor.0).await;
    let ended = worker.ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}
