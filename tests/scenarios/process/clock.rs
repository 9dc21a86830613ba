//! O6: the wall clock may jump; nothing that waits, limits or judges looks at it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{MockLlm, Pace, Script};
use ntonix_tests::sandbox;
use serde_json::Value;

use crate::architecture::rust_files;
use crate::stage::{assert_refused, config};

/// The files of the data plane that read the wall clock outside of their tests, and what for.
const READERS: [(&str, &str); 9] = [
    ("edge/models.rs", "the time that a list of models names"),
    ("file.rs", "when a configuration was taken, for people"),
    ("live/identity.rs", "whether a key has expired, which is a date"),
    ("live/mod.rs", "when a configuration was taken, and when keys expire"),
    ("metrics.rs", "how old a configuration is, for people"),
    ("ops.rs", "how old a configuration is, for people"),
    ("steps.rs", "when a configuration was taken, as in file.rs"),
    ("sync/keep.rs", "the stamp of what is kept on disk"),
    ("sync/mod.rs", "when a configuration was taken, for people"),
];

#[test]
fn the_wall_clock_is_read_for_stamps_and_dates_alone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("data-plane/src");
    let mut readers = Vec::new();
    for path in rust_files(&source) {
        let file = path.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        if !file.ends_with("tests.rs") && (code.contains("SystemTime") || code.contains("UNIX_EPOCH")) {
            readers.push(file);
        }
    }
    readers.sort();
    assert_eq!(readers, READERS.map(|(file, _)| file), "each has its reason in READERS");
}

/// A year forth and a year back, while a stream runs and a tenant has spent its minute.
#[tokio::test]
async fn a_wall_clock_that_jumps_ends_no_stream_frees_no_limit_and_ejects_no_backend() {
    let Some(library) = sandbox::moved_clock() else { return };
    let folder = tempfile::tempdir().unwrap();
    let time = folder.path().join("time");
    let set = |offset: &str| fs::write(&time, format!("{offset}\n")).unwrap();
    set("+0");
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", time.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let mock = MockLlm::start().unwrap();
    let digest = ntonix_config::KeyDigest::of(b"ntx_mine");
    let rest = format!(
        "tenants: [{{ name: t, limits: {{ requests_per_minute: 2 }} }}]\n\
         keys: [{{ name: k, tenant: t, digest: \"{digest}\" }}]"
    );
    let health = "health: { every: 100ms, timeout: 5s, unhealthy_after: 1 }";
    let gateway = Gateway::start_with(&config(&[&mock], health, "", &rest), &[], &variables).await.unwrap();
    let ask = || Ask::streamed_chat().key("ntx_mine");
    mock.next(Script::Answer { tokens: 150, pace: Pace::Every(Duration::from_millis(20)) });
    let mut stream = Connection::open(gateway.address()).await.unwrap().stream(ask()).await.unwrap();
    let mut connection = Connection::open(gateway.address()).await.unwrap();
    assert!(connection.transcript(ask()).await.unwrap().is_done());
    for offset in ["+1y", "-1y", "+1h"] {
        set(offset);
        stream.take(40).await.unwrap();
        assert_refused(&connection.ask(ask()).await.unwrap(), 429, "rate_limited");
    }
    assert!(stream.rest().await.unwrap().is_done());
    let log = gateway.process().log();
    assert!(!log.contains("Backend is unhealthy"), "{log}");
    // The clock did jump: the lines of the log are stamped by it.
    let stamps: Vec<String> = log
        .lines()
        .filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["timestamp"].as_str()?.get(..4)?.to_owned()))
        .collect();
    let (first, years) = (stamps.first().unwrap(), stamps.iter().collect::<std::collections::BTreeSet<_>>());
    assert!(years.len() > 1, "all lines are of {first}");
}
