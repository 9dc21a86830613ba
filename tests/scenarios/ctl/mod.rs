//! `ntonixctl` as a person types it: every command of the first page, and what it says of files and flags that are wrong.

mod commands;
mod bad_input;

use std::fs;
use std::path::Path;

use ntonix_tests::cluster::Cluster;
use ntonix_tests::process::Process;
use ntonix_tests::terminal::Terminal;
use serde_json::Value;

/// The files that come with the house.
const EXAMPLES: [&str; 4] = ["minimal", "two-backends", "three-backends", "production"];

/// The text of an example.
fn example(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(format!("deploy/examples/{name}.yaml"))).unwrap()
}

/// Puts the examples where a person in a clone finds them; `ports` replace those that they name.
fn put_examples(terminal: &Terminal, ports: &[(&str, String)]) {
    for name in EXAMPLES {
        let text = ports.iter().fold(example(name), |text, (port, other)| text.replace(port, other));
        terminal.save(&format!("deploy/examples/{name}.yaml"), &text).unwrap();
    }
}

/// The three demo backends of the examples on free ports, and those ports.
async fn demo_backends() -> (Process, Vec<(&'static str, String)>) {
    let listen = "--listen=127.0.0.1:0,127.0.0.1:0,127.0.0.1:0";
    let variables = [("NTONIX_LOG_FORMAT", "json")];
    let demos = Process::start_with("ntonix", ["demo-backends", listen], &variables).unwrap();
    demos.logged_times("Demo backend serves", 3).await.unwrap();
    let log = demos.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let urls = lines.filter_map(|line| Some(line["url"].as_str()?.trim_start_matches("http://").to_owned()));
    let ports = ["127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:8103"].into_iter().zip(urls).collect();
    (demos, ports)
}

/// Types a command that must succeed; what it printed.
async fn typed(cluster: &mut Cluster, line: &str) -> String {
    cluster.terminal().run(line).await.unwrap().done().unwrap()
}
