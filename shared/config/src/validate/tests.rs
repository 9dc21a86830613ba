//! Drafts that are wrong in one thing, and what is said of it.

use std::{path::Path, time::Duration};

use crate::{Balance, Config, Dialect, Faults, Limits, ModelPattern, Source, validate};

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn check(text: &str) -> Result<Config, Faults> {
    validate(&Source::read(text, Path::new("/")).unwrap().draft)
}

fn faults(text: &str) -> Vec<String> {
    check(text).err().into_iter().flatten().map(|fault| fault.to_string()).collect()
}

/// A pool "p" with one good backend, and what else is written.
fn with_pool(rest: &str) -> String {
    format!("pools: [{{name: p, backends: [{{name: a, url: 'http://a'}}]}}]\n{rest}")
}

fn one(text: &str) -> String {
    let mut found = faults(text);
    assert_eq!(found.len(), 1, "{text}: {found:#?}");
    found.remove(0)
}

#[test]
fn a_name_that_is_none_is_refused() {
    for bad in ["", "A", "-a", "a_b", "a b", "ü", &"a".repeat(64)] {
        let text = format!("tenants: [{{name: '{bad}'}}]");
        assert!(one(&text).starts_with("tenants[0].name: "), "{bad}");
    }
    assert!(check("tenants: [{name: 0-a}]").is_ok());
}

#[test]
fn a_repeated_name_is_refused_and_the_first_is_named() {
    assert_eq!(
        one("tenants: [{name: a}, {name: b}, {name: a}]"),
        "tenants[2].name: the name \"a\" is taken by tenants[0].name"
    );
    let pools = "pools: [{name: p, backends: [{name: a, url: 'http://a'}, {name: a, url: 'http://A:80/'}]}]";
    assert_eq!(
        faults(pools),
        [
            "pools[0].backends[1].name: the name \"a\" is taken by pools[0].backends[0].name",
            "pools[0].backends[1].url: the address \"http://a:80\" is taken by pools[0].backends[0].url",
        ]
    );
}

#[test]
fn models_and_aliases_share_one_set_of_names() {
    let routes = "routes: [{model: a, aliases: [b, b], targets: [{pool: p}]}, {model: b, aliases: [a], targets: [{pool: p}]}, {model: 'x*', targets: [{pool: p}]}, {model: 'x*', targets: [{pool: p}]}]";
    let found = faults(&with_pool(routes));
    let paths: Vec<&str> = found.iter().filter_map(|fault| fault.split(": ").next()).collect();
    assert_eq!(paths, ["routes[0].aliases[1]", "routes[1].model", "routes[1].aliases[0]", "routes[3].model"]);
}

#[test]
fn a_name_that_leads_nowhere_is_refused_with_the_nearest_one() {
    assert_eq!(
        one(&with_pool("routes: [{model: a, targets: [{pool: p}], fallback: [{pool: pp}]}]")),
        "routes[0].fallback[0].pool: no pool is named \"pp\"; did you mean \"p\"?"
    );
    assert_eq!(
        one(&format!("tenants: [{{name: research}}]\nkeys: [{{name: k, tenant: reserch, digest: '{DIGEST}'}}]")),
        "keys[0].tenant: no tenant is named \"reserch\"; did you mean \"research\"?"
    );
    let pool = "pools: [{name: p, backends: [{name: a, url: 'http://a'}], credential: {secret: key}}]";
    assert_eq!(one(pool), "pools[0].credential.secret: no secret is named \"key\"");
}

#[test]
fn weight_0_everywhere_is_refused() {
    let backends =
        "pools: [{name: p, backends: [{name: a, url: 'http://a', weight: 0}, {name: b, url: 'http://b', weight: 0}]}]";
    assert_eq!(one(backends), "pools[0].backends: must have at least one backend with a weight above 0");
    let targets = with_pool("routes: [{model: a, targets: [{pool: p, weight: 0}], fallback: [{pool: p, weight: 0}]}]");
    assert_eq!(one(&targets), "routes[0].targets: must have at least one target with a weight above 0");
}

