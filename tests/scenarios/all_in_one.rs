//! `ntonix`, both planes in one process: what it prints works as printed, whatever its configuration comes from.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use anyhow::Context as _;
use ntonix_tests::client::{Ask, Connection, MODELS};
use ntonix_tests::cluster::{Port, page};
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Options, Script};
use ntonix_tests::terminal::{Running, Terminal};
use ntonix_tests::wait::eventually;
use rustix::process::Signal;

use crate::stage::{assert_fine, assert_refused, config};

const START: &str = "ntonix --listen 127.0.0.1:0 --listen-tls 127.0.0.1:0 --admin 127.0.0.1:0 --sync 127.0.0.1:0 \
                     --ops 127.0.0.1:0 --state-dir state --log-format json";

/// A running `ntonix` that has printed where everything is.
struct Ntonix {
    process: Running,
    terminal: Terminal,
}

// === impl Ntonix ===

impl Ntonix {
    /// Starts it with these flags beside those for free ports.
    async fn start(terminal: Terminal, flags: &str) -> Self {
        let process = terminal.start(&format!("{START} {flags}")).unwrap();
        process.shown("operations  http://").await.unwrap();
        process.shown("\n\n").await.unwrap();
        let mut ntonix = Self { process, terminal };
        let admin = ntonix.place("management");
        ntonix.terminal.set("NTONIX_SERVER", &format!("http://{admin}"));
        ntonix
    }

    async fn fresh(flags: &str) -> Self {
        Self::start(Terminal::new().unwrap(), flags).await
    }

