//! The configuration of the run, as the last changes left it.

use std::path::Path;

use ntonix_config::KeyDigest;

use crate::plan::{ALIAS, ALICE, GUEST, MODEL};
use crate::strike::{BACKENDS, Change};

/// The variable of the workers that has what backends are shown.
pub(crate) const CREDENTIAL: (&str, &str) = ("CHAOS_CREDENTIAL", "chaosCredentialThatNobodyMustSee");

/// What changes in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    weights: [u16; BACKENDS],
    streams: u32,
    has_alias: bool,
    retries: u8,
    has_guest: bool,
}

// === impl State ===

impl Default for State {
    fn default() -> Self {
        Self { weights: [1; BACKENDS], streams: 2_000, has_alias: true, retries: 2, has_guest: true }
    }
}

impl State {
    pub(crate) fn change(&mut self, change: Change) {
        match change {
            Change::Weights(weights) => self.weights = weights,
            Change::Limits(streams) => self.streams = streams,
            Change::Routes { alias, retries } => (self.has_alias, self.retries) = (alias, retries),
            Change::Keys { guest } => self.has_guest = guest,
        }
    }

    /// The file. Deadlines are short, so that a minute has many of them.
    pub(crate) fn yaml(&self, urls: &[String; BACKENDS], ca: &Path) -> String {
        let backend = |index: usize| {
            let (url, weight) = (&urls[index], self.weights[index]);
            let more = match BACKENDS - index {
                1 => format!(", http2: true, ca: {{ file: \"{}\" }}", ca.display()),
                2 => ", http2: true".to_owned(),
                _ => String::new(),
            };
            let name = backend_name(index);
            format!("{{ name: {name}, url: \"{url}\", weight: {weight}{more} }}")
        };
        let backends: Vec<String> = (0..BACKENDS).map(backend).collect();
        let key = |name: &str, key: &str| {
            format!("{{ name: {name}, tenant: {name}s, digest: \"{}\" }}", KeyDigest::of(key.as_bytes()))
        };
        let mut keys = vec![key("alice", ALICE)];
        keys.extend(self.has_guest.then(|| key("guest", GUEST)));
        format!(
            "pools:\n- name: llama\n  backends: [{backends}]\n  credential: {{ secret: credential }}\n  \
             health: {{ every: 500ms, timeout: 500ms, healthy_after: 1, unhealthy_after: 3 }}\n  \
             breaker: {{ failures: 8, open: 300ms, slow_start: 500ms }}\n\
             routes:\n- model: {MODEL}\n  aliases: [{alias}]\n  targets: [{{ pool: llama }}]\n  retries: {retries}\n  \
             deadlines: {{ connect: 1s, first_token: 3s, idle: 2s, total: 20s }}\n  heartbeat: 1s\n\
             tenants: [{{ name: alices }}, {{ name: guests }}]\nkeys: [{keys}]\n\
             secrets: [{{ name: credential, from: {{ env: {variable} }} }}]\n\
             limits: {{ streams: {streams}, queue: 50, queue_wait: 200ms }}\n",
            backends = backends.join(", "),
            alias = if self.has_alias { ALIAS } else { "" },
            retries = self.retries,
            keys = keys.join(", "),
            variable = CREDENTIAL.0,
            streams = self.streams,
        )
    }
}

/// The name of a backend.
pub(crate) fn backend_name(index: usize) -> String {
    format!("gpu-{index}")
}
