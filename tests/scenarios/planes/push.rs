//! A change and its way to the workers.

use ntonix_proto::sync::v1::sync_response::Frame;
use ntonix_tests::client::{Ask, CHAT, Connection, RawConnection};
use ntonix_tests::cluster::Cluster;
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Script};
use ntonix_tests::wait::eventually;

use super::scripted::ScriptedWorker;
use super::{asked, assert_serves, to};
use crate::stage::{assert_fine, assert_refused, config};

const TENANT: &str = "tenants: [{ name: research }]";

#[tokio::test]
async fn an_apply_reaches_every_worker_and_names_each_as_it_takes_it() {
    let mock = MockLlm::start().unwrap();
    let cluster = Cluster::start().await.unwrap();
    let (one, two) = (cluster.worker("w1").await.unwrap(), cluster.worker("w2").await.unwrap());
    let (status, text) = one.page("/readyz").await.unwrap();
    assert_eq!((status, text.as_str()), (503, "no configuration yet\n"));
    let early = one.connect().await.unwrap().ask(Ask::chat()).await.unwrap();
    assert_eq!(early.status(), 503, "{}", early.text());

    let told = cluster.apply(&to(&mock)).await.unwrap();
    assert!(told.starts_with("revision 1 by local at "), "{told}");
    for line in ["  + pools/llama\n", &format!("  + routes/{MODEL}\n"), "  w1 runs it after ", "  w2 runs it after "] {
        assert!(told.contains(line), "{line:?} is missing: {told}");
    }
    for worker in [&one, &two] {
        let (status, text) = worker.page("/readyz").await.unwrap();
        assert_eq!(status, 200);
        assert!(text.contains("config_source=control-plane\nconfig_revision=1\n"), "{text}");
        assert_eq!(worker.metric("ntonix_config_revision").await.unwrap(), 1.0);
        assert_serves(worker).await;
    }
    assert_eq!(cluster.plane_metric("ntonix_control_workers_up_to_date").await.unwrap(), 2.0);
    assert_eq!(asked(&mock), 2);
}

#[tokio::test]
async fn an_apply_without_workers_succeeds_and_says_so() {
    let mock = MockLlm::start().unwrap();
    let cluster = Cluster::start().await.unwrap();
    let told = cluster.apply(&to(&mock)).await.unwrap();
    assert!(told.ends_with("  no worker is connected; those that come will take it\n"), "{told}");
    let late = cluster.worker("late").await.unwrap();
    late.runs(1).await.unwrap();
    assert_serves(&late).await;
}

#[tokio::test]
async fn a_plan_tells_what_would_change_and_changes_nothing() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let mut cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    let pushes = cluster.plane_metric("ntonix_control_pushes_total").await.unwrap();
    assert_eq!(pushes, 1.0);

    cluster.terminal().save("next.yaml", &to(&new)).unwrap();
    let told = cluster.ctl("plan -f next.yaml").await.unwrap().done().unwrap();
    assert!(told.starts_with("against revision 1\n  ~ pools/llama: backends"), "{told}");
    assert!(told.contains(&old.url()) && told.contains(&new.url()), "{told}");
    cluster.terminal().save("same.yaml", &to(&old)).unwrap();
    let told = cluster.ctl("plan -f same.yaml").await.unwrap().done().unwrap();
    assert_eq!(told, "nothing would change against revision 1\n");

    assert_eq!(cluster.plane_metric("ntonix_control_revision").await.unwrap(), 1.0);
    assert_eq!(cluster.plane_metric("ntonix_control_pushes_total").await.unwrap(), pushes);
    worker.runs(1).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (1, 0));
}

#[tokio::test]
async fn only_what_differs_is_sent_to_a_worker_that_has_the_rest() {
    let two_pools = |weight: u32, rest: &str| {
        let pool = |name: &str, weight: u32| {
            format!("{{ name: {name}, backends: [{{ name: one, url: \"http://127.0.0.1:9\", weight: {weight} }}] }}")
        };
        let route = |name: &str| format!("{{ model: {name}, targets: [{{ pool: {name} }}] }}");
        format!("pools: [{}, {}]\nroutes: [{}, {}]\n{rest}", pool("a", 1), pool("b", weight), route("a"), route("b"))
    };
    let cluster = Cluster::start().await.unwrap();
    cluster.apply(&two_pools(1, TENANT)).await.unwrap();
    let (mut worker, welcome) = ScriptedWorker::connect(cluster.sync(), None).await;
    let first = worker.transition().await;
    assert_eq!((first.base_digest.len(), Some(&first.target)), (0, welcome.target.as_ref()));
    assert_eq!(first.upserts, ["pools/a", "pools/b", "routes/a", "routes/b", "tenants/research"]);
    worker.acknowledge(&first.target).await;

    // The command waits for the worker, and the worker for what the command writes.
    let heavier = two_pools(2, "");
    let (applied, second) = tokio::join!(cluster.try_apply(&heavier, ""), async {
        let second = worker.transition().await;
        worker.acknowledge(&second.target).await;
        second
    });
    let told = applied.unwrap().done().unwrap();
    assert!(told.contains("scripted runs it"), "{told}");
    assert_eq!(second.base_digest, first.target.digest);
    assert_eq!((second.upserts, second.deletes), (vec!["pools/b".to_owned()], vec!["tenants/research".to_owned()]));

    // With the same snapshot it comes back, and hears nothing but the welcome and heartbeats.
    drop(worker);
    let pushes = cluster.plane_metric("ntonix_control_pushes_total").await.unwrap();
    let (mut again, welcome) = ScriptedWorker::connect(cluster.sync(), Some(second.target.clone())).await;
    assert_eq!(welcome.target, Some(second.target));
    assert!(matches!(again.next().await, Frame::Heartbeat(_)));
    assert_eq!(cluster.plane_metric("ntonix_control_pushes_total").await.unwrap(), pushes);
}

