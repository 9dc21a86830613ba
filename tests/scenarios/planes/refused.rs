//! A revision that one worker cannot run: it is told who and why, and what ran before runs on there.

use ntonix_tests::client::CHAT;
use ntonix_tests::cluster::Cluster;
use ntonix_tests::mock_llm::MockLlm;

use super::{asked, assert_serves, to};
use crate::stage::config;

/// A variable that only one worker has.
const VARIABLE: &str = "SCENARIO_BACKEND_KEY";

#[tokio::test]
async fn a_worker_without_the_secret_refuses_and_is_named_with_its_reason() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let cluster = Cluster::start().await.unwrap();
    let rich = cluster.worker_with("rich", &[], &[(VARIABLE, "sk-backend")]).await.unwrap();
    let poor = cluster.worker("poor").await.unwrap();
    rich.connected(1).await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();

    let secret = format!("secrets: [{{ name: backend-key, from: {{ env: {VARIABLE} }} }}]");
    let with_secret = config(&[&new], "credential: { secret: backend-key }", "", &secret);
    let applied = cluster.try_apply(&with_secret, "").await.unwrap().exited(1).unwrap();
    let why = format!("secrets[0].from: the environment variable {VARIABLE} is not set on this worker");
    assert!(applied.output.contains(&format!("  poor refuses it\n    {why}\n")), "{}", applied.output);
    assert!(applied.output.contains("  rich runs it"), "{}", applied.output);
    let last = "ntonixctl: revision 2 is refused by poor; what ran before goes on running there\n";
    assert_eq!(applied.complaints, last);

    let table = cluster.ctl("workers").await.unwrap().done().unwrap();
    assert!(table.contains("refused 2") && table.ends_with(&format!("\npoor\n  {why}\n")), "{table}");
    let one = cluster.ctl("workers rich").await.unwrap().done().unwrap();
    assert!(one.contains("up to date") && !one.contains("poor"), "{one}");
    let log = cluster.plane_log().unwrap();
    let refusals: Vec<&str> = log.lines().filter(|line| line.contains("Worker refuses")).collect();
    assert!(refusals.len() == 1 && refusals[0].contains("poor") && refusals[0].contains(VARIABLE), "{refusals:?}");
    assert_eq!(cluster.plane_metric("ntonix_control_nacks_total").await.unwrap(), 1.0);
    assert_eq!(poor.metric("ntonix_config_refused_total").await.unwrap(), 1.0);
    let line = poor.process().log_line("Revision refused, the one before runs on").await.unwrap();
    assert_eq!(format!("{}: {}", line["path"], line["fault.reason"]).replace('"', ""), why, "{line}");
    poor.runs(1).await.unwrap();
    assert_serves(&poor).await;
    rich.runs(2).await.unwrap();
    assert_serves(&rich).await;
    assert_eq!((asked(&old), asked(&new)), (1, 1));
    let chat = new.requests().into_iter().find(|request| request.path == CHAT).unwrap();
    assert_eq!(chat.headers["authorization"], "Bearer sk-backend");

    // The next one that it can run clears it.
    let told = cluster.apply(&to(&new)).await.unwrap();
    assert!(told.contains("  poor runs it") && told.contains("  rich runs it"), "{told}");
    let table = cluster.ctl("workers").await.unwrap().done().unwrap();
    assert!(table.matches("up to date").count() == 2 && !table.contains(VARIABLE), "{table}");
    assert_serves(&poor).await;
    assert_eq!(asked(&new), 2);
}

#[tokio::test]
async fn a_worker_that_refused_the_newest_revision_keeps_the_one_before_over_a_restart() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    let secrets = "secrets: [{ name: k, from: { file: no/such/file } }]";
    let bad = config(&[&new], "credential: { secret: k }", "", secrets);
    let applied = cluster.try_apply(&bad, "").await.unwrap().exited(1).unwrap();
    assert!(applied.output.contains("secrets[0].from: cannot read "), "{}", applied.output);
    assert!(applied.output.contains("no/such/file"), "{}", applied.output);
    worker.kill().await.unwrap();

    let worker = cluster.worker("w1").await.unwrap();
    worker.process().logged("Revision refused, the one before runs on").await.unwrap();
    worker.runs(1).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (1, 0));
}
