//! Files as people write them: wrong ones first.

use std::path::{Path, PathBuf};

use super::Source;
use crate::{Draft, Faults, validate};

fn read(text: &str) -> Result<Source, Faults> {
    Source::read(text, Path::new("/etc/ntonix"))
}

fn faults(text: &str) -> Vec<String> {
    match read(text) {
        Ok(source) => panic!("no fault in {:?}", source.draft),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// The example of the design, with everything that can be written.
const WHOLE: &str = r#"
pools:
  - name: llama
    dialect: openai
    backends:
      - { name: gpu-1, url: "http://10.0.0.5:8000", weight: 2, max_streams: 64 }
      - { name: gpu-2, url: "https://10.0.0.6:8443", http2: true, ca: { file: ca.pem } }
    credential: { secret: llama-key }
    balance: weighted-round-robin
    health: { path: /health, every: 5s, timeout: 250ms, healthy_after: 2, unhealthy_after: 3 }
    breaker: { failures: 5, open: 10s, slow_start: 0s }
  - name: spare
    backends: [{ name: only, url: "http://spare" }]
routes:
  - model: "llama-3-70b"
    aliases: ["llama-3"]
    targets: [{ pool: llama, model: "meta-llama/Llama-3-70B", weight: 1 }]
    fallback: [{ pool: spare }]
    deadlines: { connect: 2s, first_token: 60s, idle: 30s, total: 30m }
    retries: 0
    heartbeat: 0s
tenants:
  - name: research
    models: ["llama-*"]
    limits: { requests_per_minute: 600, streams: 50 }
keys:
  - name: alice
    tenant: research
    digest: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    expires: 2027-01-01T00:00:00Z
secrets:
  - { name: llama-key, from: { env: LLAMA_API_KEY } }
  - { name: other, from: { file: secrets/other } }
limits: { streams: 10000, queue: 1000, queue_wait: 1s, body: 32MiB }
"#;

#[test]
fn an_unknown_field_names_the_nearest_one() {
    assert_eq!(
        faults(
            "pools:\n  - name: a\n    backends:\n      - name: b\n        url: http://b\n        wieght: 2\nlimits: {}\nfoo: 1\n"
        ),
        [
            "pools[0].backends[0].wieght (line 6): unknown field; did you mean \"weight\"?",
            "foo (line 8): unknown field; known here: pools, routes, tenants, keys, secrets, limits",
        ]
    );
}

#[test]
fn a_value_of_the_wrong_type_is_a_fault() {
    for (text, wanted) in [
        ("[]", "line 1: must be a map of pools, routes, tenants, keys, secrets, limits, not a list"),
        ("pools: x", "pools (line 1): must be a list, not a text"),
        ("routes: [5]", "routes[0] (line 1): must be a map of"),
        ("limits: {streams: '5'}", "limits.streams (line 1): must be a whole number, not a text"),
        ("limits: {streams: 1.5}", "limits.streams (line 1): must be a whole number, not a fraction"),
        ("limits: {streams: -1}", "limits.streams (line 1): must be from 0 to 4294967295, not -1"),
        ("limits: {body: 32MB}", "limits.body (line 1): \"32MB\" is not a size"),
        ("limits: {body: -1}", "limits.body (line 1): must not be -1"),
        ("limits: {body: []}", "limits.body (line 1): must be a size such as \"32MiB\", not a list"),
        ("limits: {queue_wait: 5}", "limits.queue_wait (line 1): must be a duration such as \"30s\", not a number"),
        ("limits: {queue_wait: soon}", "limits.queue_wait (line 1): \"soon\" is not a duration"),
        ("tenants: [{name: 5}]", "tenants[0].name (line 1): must be a text, not a number: put it in quotes"),
        ("keys: [{expires: soon}]", "keys[0].expires (line 1): \"soon\" is not a time"),
        (
            "pools: [{balance: least-loadd}]",
            "pools[0].balance (line 1): must be one of least-loaded, weighted-round-robin, not \"least-loadd\"; did you mean \"least-loaded\"?",
        ),
        (
            "pools: [{balance: 1}]",
            "pools[0].balance (line 1): must be one of least-loaded, weighted-round-robin, not a number",
        ),
        (
            "pools: [{backends: [{http2: yes}]}]",
            "pools[0].backends[0].http2 (line 1): must be true or false, not a text",
        ),
        ("secrets: [{from: {env: A, file: b}}]", "secrets[0].from (line 1): must have only one of env, file"),
        ("limits: {queue: 1, queue: 2}", "limits.queue (line 1): is written twice, first on line 1"),
    ] {
        let found = faults(text);
        assert!(found.iter().any(|fault| fault.starts_with(wanted)), "{text}: {found:#?}");
    }
}

#[test]
fn a_text_that_is_not_yaml_is_one_fault_with_its_line() {
    let found = faults("pools:\n  - name: a\n bad: [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("line "), "{found:?}");
}

#[test]
fn what_could_be_read_is_checked_beside_what_could_not() {
    let found = faults(concat!(
        "pools:\n  - name: llama\n    backends: [{name: a, url: 'ftp://a', weigt: 1}]\n",
        "routes:\n  - model: x\n    retries: 11\n    targets: [{pool: lama}]\n    heartbeat: soon\n"
    ));
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found[0].contains("weigt") && found[1].contains(".url (line 3)") && found[2].contains("retries (line 6)"));
    assert!(found[3].contains("did you mean \"llama\"?") && found[4].contains("heartbeat (line 8)"), "{found:#?}");
}

#[test]
fn what_only_follows_from_a_misread_name_is_not_told() {
    assert_eq!(faults("pols: []\nroutes: [{model: x, targets: [{pool: a}]}]\n").len(), 1);
    assert_eq!(
        faults(
            "pools: [{name: 5, backends: [{name: a, url: 'http://a'}]}]\nroutes: [{model: x, targets: [{pool: '5'}]}]"
        )
        .len(),
        1
    );
}

#[test]
fn an_alias_bomb_and_deep_nesting_are_faults() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n".to_owned()
        + &(0..10)
            .map(|n| {
                format!(
                    "c{n}: &c{n} [{0},{0},{0},{0},{0},{0},{0},{0}]\n",
                    if n == 0 { "*b".to_owned() } else { format!("*c{}", n - 1) }
                )
            })
            .collect::<String>();
    assert!(!faults(&bomb).is_empty());
    assert_eq!(faults(&"[".repeat(200_000)).len(), 1);
    assert_eq!(faults(&("pools: ".to_owned() + &"{a: ".repeat(60) + &"}".repeat(60))).len(), 1);
}

#[test]
fn a_file_that_says_nothing_is_an_empty_draft() {
    for text in ["# nothing\n", "{}", "pools: []\n", "pools:\nlimits: ~\n"] {
        assert_eq!(read(text).unwrap().draft, Draft::default(), "{text:?}");
    }
}

#[test]
fn a_file_that_was_cut_to_nothing_is_refused() {
    for text in ["", " ", "\n\n"] {
        let faults = read(text).unwrap_err();
        assert!(faults.to_string().contains("there is nothing in it"), "{text:?}: {faults}");
    }
}

#[test]
fn the_whole_example_is_read_and_valid() {
    let source = read(WHOLE).unwrap();
    let config = validate(&source.draft).unwrap();
    assert_eq!(config.pools[0].backends[1].ca_file, Some(PathBuf::from("/etc/ntonix/ca.pem")));
    assert_eq!(config.routes[0].heartbeat, None);
    assert_eq!(config.routes[0].retries, 0);
    assert_eq!(config.limits.body, 32 << 20);
    assert_eq!(config.warnings().len(), 1, "one secret is unused: {:?}", config.warnings());
}

#[test]
fn a_fault_of_the_validator_gets_the_line_of_its_path() {
    let source = read("pools: []\nroutes:\n  - model: a\n    targets:\n      - pool: b\n  - model: c\n").unwrap();
    let located = source.locate(validate(&source.draft).unwrap_err());
    let lines: Vec<(String, Option<u32>)> = located.into_iter().map(|fault| (fault.path, fault.line)).collect();
    let wanted = [("routes[0].targets[0].pool".to_owned(), Some(5)), ("routes[1].targets".to_owned(), Some(6))];
    assert_eq!(lines, wanted);
}

#[test]
fn anchors_and_merges_are_understood() {
    let text = "routes:\n  - &base\n    model: a\n    targets: [{pool: p}]\n  - <<: *base\n    model: b\n";
    let draft = read(text).unwrap().draft;
    assert_eq!(draft.routes[1].targets, draft.routes[0].targets);
    assert_eq!(draft.routes[1].model, "b");
}
