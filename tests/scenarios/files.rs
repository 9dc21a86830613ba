//! A configuration that a file owns: read at the start, when it is saved, and on SIGHUP.

use std::fs;

use ntonix_config::KeyDigest;
use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::gateway::{Gateway, PROGRAM};
use ntonix_tests::mock_llm::{Gate, MockLlm, Script};
use ntonix_tests::process::Process;
use ntonix_tests::wait::eventually;
use rustix::process::Signal;

use crate::stage::{assert_fine, assert_refused, config};

/// What is said of each fault of a file that is saved.
const REFUSED: &str = "Configuration refused, the one before runs on";
/// Six things are wrong with it.
const BAD: &str = "\
pools:
  - name: llama
    backends:
      - { name: a, url: \"ftp://nowhere\" }
      - { name: a, url: \"http://127.0.0.1:1\", wieght: 2 }
    health: { every: -5s }
routes:
  - model: \"bad[glob\"
    targets: [{ pool: lama }]
  - model: m
    targets: [{ pool: llama, weight: 0 }]
";

async fn serves(gateway: &Gateway, model: &str) -> bool {
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    connection.ask(Ask::get(&format!("/v1/models/{model}"))).await.unwrap().status() == 200
}

#[tokio::test]
async fn saving_it_applies_it_and_cuts_no_stream() {
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    mock.next(Script::gated(1, &gate));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let mut stream = Connection::open(gateway.address()).await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    stream.take(1).await.unwrap();
    fs::write(gateway.file(), config(&[&mock], "", "aliases: [saved]", "")).unwrap();
    eventually("what was saved is served", async || serves(&gateway, "saved").await).await.unwrap();
    gate.open(1);
    assert!(stream.rest().await.unwrap().is_done());
}

#[tokio::test]
async fn a_hangup_applies_it_at_once() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    gateway.process().signal(Signal::HUP).unwrap();
    gateway.process().logged("Configuration applied").await.unwrap();
    fs::write(gateway.file(), config(&[&mock], "", "aliases: [hung-up]", "")).unwrap();
    gateway.process().signal(Signal::HUP).unwrap();
    eventually("it is served", async || serves(&gateway, "hung-up").await).await.unwrap();
}

#[tokio::test]
async fn a_bad_one_is_refused_with_every_fault_and_the_old_one_runs_on() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    fs::write(gateway.file(), BAD).unwrap();
    gateway.process().logged_times(REFUSED, 6).await.unwrap();
    gateway.process().logged("did you mean").await.unwrap();
    let log = gateway.process().log();
    let faults = log.lines().filter(|line| line.contains(REFUSED));
    let faults = faults.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["error"].to_string());
    let joined: Vec<_> = faults.filter(|fault| fault.contains("\\n")).collect();
    assert!(joined.is_empty(), "each has a line of its own: {joined:?}");
    assert_fine(&Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap());

    fs::remove_file(gateway.file()).unwrap();
    gateway.process().logged("cannot read").await.unwrap();
    assert_fine(&Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap());

    fs::write(gateway.file(), config(&[&mock], "", "aliases: [better]", "")).unwrap();
    eventually("a good one is taken again", async || serves(&gateway, "better").await).await.unwrap();
}

#[tokio::test]
async fn a_start_with_a_bad_one_names_every_fault_and_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    let flags = ["--listen=127.0.0.1:0", "--ops=127.0.0.1:0"].map(str::to_owned);
    let start = |text: &str| {
        fs::write(&file, text).unwrap();
        let state = format!("--state-dir={}", folder.path().join("state").display());
        let own = [format!("--config={}", file.display()), state];
        Process::start(PROGRAM, flags.iter().cloned().chain(own)).unwrap().ended()
    };
    // What cannot be read as a configuration comes first; the rest shows once that is mended.
    let ended = start(BAD).await.unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
    for fault in ["pools[0].backends[1].wieght", "did you mean"] {
        assert!(ended.log.contains(fault), "{fault} is not in {}", ended.log);
    }
    let ended = start(&BAD.replace(", wieght: 2", "")).await.unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
    let faults = [
        "pools[0].backends[0].url (line 4)",
        "pools[0].backends[1].name (line 5)",
        "pools[0].health.every (line 6)",
        "routes[0].model (line 8)",
        "routes[0].targets[0].pool (line 9)",
        "did you mean \\\"llama\\\"?",
        "routes[1].targets",
    ];
    for fault in faults {
        assert!(ended.log.contains(fault), "{fault} is not in {}", ended.log);
    }
}

