//! Files and flags that are wrong: every fault with its path, its line and what was probably meant; nothing is changed.

use ntonix_tests::cluster::Cluster;
use ntonix_tests::terminal::Terminal;

/// A file whose every line but the first few has something wrong, and what must be said of it, line by line.
const WRONG: &str = r#"pools:
  - name: llama
    backends:
      - { name: gpu-1, url: "localhost:8000" }
      - { name: gpu-2, url: "http://127.0.0.1:1", wieght: 2 }
    health: { every: -5s }
routes:
  - model: m
    targets: [{ pool: llama }]
"#;

/// What only shows once a file can be read at all.
const MEANINGLESS: &str = r#"pools:
  - name: llama
    backends:
      - { name: gpu-1, url: "http://127.0.0.1:1" }
      - { name: gpu-1, url: "http://127.0.0.1:2" }
  - name: llama
    backends: [{ name: a, url: "localhost:8000" }]
routes:
  - model: unknown-pool
    targets: [{ pool: lama }]
  - model: no-weight
    targets:
      - { pool: llama, weight: 0 }
      - { pool: llama, weight: 0 }
  - model: "bad[glob"
    targets: [{ pool: llama }]
  - model: unknown-pool
    targets: [{ pool: llama }]
"#;

/// One of the lines begins and goes on like this.
#[track_caller]
fn assert_told(told: &str, place: &str, texts: &[&str]) {
    let fits = |line: &&str| line.starts_with(place) && texts.iter().all(|text| line.contains(text));
    assert!(told.lines().any(|line| fits(&line)), "no line {place} {texts:?} in:\n{told}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_as_a_configuration_is_refused_line_by_line() {
    let terminal = Terminal::new().unwrap();
    terminal.save("bad.yaml", WRONG).unwrap();
    let told = terminal.run("ntonixctl validate -f bad.yaml").await.unwrap().failed(1).unwrap();
    assert_told(&told, "bad.yaml:5: pools[0].backends[1].wieght: ", &["unknown field", "did you mean \"weight\"?"]);
    assert_told(&told, "bad.yaml:6: pools[0].health.every: ", &["-5s"]);

    for (name, text, wanted) in [
        ("empty", "pools: [", "nonsense.yaml:"),
        ("a list", "- pools\n", "nonsense.yaml:"),
        ("a tab", "pools:\n\t- name: a\n", "nonsense.yaml:2"),
    ] {
        terminal.save("nonsense.yaml", text).unwrap();
        let told = terminal.run("ntonixctl validate -f nonsense.yaml").await.unwrap().failed(1).unwrap();
        assert!(told.contains(wanted), "{name}: {told}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_alike_with_and_without_a_server() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.apply("tenants: [{ name: research }]\n").await.unwrap();
    cluster.terminal().save("bad.yaml", MEANINGLESS).unwrap();
    let mut complaints = Vec::new();
    for command in ["validate", "plan", "apply"] {
        let told = cluster.ctl(&format!("{command} -f bad.yaml")).await.unwrap().failed(1).unwrap();
        assert_told(&told, "bad.yaml:5: pools[0].backends[1].name: ", &["gpu-1"]);
        assert_told(&told, "bad.yaml:6: pools[1].name: ", &["llama"]);
        assert_told(&told, "bad.yaml:7: pools[1].backends[0].url: ", &["http://"]);
        let unknown = "no pool is named \"lama\"";
        assert_told(&told, "bad.yaml:10: routes[0].targets[0].pool: ", &[unknown, "did you mean \"llama\"?"]);
        assert_told(&told, "bad.yaml:12: routes[1].targets: ", &["weight"]);
        assert_told(&told, "bad.yaml:15: routes[2].model: ", &["bad glob", "'[' is not allowed"]);
        assert_told(&told, "bad.yaml:17: routes[3].model: ", &["unknown-pool"]);
        complaints.push(told.lines().skip(1).map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(complaints.windows(2).all(|two| two[0] == two[1]), "{complaints:#?}");
    assert_eq!(cluster.plane_metric("ntonix_control_revision").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_secret_file_that_is_not_there_is_named_by_the_worker_and_by_its_path() {
    let mut cluster = Cluster::start().await.unwrap();
    let _worker = cluster.worker("w1").await.unwrap();
    let text = "pools: []\nsecrets:\n  - { name: k, from: { file: no/such/secret } }\n";
    let file = cluster.terminal().save("secret.yaml", text).unwrap();
    let told = cluster.ctl("apply -f secret.yaml").await.unwrap().exited(1).unwrap();
    // Relative to the file, wherever the worker was started.
    let secret = file.with_file_name("no").join("such").join("secret");
    let wanted = format!("  w1 refuses it\n    secrets[0].from: cannot read {}: ", secret.display());
    assert!(told.output.contains(&wanted), "{}", told.output);
    assert!(told.complaints.contains("is refused by w1"), "{}", told.complaints);

    // A worker that reads the file itself knows the line, too.
    let line = "ntonix-data-plane --config secret.yaml --listen 127.0.0.1:0 --ops 127.0.0.1:0 --state-dir alone";
    let told = cluster.terminal().run(line).await.unwrap().failed(2).unwrap();
    assert!(told.contains("secrets[0].from (line 3): cannot read "), "{told}");
}

#[tokio::test]
async fn wrong_flags_are_all_told_at_once_with_what_was_meant() {
    let terminal = Terminal::new().unwrap();
    let cases: [(&str, &[&str]); 6] = [
        ("ntonixctl aply -f x.yaml", &["aply: there is no such command; did you mean apply?"]),
        ("ntonixctl apply -f x.yaml --timeuot 3s", &["--timeuot: there is no such flag; did you mean --timeout?"]),
        (
            "ntonixctl chat --modl demo --streams 0 --url nowhere hello",
            &["--modl: there is no such flag; did you mean --model?", "--streams: ", "--url: "],
        ),
        ("ntonixctl get rutes -o xml", &["did you mean routes?", "--output: \"xml\" is not one of table, yaml, json"]),
        (
            "ntonix-control-plane --admin nowhere --drain soon --sycn 127.0.0.1:0",
            &["--admin: \"nowhere\": ", "--drain: \"soon\": ", "--sycn: there is no such flag; did you mean --sync?"],
        ),
        (
            "ntonix --listen here --threads 0 --backend nowhere --log-format xml",
            &["--listen: ", "--threads: ", "--backend: ", "--log-format: \"xml\" is not one of text, json"],
        ),
    ];
    for (line, faults) in cases {
        let told = terminal.run(line).await.unwrap().failed(2).unwrap();
        for fault in faults {
            assert!(told.contains(fault), "{line}: no {fault:?} in\n{told}");
        }
    }
}