#[test]
fn a_pool_without_backends_and_a_route_without_targets_are_refused() {
    assert_eq!(one("pools: [{name: p}]"), "pools[0].backends: must have at least one backend");
    assert_eq!(one("routes: [{model: a}]"), "routes[0].targets: must have at least one target");
}

#[test]
fn a_bad_glob_or_alias_is_refused() {
    for (route, path) in [
        ("model: 'a[0-9]*'", "routes[0].model: is a bad glob"),
        ("model: ''", "routes[0].model: must not be empty"),
        ("model: a, aliases: ['b*']", "routes[0].aliases[0]: must be an exact name"),
        ("model: a, aliases: ['']", "routes[0].aliases[0]: must not be empty"),
        ("model: 'a*', aliases: [b]", "routes[0].targets[0].model: is missing"),
    ] {
        let found = one(&with_pool(&format!("routes: [{{{route}, targets: [{{pool: p}}]}}]")));
        assert!(found.starts_with(path), "{found}");
    }
    assert!(one("tenants: [{name: t, models: ['{a}']}]").starts_with("tenants[0].models[0]: is a bad glob"));
}

#[test]
fn what_is_out_of_its_range_is_refused() {
    for (place, below, least, most, above) in [
        ("backends: [{name: a, url: 'http://a', weight: §}]", "-", "1", "1000", "1001"),
        ("backends: [{name: a, url: 'http://a', max_streams: §}]", "0", "1", "1000000", "1000001"),
        ("health: {every: §}", "99ms", "100ms", "1h", "3601s"),
        ("health: {timeout: §}", "9ms", "10ms", "1m", "61s"),
        ("health: {healthy_after: §}", "0", "1", "100", "101"),
        ("health: {unhealthy_after: §}", "0", "1", "100", "101"),
        ("breaker: {failures: §}", "0", "1", "1000", "1001"),
        ("breaker: {open: §}", "99ms", "100ms", "1h", "61m"),
        ("breaker: {slow_start: §}", "-1s", "0s", "1h", "61m"),
    ] {
        let filled = if place.starts_with("backends") {
            place.to_owned()
        } else {
            format!("backends: [{{name: a, url: 'http://a'}}], {place}")
        };
        range_holds(&format!("pools: [{{name: p, {filled}}}]"), below, [least, most], above);
    }
    for (place, below, least, most, above) in [
        ("retries: §", "-", "0", "10", "11"),
        ("heartbeat: §", "999ms", "1s", "1h", "3601s"),
        ("deadlines: {connect: §}", "0s", "1ms", "1m", "61s"),
        ("deadlines: {first_token: §}", "-5s", "1ms", "1h", "61m"),
        ("deadlines: {idle: §}", "999us", "1ms", "1h", "61m"),
        ("deadlines: {total: §}", "0s", "1ms", "24h", "1441m"),
        ("targets: [{pool: p}, {pool: p, weight: §}]", "-", "0", "1000", "1001"),
    ] {
        let filled =
            if place.starts_with("targets") { place.to_owned() } else { format!("targets: [{{pool: p}}], {place}") };
        range_holds(&with_pool(&format!("routes: [{{model: a, {filled}}}]")), below, [least, most], above);
    }
    for (place, below, least, most, above) in [
        ("tenants: [{name: t, limits: {requests_per_minute: §}}]", "0", "1", "10000000", "10000001"),
        ("tenants: [{name: t, limits: {streams: §}}]", "0", "1", "1000000", "1000001"),
        ("limits: {streams: §}", "0", "1", "1000000", "1000001"),
        ("limits: {queue: §}", "-", "0", "1000000", "1000001"),
        ("limits: {queue_wait: §}", "-1ms", "0s", "1m", "61s"),
        ("limits: {body: §}", "1023", "1KiB", "1GiB", "1025MiB"),
    ] {
        range_holds(place, below, [least, most], above);
    }
}