#[tokio::test]
async fn an_apply_that_removes_a_backend_lets_its_streams_finish() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let gate = Gate::new();
    old.always(Script::gated(4, &gate));
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    let mut stream = worker.connect().await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    gate.open(1);
    stream.until(|so_far| so_far.content() == "t0 ").await.unwrap();

    // Another name, so that it is another backend.
    cluster.apply(&to(&new).replace("gpu-0", "gpu-9")).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (1, 1));
    gate.open_for_good();
    let transcript = stream.rest().await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 t3 ", "{}", transcript.text());
    assert_eq!(old.counts().cut, 0);
}

#[tokio::test]
async fn a_request_that_began_under_the_old_revision_is_answered_under_it() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    let mut client = RawConnection::open(worker.address()).await.unwrap();
    let body = format!("{{\"model\":\"{MODEL}\",\"messages\":[]}}");
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head).await.unwrap();
    // It has begun: the worker waits for its body.
    client.read_until("HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();

    cluster.apply(&to(&new).replace("gpu-0", "gpu-9")).await.unwrap();
    assert_serves(&worker).await;
    client.send(body).await.unwrap();
    let head = client.read_until("\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!((asked(&old), asked(&new)), (1, 1));
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_every_worker_and_no_rollback_revives_it() {
    let mock = MockLlm::start().unwrap();
    let cluster = Cluster::start().await.unwrap();
    let workers = [cluster.worker("w1").await.unwrap(), cluster.worker("w2").await.unwrap()];
    cluster.apply(&config(&[&mock], "", "", TENANT)).await.unwrap();
    let key = |told: String| told.trim().to_owned();
    let alice = key(cluster.ctl("key create alice --tenant research").await.unwrap().done().unwrap());
    let bob = key(cluster.ctl("key create bob --tenant research").await.unwrap().done().unwrap());
    let mut connections: Vec<Connection> = Vec::new();
    for worker in &workers {
        let mut connection = worker.connect().await.unwrap();
        let served = async || connection.ask(Ask::chat().key(&bob)).await.unwrap().status() == 200;
        eventually("the keys have reached the worker", served).await.unwrap();
        assert_fine(&connection.ask(Ask::chat().key(&alice)).await.unwrap());
        connections.push(connection);
    }

    let told = cluster.ctl("key revoke alice").await.unwrap().done().unwrap();
    assert!(told.starts_with("key alice of tenant research is revoked since "), "{told}");
    for connection in &mut connections {
        let refused = async || connection.ask(Ask::chat().key(&alice)).await.unwrap().status() == 401;
        eventually("the key is refused on the connection that it was good on", refused).await.unwrap();
        assert_fine(&connection.ask(Ask::chat().key(&bob)).await.unwrap());
    }
    cluster.apply(&config(&[&mock], "", "retries: 1", TENANT)).await.unwrap();
    cluster.ctl("rollback 1").await.unwrap().done().unwrap();
    for (worker, connection) in workers.iter().zip(&mut connections) {
        worker.runs(3).await.unwrap();
        assert_refused(&connection.ask(Ask::chat().key(&alice)).await.unwrap(), 401, "invalid_api_key");
        assert_fine(&connection.ask(Ask::chat().key(&bob)).await.unwrap());
    }
    let list = cluster.ctl("key list").await.unwrap().done().unwrap();
    assert!(list.contains("alice") && !list.contains(&alice), "{list}");
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_old_content() {
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    cluster.apply(&to(&old)).await.unwrap();
    cluster.apply(&to(&new)).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (0, 1));

    let told = cluster.ctl("rollback 1 -m oops").await.unwrap().done().unwrap();
    assert!(told.starts_with("revision 3 by local at ") && told.contains("(rollback to 1): oops"), "{told}");
    assert!(told.contains("  ~ pools/llama: backends") && told.contains("  w1 runs it"), "{told}");
    worker.runs(3).await.unwrap();
    assert_serves(&worker).await;
    assert_eq!((asked(&old), asked(&new)), (1, 1));
    let missing = cluster.ctl("rollback 9").await.unwrap().failed(1).unwrap();
    assert!(missing.contains('9'), "{missing}");
}