    /// The address on a line of what it printed.
    fn place(&self, name: &str) -> SocketAddr {
        let output = self.process.output();
        let line = output.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        let url = line.trim().strip_prefix("http://").unwrap();
        url.split([' ', '/']).next().unwrap().parse().unwrap()
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.place("traffic")).await.unwrap()
    }

    /// The commands that it printed, each on one line; `ntonixctl` is the one of this build.
    fn commands(&self) -> Vec<String> {
        let output = self.process.output().replace("\\\n", " ");
        let lines = output.lines().filter_map(|line| line.strip_prefix("  "));
        let commands = lines.filter(|line| line.starts_with("curl ") || line.starts_with("cargo run "));
        commands.map(|line| line.replace("cargo run --release -p ntonixctl --", "ntonixctl")).collect()
    }

    /// Ends it in peace; what it wrote to stderr.
    async fn end(self) -> (Terminal, String) {
        self.process.signal(Signal::TERM).unwrap();
        (self.terminal, self.process.ended().await.unwrap().failed(0).unwrap())
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[tokio::test]
async fn without_flags_it_serves_a_demo_and_prints_commands_that_work() {
    let ntonix = Ntonix::fresh("").await;
    let commands = ntonix.commands();
    assert_eq!(commands.len(), 3, "{commands:#?}");
    for command in commands {
        if command.starts_with("curl ") && !has("curl") {
            println!("skipped, for there is no curl: {command}");
            continue;
        }
        let told = ntonix.terminal.run(&command).await.unwrap().done().unwrap();
        match command.split_whitespace().next().unwrap() {
            "curl" => {
                assert!(told.matches("data: {").count() > 5 && told.ends_with("data: [DONE]\n\n"), "{told}");
                assert!(told.contains("hello"), "{told}");
            }
            _ if command.contains(" chat ") => assert!(told.starts_with("You said: hello"), "{told}"),
            _ => assert!(told.contains("up to date"), "{told}"),
        }
    }
    let ops = ntonix.place("operations");
    let (status, text) = page(ops, "/readyz").await.unwrap();
    assert!(status == 200 && text.contains("config_revision=1\n"), "{text}");
    let (_, metrics) = page(ops, "/metrics").await.unwrap();
    for name in ["ntonix_control_revision 1", "ntonix_config_revision 1"] {
        assert!(metrics.lines().any(|line| line == name), "{name} is missing:\n{metrics}");
    }
    assert_eq!(metrics.matches("# EOF").count(), 1);
}

#[tokio::test]
async fn a_backend_that_comes_up_later_is_found_with_its_models() {
    let port = Port::reserve().unwrap();
    let ntonix = Ntonix::fresh(&format!("--backend http://{}", port.address())).await;
    assert!(ntonix.process.output().contains("No backend has said yet which models it has."));
    let mut connection = ntonix.connect().await;
    let models = connection.ask(Ask::get(MODELS)).await.unwrap();
    assert_eq!((models.status(), models.json()["data"].as_array().map(Vec::len)), (200, Some(0)), "{}", models.text());
    let early = connection.ask(Ask::chat()).await.unwrap();
    assert!(early.status() >= 400, "{}", early.text());

    let models = vec!["late-1".to_owned(), MODEL.to_owned()];
    let mock = MockLlm::start_with(Options { listen: port.address(), models, ..Options::default() }).unwrap();
    let mut listed = async || {
        let text = connection.ask(Ask::get(MODELS)).await.unwrap().text().into_owned();
        text.contains("\"late-1\"") && text.contains(&format!("\"{MODEL}\""))
    };
    eventually("the models are listed", &mut listed).await.unwrap();
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    let streamed = connection.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(streamed.is_done(), "{}", streamed.text());
    assert_eq!(mock.counts().attempts, 2);
}

#[tokio::test]
async fn a_file_owns_the_configuration_and_a_bad_one_changes_nothing() {
    let (one, two) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let terminal = Terminal::new().unwrap();
    terminal.save("ntonix.yaml", &config(&[&one], "", "", "")).unwrap();
    let ntonix = Ntonix::start(terminal, "--config ntonix.yaml").await;
    let mut connection = ntonix.connect().await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());

    // Saved: applied.
    ntonix.terminal.save("ntonix.yaml", &config(&[&two], "", "", "")).unwrap();
    let moved = async || {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        two.counts().attempts > 0
    };
    eventually("the saved file is applied", moved).await.unwrap();

    // A bad one: every fault is told, and what ran before runs on.
    let bad = format!("{}retires: 1\nlimits: {{ body: -1, queue_wait: soon }}\n", config(&[&one], "", "", ""));
    ntonix.terminal.save("ntonix.yaml", &bad).unwrap();
    ntonix.process.complained("The file is refused, the revision before stays", 1).await.unwrap();
    ntonix.process.complained("Fault in the file", 3).await.unwrap();
    let log = ntonix.process.complaints();
    for fault in [
        "retires (line 4): unknown field; known here: pools, ",
        "limits.body (line 5): ",
        "limits.queue_wait (line 5): ",
    ] {
        assert!(log.contains(fault), "{fault} is missing:\n{log}");
    }
    // A SIGHUP reads it again, and it is as bad as before.
    ntonix.process.signal(Signal::HUP).unwrap();
    ntonix.process.complained("The file is refused, the revision before stays", 2).await.unwrap();
    let before = one.counts().attempts;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    assert_eq!(one.counts().attempts, before);

    // Operators may read, not write.
    let told = ntonix.terminal.run("ntonixctl get pools").await.unwrap().done().unwrap();
    assert!(told.contains("llama"), "{told}");
    ntonix.terminal.save("other.yaml", &config(&[&one], "", "", "")).unwrap();
    for line in ["ntonixctl apply -f other.yaml", "ntonixctl rollback 1"] {
        let told = ntonix.terminal.run(line).await.unwrap().failed(1).unwrap();
        assert_eq!(told, "ntonixctl: the file given with --config owns the configuration: change it there\n");
    }
}

#[tokio::test]
async fn a_file_that_is_bad_from_the_start_is_a_wrong_setting() {
    let terminal = Terminal::new().unwrap();
    terminal.save("ntonix.yaml", "routes:\n  - model: m\n    targets: [{ pool: nowhere }]\n    retires: 2\n").unwrap();
    for (file, fault) in
        [("ntonix.yaml", "routes[0].retires (line 4): unknown field"), ("none.yaml", "cannot read none.yaml")]
    {
        let told = terminal.run(&format!("{START} --config {file}")).await.unwrap().failed(2).unwrap();
        assert!(told.contains(fault), "{told}");
    }
}