/// `-` for what is below: the type has nothing below.
fn range_holds(text: &str, below: &str, inside: [&str; 2], above: &str) {
    for good in inside {
        assert_eq!(faults(&text.replace('§', good)), [""; 0], "{text} with {good}");
    }
    for bad in [below, above].into_iter().filter(|bad| *bad != "-") {
        let fault = one(&text.replace('§', bad));
        assert!(fault.contains(": must be from "), "{text} with {bad}: {fault}");
    }
}

#[test]
fn a_backend_without_a_good_url_is_refused() {
    for (url, reason) in [
        ("", "is missing"),
        ("gpu:80", "must start with http:// or https://"),
        ("http://u:p@a", "must not have a user"),
    ] {
        let found = one(&format!("pools: [{{name: p, backends: [{{name: a, url: '{url}'}}]}}]"));
        assert!(found.starts_with(&format!("pools[0].backends[0].url: {reason}")), "{found}");
    }
    let ca = "pools: [{name: p, backends: [{name: a, url: 'https://a', ca: {}}]}]";
    assert_eq!(one(ca), "pools[0].backends[0].ca.file: is missing");
    let health = "pools: [{name: p, backends: [{name: a, url: 'http://a'}], health: {path: health}}]";
    assert!(one(health).starts_with("pools[0].health.path: must start with"));
}

#[test]
fn a_bad_digest_is_refused_without_repeating_it() {
    let found = one("tenants: [{name: t}]\nkeys: [{name: k, tenant: t, digest: ntx_hunter2}]");
    assert_eq!(found, "keys[0].digest: must be \"sha256:\" and 64 lower-case hex digits");
    let twice = format!(
        "tenants: [{{name: t}}]\nkeys: [{{name: k, tenant: t, digest: '{DIGEST}'}}, {{name: l, tenant: t, digest: '{DIGEST}'}}]"
    );
    assert_eq!(one(&twice), "keys[1].digest: is taken by keys[0].digest", "what was pasted is not repeated");
}

#[test]
fn of_a_variable_with_its_value_only_the_name_is_repeated() {
    let found = one("secrets: [{name: s, from: {env: 'OPENAI_KEY=sk-very-secret'}}]");
    let said = "must have the name of an environment variable in env, and not its value: \"OPENAI_KEY=…\"";
    assert_eq!(found, format!("secrets[0].from: {said}"));
}

#[test]
fn a_name_without_end_is_neither_repeated_nor_compared() {
    let (long, other) = ("b".repeat(100_000), "c".repeat(100_000));
    let pool = format!("pools: [{{name: {long}, backends: [{{name: a, url: 'http://a'}}]}}]");
    let found = faults(&format!("{pool}\nroutes: [{{model: a, targets: [{{pool: {other}}}]}}]"));
    assert_eq!(found.len(), 2, "{found:.200?}");
    assert!(found.iter().all(|fault| fault.len() < 500 && !fault.contains("did you mean")), "{found:.200?}");
}

#[test]
fn of_many_names_that_lead_nowhere_the_first_get_a_hint_and_all_are_told() {
    let pools: String =
        (0..300).map(|n| format!("{{name: pool-{n}, backends: [{{name: a, url: 'http://a'}}]}}, ")).collect();
    let routes: String = (0..300).map(|n| format!("{{model: m{n}, targets: [{{pool: pol-{n}}}]}}, ")).collect();
    let found = faults(&format!("pools: [{pools}]\nroutes: [{routes}]"));
    assert_eq!(found.len(), 300);
    let hinted = found.iter().filter(|fault| fault.contains("did you mean")).count();
    assert!((10..=200).contains(&hinted), "300 names of 300: {hinted} hints");
}

#[test]
fn globs_that_are_too_many_to_compare_are_a_warning() {
    let glob =
        |n: usize| format!("{{model: '*{}b{n:05}?{}', targets: [{{pool: p}}]}}, ", "a".repeat(120), "a".repeat(120));
    let text = with_pool(&format!("routes: [{}]", (0..500).map(glob).collect::<String>()));
    let warnings = check(&text).unwrap().warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].reason.starts_with("nobody looked whether this route"), "{warnings:?}");
}

