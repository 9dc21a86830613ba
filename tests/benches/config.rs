//! What a change costs: checking a large configuration, and finding out what differs.
#![expect(clippy::expect_used, reason = "what a bench is fed with is known to be good")]

use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use ntonix_config::{Draft, Source, diff, snapshot_digest, to_resources, validate};
use prost::Message as _;

/// A configuration of so many pools, each with a route and a tenant.
fn draft(count: usize) -> Draft {
    let mut text = String::new();
    for (section, line) in [
        ("pools", "{ name: p-@, backends: [{ name: b, url: \"http://10.0.0.1:8000\" }] }"),
        ("routes", "{ model: m-@, targets: [{ pool: p-@ }] }"),
        ("tenants", "{ name: t-@, models: [\"m-*\"] }"),
    ] {
        text += &format!("{section}:\n");
        text.extend((0..count).map(|number| format!("  - {}\n", line.replace('@', &number.to_string()))));
    }
    Source::read(&text, Path::new("/")).expect("a draft").draft
}

fn configs(criterion: &mut Criterion) {
    let before = draft(1000);
    let mut after = before.clone();
    after.routes[500].retries = Some(5);
    criterion.bench_function("validate 3000 resources", |bencher| bencher.iter(|| validate(&before)));
    criterion.bench_function("diff 3000 resources, one changed", |bencher| bencher.iter(|| diff(&before, &after)));
    let entries: Vec<_> =
        to_resources(&before).into_iter().map(|(name, resource)| (name, resource.encode_to_vec())).collect();
    criterion.bench_function("digest 3000 resources", |bencher| {
        bencher.iter(|| snapshot_digest(entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))));
    });
}

criterion_group!(benches, configs);
criterion_main!(benches);
