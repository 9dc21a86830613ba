//! What is written is read back as it was.

use std::path::Path;

use ntonix_proto::config::v1::{self, resource::Kind, secret_source::Source as From};
use proptest::{collection::vec, option, prelude::*};

use super::{resource_to_json, resource_to_yaml, to_json, to_yaml};
use crate::{Draft, Source};

fn read(text: &str) -> Draft {
    // Without a folder, so that relative paths stay what they are.
    Source::read(text, Path::new("")).unwrap_or_else(|faults| panic!("{faults}\n{text}")).draft
}

/// Any text that people may write, and some that YAML would take for something else.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,12}",
        any::<String>(),
        "(true|no|null|~|1e3|0x1f|1_000|2027-01-01|- a|a: b|#c|\\*x|&y| z |\\.inf|<<)"
    ]
}

fn file() -> impl Strategy<Value = String> {
    "/[a-z]{1,8}"
}

fn duration() -> impl Strategy<Value = Option<prost_types::Duration>> {
    option::of(
        (0..1_000_000_i64, 0..1_000_000_000_i32).prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
    )
}

fn backend() -> impl Strategy<Value = v1::Backend> {
    let ca = option::of(file().prop_map(|file| v1::CertificateAuthority { file }));
    (text(), text(), any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>(), ca).prop_map(
        |(name, url, weight, max_streams, http2, ca)| v1::Backend { name, url, weight, max_streams, http2, ca },
    )
}

fn health() -> impl Strategy<Value = v1::Health> {
    (text(), duration(), any::<Option<u32>>(), any::<Option<u32>>(), duration()).prop_map(
        |(path, every, healthy_after, unhealthy_after, timeout)| v1::Health {
            path,
            every,
            healthy_after,
            unhealthy_after,
            timeout,
        },
    )
}

fn pool() -> impl Strategy<Value = v1::Pool> {
    let breaker = (any::<Option<u32>>(), duration(), duration()).prop_map(|(failures, open, slow_start)| v1::Breaker {
        failures,
        open,
        slow_start,
    });
    let credential = text().prop_map(|secret| v1::Credential { secret });
    (
        text(),
        0..2_i32,
        vec(backend(), 0..3),
        option::of(credential),
        0..3_i32,
        option::of(health()),
        option::of(breaker),
    )
        .prop_map(|(name, dialect, backends, credential, balance, health, breaker)| v1::Pool {
            name,
            dialect,
            backends,
            credential,
            balance,
            health,
            breaker,
        })
}

fn target() -> impl Strategy<Value = v1::Target> {
    (text(), text(), any::<Option<u32>>()).prop_map(|(pool, model, weight)| v1::Target { pool, model, weight })
}

fn route() -> impl Strategy<Value = v1::Route> {
    let deadlines = (duration(), duration(), duration(), duration())
        .prop_map(|(connect, first_token, idle, total)| v1::Deadlines { connect, first_token, idle, total });
    let targets = || vec(target(), 0..3);
    (text(), vec(text(), 0..3), targets(), targets(), option::of(deadlines), any::<Option<u32>>(), duration()).prop_map(
        |(model, aliases, targets, fallback, deadlines, retries, heartbeat)| v1::Route {
            model,
            aliases,
            targets,
            fallback,
            deadlines,
            retries,
            heartbeat,
        },
    )
}

fn tenant() -> impl Strategy<Value = v1::Tenant> {
    let limits = (any::<Option<u32>>(), any::<Option<u32>>())
        .prop_map(|(requests_per_minute, streams)| v1::TenantLimits { requests_per_minute, streams });
    (text(), vec(text(), 0..3), option::of(limits)).prop_map(|(name, models, limits)| v1::Tenant {
        name,
        models,
        limits,
    })
}

fn key() -> impl Strategy<Value = v1::Key> {
    // The years 1 to 9999, as RFC 3339 can say them.
    let time = (-62_135_596_800..253_402_300_800_i64, 0..1_000_000_000_i32)
        .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
    (text(), text(), text(), option::of(time)).prop_map(|(name, tenant, digest, expires)| v1::Key {
        name,
        tenant,
        digest,
        expires,
    })
}

fn secret() -> impl Strategy<Value = v1::Secret> {
    let source = option::of(prop_oneof![text().prop_map(From::Env), file().prop_map(From::File)]);
    let from = option::of(source.prop_map(|source| v1::SecretSource { source }));
    (text(), from).prop_map(|(name, from)| v1::Secret { name, from })
}

fn draft() -> impl Strategy<Value = Draft> {
    let limits = (any::<Option<u32>>(), any::<Option<u32>>(), duration(), any::<Option<u64>>())
        .prop_map(|(streams, queue, queue_wait, body)| v1::Limits { streams, queue, queue_wait, body });
    (
        vec(pool(), 0..3),
        vec(route(), 0..3),
        vec(tenant(), 0..3),
        vec(key(), 0..3),
        vec(secret(), 0..3),
        option::of(limits),
    )
        .prop_map(|(pools, routes, tenants, keys, secrets, limits)| Draft {
            pools,
            routes,
            tenants,
            keys,
            secrets,
            limits,
        })
}

proptest! {
    #[test]
    fn a_draft_survives_yaml(draft in draft()) {
        prop_assert_eq!(read(&to_yaml(&draft)), draft);
    }

    #[test]
    fn a_draft_survives_json(draft in draft()) {
        prop_assert_eq!(read(&to_json(&draft)), draft);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*", base in "[pools:{}\\[\\]&*!|>\\-\n ]*") {
        let _ = Source::read(&text, Path::new("/"));
        let _ = Source::read(&base, Path::new("/"));
    }
}

#[test]
fn what_is_written_reads_well() {
    let text = "pools:\n- name: p\n  balance: weighted-round-robin\n  backends:\n  - name: a\n    url: http://a\n  health:\n    every: 1500ms\nlimits:\n  body: 1MiB\n";
    let written = to_yaml(&read(text));
    for line in ["- name: p", "balance: weighted-round-robin", "url: http://a", "every: 1500ms", "body: 1MiB"] {
        assert!(written.contains(line), "{written}");
    }
}

#[test]
fn a_resource_is_written_without_its_kind() {
    let tenant = v1::Tenant { name: "t".to_owned(), models: vec!["a*".to_owned()], limits: None };
    let resource = v1::Resource { kind: Some(Kind::Tenant(tenant)) };
    assert_eq!(resource_to_yaml(&resource), "name: t\nmodels:\n- a*\n");
    assert_eq!(resource_to_json(&resource), "{\n  \"name\": \"t\",\n  \"models\": [\n    \"a*\"\n  ]\n}\n");
}