#[test]
fn a_secret_without_a_source_is_refused() {
    for from in ["", ", from: {}", ", from: {env: ''}", ", from: {env: 'A=B'}", ", from: {file: ''}"] {
        assert!(one(&format!("secrets: [{{name: s{from}}}]")).starts_with("secrets[0].from: must have "), "{from}");
    }
}

#[test]
fn a_value_of_a_newer_version_is_refused() {
    let mut draft = Source::read(&with_pool(""), Path::new("/")).unwrap().draft;
    (draft.pools[0].dialect, draft.pools[0].health) = (77, None);
    let found = validate(&draft).unwrap_err().to_string();
    assert_eq!(found, "pools[0].dialect: has the value 77, which this version does not know");
}

#[test]
fn every_fault_is_told_at_once() {
    let text = "pools: [{name: P, backends: [{name: a, url: x, weight: 0}], breaker: {open: -1s}}]\nroutes: [{model: '', targets: [{pool: q}]}]\nlimits: {streams: 0}\n";
    assert_eq!(faults(text).len(), 7, "{:#?}", faults(text));
}

#[test]
fn an_empty_draft_is_open_and_has_every_default() {
    let config = check("{}").unwrap();
    assert!(config.is_open());
    assert_eq!(
        config.limits,
        Limits { streams: 10_000, queue: 1_000, queue_wait: Duration::from_secs(1), body: 32 << 20 }
    );
    assert!(!check("tenants: [{name: t}]").unwrap().is_open());
}

#[test]
fn what_was_not_written_has_its_default() {
    let config = check(&with_pool("routes: [{model: a, targets: [{pool: p}]}]")).unwrap();
    let (pool, route) = (&config.pools[0], &config.routes[0]);
    assert_eq!((pool.dialect, pool.balance, pool.backends[0].weight), (Dialect::OpenAi, Balance::LeastLoaded, 1));
    assert_eq!(
        (pool.health.path.as_str(), pool.health.every, pool.health.timeout),
        ("/health", Duration::from_secs(5), Duration::from_secs(2))
    );
    assert_eq!((pool.breaker.failures, pool.breaker.open), (5, Duration::from_secs(10)));
    assert_eq!((route.retries, route.heartbeat), (2, Some(Duration::from_secs(15))));
    assert_eq!(
        (route.deadlines.first_token, route.deadlines.total),
        (Duration::from_secs(60), Duration::from_secs(1800))
    );
    assert_eq!(route.model, ModelPattern::Exact("a".to_owned()));
    assert_eq!(route.targets[0].model, None);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = with_pool(
        "routes: [{model: 'l*', targets: [{pool: p}]}, {model: 'll*', targets: [{pool: p}]}, {model: llama, targets: [{pool: p}]}]\nsecrets: [{name: s, from: {env: A}}]\n",
    )
    .replace("backends: [", "backends: [{name: b, url: 'http://b', ca: {file: /x}}, ")
    .replace("pools: [", "pools: [{name: q, backends: [{name: a, url: 'http://a'}]}, ");
    let config = check(&text).unwrap();
    let warnings: Vec<String> =
        config.warnings().iter().map(|warning| format!("{}: {}", warning.path, warning.reason)).collect();
    assert_eq!(
        warnings,
        [
            "routes[1].model: is never reached: \"l*\" stands before it and matches everything that it matches",
            "pools[0]: no route leads to \"q\"",
            "pools[1].backends[0].ca: is without meaning: the URL is http, not https",
            "secrets[0]: no pool uses \"s\"",
        ]
    );
}

#[test]
fn a_managed_key_without_its_tenant_opens_nothing() {
    let config = check("tenants: [{name: t}]").unwrap();
    let key = |tenant: &str, digest: &str| ntonix_proto::config::v1::Key {
        name: "k".to_owned(),
        tenant: tenant.to_owned(),
        digest: digest.to_owned(),
        expires: None,
    };
    let config = config.with_managed_keys([key("gone", DIGEST), key("t", "sha256:no"), key("t", DIGEST)]);
    assert_eq!(config.keys.len(), 1);
    assert_eq!(config.keys[0].tenant, "t");
}
