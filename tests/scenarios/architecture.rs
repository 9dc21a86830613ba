//! Who may import whom: between our crates, inside the data plane, and of the rest of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each crate of ours may import of ours. Tests see everything and are seen by nobody.
const CRATES: [(&str, &[&str]); 8] = [
    ("ntonix-proto", &[]),
    ("ntonix-config", &["ntonix-proto"]),
    ("ntonix-llm", &[]),
    ("ntonix-runtime", &[]),
    ("ntonix-control-plane", &["ntonix-proto", "ntonix-config", "ntonix-runtime"]),
    ("ntonix-data-plane", &["ntonix-proto", "ntonix-config", "ntonix-llm", "ntonix-runtime"]),
    ("ntonixctl", &["ntonix-proto", "ntonix-config", "ntonix-llm", "ntonix-runtime"]),
    (
        "ntonix",
        &["ntonix-control-plane", "ntonix-data-plane", "ntonix-proto", "ntonix-config", "ntonix-llm", "ntonix-runtime"],
    ),
];

/// The way of a request through the data plane: imports go from left to right.
const WAY: [&str; 6] = ["listener", "edge", "policy", "routing", "balance", "upstream"];

/// What every part of the way may import.
const SHARED: [&str; 6] = ["exchange", "refusal", "live", "metrics", "usage", "relay"];

/// Imports against the way. Each is one file that stands where two parts meet.
const AGAINST_THE_WAY: [(&str, &str, &str); 7] = [
    ("edge/mod.rs", "listener", "a socket tells its connection that it is busy"),
    ("policy/observe.rs", "edge", "the status that a refusal has is known there alone"),
    ("routing/mod.rs", "policy", "finding the route is a gate of the stack"),
    ("upstream/attempt.rs", "routing", "an attempt is made for a route"),
    ("upstream/attempt.rs", "balance", "an attempt is judged for the breaker of its backend"),
    ("relay/mod.rs", "upstream", "the relay pulls the backend's body"),
    ("relay/passage.rs", "upstream", "so does a large body"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(args).args(["--locked", "--offline"]).current_dir(root());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn our_crates_import_only_what_they_may() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    for (name, allowed) in CRATES {
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        let dependencies = package["dependencies"].as_array().unwrap();
        let built = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        let ours = built.map(|dependency| text(&dependency["name"])).filter(|name| name.starts_with("ntonix"));
        for dependency in ours {
            assert!(allowed.contains(&dependency), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn the_pure_crates_know_neither_sockets_nor_clocks() {
    for folder in ["shared/config", "shared/llm"] {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for forbidden in ["tokio", "hyper", "rustls", "tonic ", "socket2"] {
            assert!(!manifest.contains(&format!("\n{forbidden}")), "{folder} must not import {forbidden}");
        }
    }
}

/// What is compiled at all, on any system: the name of each package with its versions. `Cargo.lock` has more: what
/// would be compiled if some feature were on.
fn compiled() -> BTreeMap<String, BTreeSet<String>> {
    let tree =
        cargo(&["tree", "--workspace", "--target=all", "--edges=normal,build,dev", "--prefix=none", "--format={p}"]);
    let mut compiled: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in tree.lines() {
        if let [name, version, ..] = line.split(' ').collect::<Vec<_>>()[..] {
            compiled.entry(name.into()).or_default().insert(version.into());
        }
    }
    compiled
}

#[test]
fn there_is_one_stack_of_each_kind() {
    let compiled = compiled();
    for banned in ["openssl", "openssl-sys", "native-tls", "reqwest", "ring", "serde_yaml", "serde_yml"] {
        assert!(!compiled.contains_key(banned), "{banned} must not be compiled");
    }
    for single in ["hyper", "http", "h2", "tower", "rustls", "tonic", "prost", "tokio", "axum"] {
        let versions = compiled.get(single).map_or(0, BTreeSet::len);
        assert!(versions <= 1, "{single} is there in {versions} versions");
    }
    assert!(compiled.contains_key("aws-lc-rs"));
}

/// The modules that `use crate::…` names in a text, without those of its own tests.
fn imports(text: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut modules = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => modules.extend(top_level(group)),
            None => modules.extend(word(after)),
        }
    }
    modules
}

/// The first words of the items of a group, as in `balance::{Pool, Backend}, live}`.
fn top_level(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().unwrap().push(character),
            _ => {}
        }
    }
    items.iter().filter_map(|item| word(item.trim())).collect()
}

fn word(text: &str) -> Option<String> {
    let word: String =
        text.chars().take_while(|&character| character.is_ascii_lowercase() || character == '_').collect();
    (!word.is_empty()).then_some(word)
}

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Every import from one module of the data plane to another: the file, its module, the other module.
fn edges() -> Vec<(String, String, String)> {
    let source = root().join("data-plane/src");
    let mut edges = Vec::new();
    for path in rust_files(&source) {
        let file = path.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/");
        if file.ends_with("tests.rs") {
            continue;
        }
        let module = file.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        for other in imports(&fs::read_to_string(&path).unwrap()) {
            if other != module {
                edges.push((file.clone(), module.clone(), other));
            }
        }
    }
    edges
}

fn is_excused(file: &str, to: &str) -> bool {
    AGAINST_THE_WAY.iter().any(|(excused, other, _)| *excused == file && *other == to)
}

#[test]
fn imports_of_the_data_plane_go_the_way_of_a_request() {
    let place = |module: &str| WAY.iter().position(|part| *part == module);
    for (file, from, to) in edges() {
        let Some(here) = place(&from) else { continue };
        let fits = SHARED.contains(&to.as_str()) || place(&to).is_some_and(|there| there > here);
        assert!(fits || is_excused(&file, &to), "{file} must not import {to}");
    }
}

#[test]
fn the_relay_knows_the_exchange_and_its_backend_and_nothing_of_clients() {
    for (file, from, to) in edges() {
        if from == "relay" {
            let fits = ["exchange", "refusal", "routing", "balance"].contains(&to.as_str());
            assert!(fits || is_excused(&file, &to), "{file} must not import {to}");
        }
    }
}

#[test]
fn the_way_of_a_request_reads_what_runs_and_does_not_know_where_it_is_from() {
    for (file, from, to) in edges() {
        if WAY.contains(&from.as_str()) || SHARED.contains(&from.as_str()) {
            assert!(
                !["sync", "file", "ops", "settings", "worker"].contains(&to.as_str()),
                "{file} must not import {to}"
            );
        }
    }
}

#[test]
fn every_excuse_is_still_needed() {
    let edges = edges();
    for (file, to, why) in AGAINST_THE_WAY {
        let needed = edges.iter().any(|(other, _, module)| other == file && module == to);
        assert!(needed, "{file} imports nothing of {to} any more ({why}): take the excuse out");
    }
}
