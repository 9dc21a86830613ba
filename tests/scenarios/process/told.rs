//! What the log tells of what no access line has.

use ntonix_tests::client::{Ask, Connection, MODELS};
use ntonix_tests::cluster::Cluster;
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use rustix::process::Signal;
use serde_json::json;

use crate::stage::{assert_fine, assert_refused, config};

#[tokio::test]
async fn why_an_attempt_failed_is_told_although_another_backend_answered() {
    let (bad, good) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    bad.always(Script::status(503, "full"));
    let pool = "balance: weighted-round-robin, breaker: { failures: 1 }";
    let config = config(&[&bad, &good], pool, "retries: 1", "");
    let gateway = Gateway::start(&config, &["--log-level=ntonix_data_plane=debug"]).await.unwrap();
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    while bad.counts().attempts == 0 {
        assert_fine(&connection.ask(Ask::chat().header("x-request-id", "asked-twice")).await.unwrap());
    }
    let failed = gateway.process().log_line("Attempt failed").await.unwrap();
    assert_eq!((&failed["exchange.id"], &failed["level"]), (&json!("asked-twice"), &json!("DEBUG")), "{failed}");
    let opened = gateway.process().log_line("Breaker opened").await.unwrap();
    for line in [failed, opened] {
        assert_eq!(line["error"], "the backend answered 503", "{line}");
        assert_eq!((&line["pool.name"], &line["backend.name"]), (&json!("llama"), &json!("gpu-0")), "{line}");
    }
}

#[tokio::test]
async fn who_shows_a_wrong_key_for_the_models_is_told_and_counted() {
    let mock = MockLlm::start().unwrap();
    let config = config(&[&mock], "", "", "tenants: [{ name: research }]");
    let gateway = Gateway::start(&config, &["--log-level=ntonix_data_plane=debug"]).await.unwrap();
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    assert_refused(&connection.ask(Ask::get(MODELS).key("ntx_wrong")).await.unwrap(), 401, "invalid_api_key");
    assert_refused(&connection.ask(Ask::get("/v1/nothing")).await.unwrap(), 404, "not_found");
    let line = gateway.process().log_line("Request refused").await.unwrap();
    assert_eq!((&line["code"], &line["level"]), (&json!("invalid_api_key"), &json!("DEBUG")), "{line}");
    assert!(line["client.addr"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    for code in ["invalid_api_key", "not_found"] {
        let sample = format!("ntonix_requests_refused_total{{code=\"{code}\"}}");
        assert_eq!(gateway.metric(&sample).await.unwrap(), 1.0, "{sample}");
    }
}

#[tokio::test]
async fn the_last_line_of_a_process_tells_what_it_has_cut() {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    mock.always(Script::gated(3, &gate));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    gate.open(1);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        streams.push(connection.stream(Ask::streamed_chat()).await.unwrap());
    }
    gateway.process().signal(Signal::TERM).unwrap();
    gateway.process().logged("\"Drain begins\"").await.unwrap();
    gateway.process().signal(Signal::TERM).unwrap();
    let ended = gateway.ended().await.unwrap();
    let last: serde_json::Value = serde_json::from_str(ended.log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["message"], &last["connections_cut"]), (&json!("Drained, exits"), &json!(3)), "{}", ended.log);
}

#[tokio::test]
async fn a_worker_that_needs_no_keys_any_more_warns_of_it() {
    let mock = MockLlm::start().unwrap();
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    let closed = config(&[&mock], "", "", "tenants: [{ name: research }]");
    for (revision, text, level, access) in [
        (1, &closed, "INFO", None),
        (2, &config(&[&mock], "", "", ""), "WARN", Some("open: no keys are configured; only loopback listeners serve")),
        (3, &closed, "INFO", Some("keys are required")),
    ] {
        cluster.apply(text).await.unwrap();
        worker.process().logged_times("\"Revision runs\"", revision).await.unwrap();
        let log = worker.process().log();
        let line = log.lines().rfind(|line| line.contains("\"Revision runs\"")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((line["level"].as_str(), line["access"].as_str()), (Some(level), access), "{line}");
    }
}
