//! What a request costs before it is routed: reading its body, and changing it for a backend.
#![expect(clippy::expect_used, reason = "what a bench is fed with is known to be good")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ntonix_config::KeyDigest;
use ntonix_llm::call::{Call, Op};

/// A chat with a prompt of so many bytes.
fn chat(prompt: usize) -> Bytes {
    let text = "a line of the prompt, with \\\"quotes\\\"\\n".repeat(prompt / 38);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"stream":true,"model":"llama-3-70b"}}"#);
    body.into()
}

fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("call");
    for (name, prompt) in [("2 KiB", 2 * 1024), ("64 KiB", 64 * 1024), ("1 MiB", 1024 * 1024)] {
        let body = chat(prompt);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("read {name}"), |bencher| {
            bencher.iter(|| Call::parse(Op::ChatCompletions, black_box(body.clone())));
        });
        let call = Call::parse(Op::ChatCompletions, body).expect("a call");
        group.bench_function(format!("rewrite {name}"), |bencher| {
            bencher.iter(|| call.body_for(Some("meta-llama/Llama-3-70B"), true));
        });
    }
    group.finish();
    criterion.bench_function("digest of a key", |bencher| {
        bencher.iter(|| KeyDigest::of(black_box(b"ntx_KDdQsCHbKoQb61BC81aHfh71pRrevapGKQ3fvcu5AaO")));
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
