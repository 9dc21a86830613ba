//! The commands of the first page, word for word.

use ntonix_tests::certs::Authority;
use ntonix_tests::cluster::{Cluster, Port, WorkerProcess};
use ntonix_tests::terminal::Terminal;
use ntonix_tests::wait::eventually;
use rustix::process::Signal;

use super::{EXAMPLES, demo_backends, put_examples, typed};

/// What the demo backend answers to "hello".
const ANSWER: &str = "You said: hello -- This is the demo backend of NTONIX";
/// The key of `two-backends.yaml`.
const EXAMPLE_KEY: &str = "ntx_SFQUelssN9f03gCyacmBIqpJpHZgU4yv697485QyZGf";

#[tokio::test]
async fn the_commands_that_change_and_show_work_as_they_are_printed() {
    let (_demos, ports) = demo_backends().await;
    let mut cluster = Cluster::start().await.unwrap();
    put_examples(cluster.terminal(), &ports);
    let _worker = cluster.worker("w1").await.unwrap();

    let told = typed(&mut cluster, "ntonixctl apply -f deploy/examples/two-backends.yaml").await;
    assert!(told.starts_with("revision 1 by local at "), "{told}");
    for line in ["+ pools/demo", "+ routes/demo", "+ tenants/research", "+ keys/try-me", "w1 runs it after "] {
        assert!(told.contains(&format!("\n  {line}")), "{line:?} is missing: {told}");
    }
    let told = typed(&mut cluster, "ntonixctl plan -f deploy/examples/three-backends.yaml").await;
    assert!(told.starts_with("against revision 1\n  ~ pools/demo: backends"), "{told}");
    assert!(told.contains("+     - name: demo-3") || told.contains("+ - name: demo-3"), "{told}");
    assert!(told.contains("  ~ tenants/research: limits.requests_per_minute\n"), "{told}");

    let told = typed(&mut cluster, "ntonixctl get routes").await;
    assert!(told.starts_with("MODEL  ALIASES      TARGETS  FALLBACK\ndemo   demo-latest  demo"), "{told}");
    let told = typed(&mut cluster, "ntonixctl get pool demo -o yaml").await;
    for text in ["name: demo\n", "name: demo-1\n", &ports[0].1, "weight: 2\n", "balance: weighted-round-robin\n"] {
        assert!(told.contains(text), "{text:?} is missing: {told}");
    }
    let told = typed(&mut cluster, "ntonixctl history").await;
    assert!(told.starts_with("REVISION  TIME") && told.lines().count() == 2, "{told}");
    let told = typed(&mut cluster, "ntonixctl rollback 1").await;
    assert!(told.starts_with("nothing to change: revision 1 says the same\n"), "{told}");
    let told = typed(&mut cluster, "ntonixctl workers").await;
    assert!(told.starts_with("NAME") && told.contains("\nw1    up to date  1  "), "{told}");

    let told = typed(&mut cluster, "ntonixctl apply -f deploy/examples/three-backends.yaml").await;
    assert!(told.starts_with("revision 2 ") && told.contains("w1 runs it"), "{told}");
    let told = typed(&mut cluster, "ntonixctl rollback 1").await;
    assert!(told.starts_with("revision 3 by local at ") && told.contains("(rollback to 1)\n"), "{told}");
    let told = typed(&mut cluster, "ntonixctl history").await;
    assert!(told.lines().nth(1).unwrap().ends_with("rollback to 1") && told.lines().count() == 4, "{told}");
    let told = typed(&mut cluster, "ntonixctl export | ntonixctl apply -f - --no-wait").await;
    assert_eq!(told, "nothing to change: revision 3 says the same\n");
}

#[tokio::test]
async fn watch_shows_revisions_and_workers_until_it_is_interrupted() {
    let mut cluster = Cluster::start().await.unwrap();
    put_examples(cluster.terminal(), &[]);
    typed(&mut cluster, "ntonixctl apply -f deploy/examples/minimal.yaml").await;
    let screen = cluster.terminal().start("ntonixctl watch").unwrap();
    screen.shown("revision 1 by local at ").await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    screen.shown("worker w1: up to date, runs revision 1").await.unwrap();
    typed(&mut cluster, "ntonixctl apply -f deploy/examples/two-backends.yaml").await;
    screen.shown("  - pools/backends\n").await.unwrap();
    screen.shown("worker w1: up to date, runs revision 2 after ").await.unwrap();
    worker.kill().await.unwrap();
    screen.shown("worker w1: disconnected").await.unwrap();
    screen.signal(Signal::INT).unwrap();
    screen.ended().await.unwrap();
}