#[tokio::test]
async fn a_secret_that_is_not_there_refuses_the_file() {
    let mock = MockLlm::start().unwrap();
    let rest = "secrets: [{ name: key, from: { file: not-there } }, { name: other, from: { env: NOT_THERE_EITHER } }]";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets.yaml");
    fs::write(&file, config(&[&mock], "credential: { secret: key }", "", rest)).unwrap();
    let flags = [
        "--listen=127.0.0.1:0".to_owned(),
        "--ops=127.0.0.1:0".to_owned(),
        format!("--config={}", file.display()),
        format!("--state-dir={}", folder.path().join("state").display()),
    ];
    let ended = Process::start(PROGRAM, flags).unwrap().ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
    assert!(ended.log.contains("secrets[0].from") && ended.log.contains("not-there"), "{}", ended.log);
    assert!(ended.log.contains("NOT_THERE_EITHER"), "{}", ended.log);
}

#[tokio::test]
async fn the_log_has_one_line_for_an_exchange_and_nothing_that_was_said_or_shown() {
    let mock = MockLlm::start().unwrap();
    let digest = ntonix_config::KeyDigest::of(b"ntx_very-secret-key");
    let rest = format!("tenants: [{{ name: t }}]\nkeys: [{{ name: alice, tenant: t, digest: \"{digest}\" }}]\n");
    let gateway = Gateway::start(&config(&[&mock], "", "", &rest), &["--log-level=debug"]).await.unwrap();
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    let members = serde_json::json!({
        "stream": true,
        "messages": [{ "role": "user", "content": "very-secret-prompt" }],
        "user": "very-secret-answer",
    });
    for ask in [Ask::chat_with(members), Ask::chat()] {
        let ask = ask.key("ntx_very-secret-key").header("x-request-id", "the-one");
        assert_fine(&connection.ask(ask).await.unwrap());
    }
    connection.ask(Ask::chat().key("ntx_another-secret-key")).await.unwrap();
    gateway.process().logged_times("Exchange finished", 3).await.unwrap();
    gateway.process().signal(Signal::TERM).unwrap();
    drop(connection);
    let log = gateway.ended().await.unwrap().log;
    assert!(!log.contains("very-secret") && !log.contains("another-secret"), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("Exchange finished"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    let line = &lines[0];
    assert_eq!((&line["exchange.id"], &line["outcome"]), (&"the-one".into(), &"completed".into()));
    assert_eq!((&line["tenant"], &line["key"], &line["backend.name"]), (&"t".into(), &"alice".into(), &"gpu-0".into()));
    assert_eq!((&line["status"], &line["attempts"], &line["tokens.out"]), (&200.into(), &1.into(), &5.into()));
    assert_eq!(lines[2]["outcome"], "invalid_api_key");
}

#[tokio::test]
async fn one_that_was_cut_to_nothing_is_refused_and_its_keys_stay() {
    let mock = MockLlm::start().unwrap();
    let digest = KeyDigest::of(b"ntx_cut");
    let keyed =
        format!("tenants: [{{ name: research }}]\nkeys: [{{ name: alice, tenant: research, digest: \"{digest}\" }}]");
    let gateway = Gateway::start(&config(&[&mock], "", "", &keyed), &[]).await.unwrap();
    fs::write(gateway.file(), "").unwrap();
    gateway.process().logged(REFUSED).await.unwrap();
    // Without its keys it would be open, and answer.
    let answer = Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap();
    assert_refused(&answer, 401, "invalid_api_key");
}
