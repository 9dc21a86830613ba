//! What a token costs in the relay's own work: cutting a burst into events and watching them.
#![expect(clippy::expect_used, reason = "what a bench is fed with is known to be good")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ntonix_llm::{
    call::{Call, Op},
    sse::{Decoder, Keep, Splitter},
    watch::Watch,
};

const EVENTS: u64 = 200;
const LIMIT: usize = 8 * 1024 * 1024;

/// A stream as vLLM sends it; `null_usage`: with the member that it adds when usage was asked for.
fn stream(null_usage: bool) -> Bytes {
    let usage = if null_usage { r#","usage":null"# } else { "" };
    let event = |token: u64| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
             \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"token {token}\"}},\"logprobs\":null,\
             \"finish_reason\":null}}]{usage}}}\n\n"
        )
    };
    (0..EVENTS).map(event).collect::<String>().into()
}

fn call() -> Call {
    let body = Bytes::from_static(br#"{"model":"m","stream":true,"messages":[]}"#);
    Call::parse(Op::ChatCompletions, body).expect("a call")
}

fn relay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, null_usage) in [("watched", false), ("usage taken out", true)] {
        let (bytes, call) = (stream(null_usage), call());
        let parts = || (Splitter::new(LIMIT), Watch::new(&call, true), bytes.clone());
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                parts,
                |(mut splitter, mut watch, bytes)| splitter.scan_for(bytes, &mut watch),
                BatchSize::SmallInput,
            );
        });
    }
    let bytes = stream(false);
    group.bench_function("cut only", |bencher| {
        bencher.iter_batched(
            || (Splitter::new(LIMIT), bytes.clone()),
            |(mut splitter, bytes)| splitter.scan(bytes, &mut |_| Keep::Forward),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("decoded by a client", |bencher| {
        bencher.iter(|| {
            let mut decoder = Decoder::new(LIMIT);
            decoder.feed(&bytes).expect("within the limit");
            black_box(decoder.by_ref().count())
        });
    });
    group.finish();
}

criterion_group!(benches, relay);
criterion_main!(benches);