#[tokio::test]
async fn after_a_sigterm_a_running_stream_finishes_and_the_exit_is_clean() {
    let mock = MockLlm::start().unwrap();
    let gate = Gate::new();
    mock.always(Script::gated(3, &gate));
    let ntonix = Ntonix::fresh(&format!("--backend {}", mock.url())).await;
    let mut connection = ntonix.connect().await;
    let listed = async || connection.ask(Ask::get(MODELS)).await.unwrap().text().contains(MODEL);
    eventually("the model is listed", listed).await.unwrap();
    let mut stream = connection.stream(Ask::streamed_chat()).await.unwrap();
    gate.open(1);
    stream.until(|so_far| so_far.content() == "t0 ").await.unwrap();

    let traffic = ntonix.place("traffic");
    ntonix.process.signal(Signal::TERM).unwrap();
    eventually("new connections are refused", async || Connection::open(traffic).await.is_err()).await.unwrap();
    gate.open_for_good();
    let transcript = stream.rest().await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 ", "{}", transcript.text());
    ntonix.process.ended().await.unwrap().done().unwrap();
}

#[tokio::test]
async fn what_was_applied_is_served_again_after_a_restart() {
    let mock = MockLlm::start().unwrap();
    let ntonix = Ntonix::fresh("").await;
    ntonix.terminal.save("mine.yaml", &config(&[&mock], "", "", "tenants: [{ name: research }]")).unwrap();
    let run = async |line: &str| ntonix.terminal.run(line).await.unwrap().done().unwrap();
    // The demo before it was open.
    let applied = run("ntonixctl apply -f mine.yaml").await;
    assert!(applied.starts_with("warning: mine.yaml: keys: no key opens anything, "), "{applied}");
    assert!(applied.contains("\nrevision 2 by local at "), "{applied}");
    let key = run("ntonixctl key create alice --tenant research").await.trim().to_owned();
    let (terminal, _) = ntonix.end().await;

    let ntonix = Ntonix::start(terminal, "").await;
    let mut connection = ntonix.connect().await;
    assert_fine(&connection.ask(Ask::chat().key(&key)).await.unwrap());
    assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 401, "invalid_api_key");
    let history = ntonix.terminal.run("ntonixctl history").await.unwrap().done().unwrap();
    assert_eq!(history.lines().count(), 3, "{history}");
    // Keys are needed now, so the commands that it prints take one.
    let commands = ntonix.commands();
    assert!(commands.iter().any(|line| line.contains("$NTONIX_KEY")), "{commands:#?}");
    assert!(ntonix.process.output().contains("key create my-key --tenant research"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let terminal = Terminal::new().unwrap();
    let control_plane = "ntonix-control-plane --admin 127.0.0.1:0 --sync 127.0.0.1:0 --ops 127.0.0.1:0 --state-dir cp";
    let data_plane = "ntonix-data-plane --control-plane http://127.0.0.1:1 --listen 127.0.0.1:0 --ops 127.0.0.1:0 \
                      --state-dir worker";
    let cases = [
        (START, ["--listen", "--admin", "--sync", "--ops"].as_slice()),
        (control_plane, &["--admin", "--sync", "--ops"]),
        (data_plane, &["--listen", "--ops"]),
    ];
    for (program, flags) in cases {
        for flag in flags {
            let line = program.replace(&format!("{flag} 127.0.0.1:0"), &format!("{flag} {address}"));
            assert_ne!(line, program);
            let told = terminal.run(&line).await.unwrap().failed(1).unwrap();
            let line = told.lines().find(|line| line.contains("cannot listen on"));
            let line = line.with_context(|| told.clone()).unwrap();
            assert!(line.contains(flag) && line.contains(&address.to_string()), "{flag}: {line}");
            assert!(!told.contains("panicked"), "{told}");
        }
    }
}