#[tokio::test]
async fn a_key_is_made_shown_once_and_good_for_a_chat_in_every_form() {
    let (_demos, ports) = demo_backends().await;
    let mut cluster = Cluster::start().await.unwrap();
    put_examples(cluster.terminal(), &ports);
    let worker = cluster.worker("w1").await.unwrap();
    typed(&mut cluster, "ntonixctl apply -f deploy/examples/two-backends.yaml").await;
    cluster.terminal().set("NTONIX_URL", &format!("http://{}", worker.address()));
    let refused = cluster.ctl("chat --model demo \"hello\"").await.unwrap().failed(1).unwrap();
    assert!(refused.starts_with("ntonixctl: 401 Unauthorized: "), "{refused}");

    let made = cluster.ctl("key create alice --tenant research").await.unwrap().exited(0).unwrap();
    let key = made.output.trim().to_owned();
    assert!(key.starts_with("ntx_") && key.len() == 47 && made.output.lines().count() == 1, "{}", made.output);
    assert_eq!(made.complaints, "key alice of tenant research is made; it goes to standard output, this one time\n");
    let again = cluster.ctl("key create alice --tenant research").await.unwrap().failed(1).unwrap();
    assert!(again.contains("alice"), "{again}");
    let stray = cluster.ctl("key create bob --tenant nobody").await.unwrap().failed(1).unwrap();
    assert!(stray.contains("nobody"), "{stray}");
    let list = typed(&mut cluster, "ntonixctl key list --tenant research").await;
    assert!(list.contains("alice  research") && !list.contains(&key), "{list}");

    for key in [key.as_str(), EXAMPLE_KEY] {
        cluster.terminal().set("NTONIX_KEY", key);
        let chat = async || cluster.ctl("chat --model demo \"hello\"").await.unwrap().exited(0);
        // A new key takes a moment to reach the worker.
        eventually("the key is taken", async || chat().await.is_ok()).await.unwrap();
        assert!(chat().await.unwrap().output.starts_with(ANSWER));
    }
    let told = typed(&mut cluster, "ntonixctl chat --model demo-latest --ws \"hello\"").await;
    assert!(told.starts_with(ANSWER), "{told}");
    for line in
        ["ntonixctl chat --model demo --streams 8 \"hello\"", "ntonixctl chat --model demo --ws --streams 8 \"hello\""]
    {
        let told = typed(&mut cluster, line).await;
        for stream in 1..=8 {
            assert!(told.contains(&format!("{stream}| {ANSWER}")), "stream {stream} of {line}: {told}");
        }
    }
    let unknown = cluster.ctl("chat --model none \"hello\"").await.unwrap().failed(1).unwrap();
    assert!(unknown.starts_with("ntonixctl: 404 Not Found: ") && unknown.contains("none"), "{unknown}");
}

#[tokio::test]
async fn every_example_is_valid_and_needs_no_server_to_be_checked() {
    let terminal = Terminal::new().unwrap();
    put_examples(&terminal, &[]);
    for name in EXAMPLES {
        let line = format!("ntonixctl validate -f deploy/examples/{name}.yaml");
        let told = terminal.run(&line).await.unwrap().done().unwrap();
        assert!(told.starts_with(&format!("deploy/examples/{name}.yaml: valid (")), "{told}");
        assert!(!told.contains("warning"), "{told}");
    }
}

#[tokio::test]
async fn every_example_is_loaded_by_a_worker() {
    let terminal = Terminal::new().unwrap();
    let authority = Authority::new().unwrap();
    let key = terminal.save("hosted-key", "sk-hosted\n").unwrap();
    let files = [
        ("/etc/ntonix/backends-ca.pem", authority.file().display().to_string()),
        ("/etc/ntonix/hosted-key", key.display().to_string()),
    ];
    put_examples(&terminal, &files);
    for name in EXAMPLES {
        let file = terminal.folder().join(format!("deploy/examples/{name}.yaml"));
        let state = terminal.folder().join(name);
        let flags = [
            format!("--config={}", file.display()),
            format!("--state-dir={}", state.display()),
            "--listen=127.0.0.1:0".to_owned(),
            "--ops=127.0.0.1:0".to_owned(),
            "--log-format=json".to_owned(),
        ];
        let worker = WorkerProcess::start(&flags, &[("LLAMA_API_KEY", "sk-llama")]).await.unwrap();
        let (status, text) = worker.page("/readyz").await.unwrap();
        assert!(status == 200 && text.contains("config_source=file\n"), "{name}: {text}");
    }
}

#[tokio::test]
async fn without_a_control_plane_a_command_says_where_it_looked() {
    let terminal = Terminal::new().unwrap();
    let nobody = Port::reserve().unwrap();
    let line = format!("ntonixctl --server http://{} workers", nobody.address());
    let told = terminal.run(&line).await.unwrap().failed(1).unwrap();
    // It may be starting: that is waited for, and told.
    assert!(told.starts_with(&format!("nobody listens on {} yet", nobody.address())), "{told}");
    assert!(told.contains(&format!("\nntonixctl: http://{}/ cannot be reached: ", nobody.address())), "{told}");
    assert!(told.contains("is the control plane running there? (--server, NTONIX_SERVER)"), "{told}");
}
