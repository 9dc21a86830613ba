use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use ntonix_config::KeyDigest;
use ntonix_llm::call::{Call, Op};
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::*;
use crate::{
    exchange::{Client, Leave, Source, Transport},
    live::{Cell, Live, Origin, OriginSource},
    metrics::Metrics,
    refusal::Kind,
    relay::opening::Opening,
    usage::UsageLog,
};

/// Answers at once, and counts how often it was asked.
#[derive(Clone, Debug, Default)]
struct Innermost {
    asked: Arc<AtomicUsize>,
    panics: bool,
    relay_panics: bool,
}

impl Service<Exchange> for Innermost {
    type Response = Reply;
    type Error = Refusal;
    type Future = BoxFuture<'static, Result<Reply, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _exchange: Exchange) -> Self::Future {
        self.asked.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "on purpose");
        if self.relay_panics {
            let opening = Opening::new(Box::pin(async { panic!("on purpose") }), None);
            let reply = Reply::stream(HeaderMap::new(), Source::Opening(Box::new(opening)));
            return Box::pin(async { Ok(reply) });
        }
        Box::pin(async { Ok(Reply::full(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"{}"))) })
    }
}

const KEY: &str = "ntx_key";

fn live(metrics: &Metrics, limits: &str) -> Arc<Live> {
    let text = format!(
        "pools:\n  - {{ name: p, backends: [{{ name: b, url: 'http://127.0.0.1:1' }}] }}\n\
         routes:\n  - {{ model: m, targets: [{{ pool: p }}] }}\n  - {{ model: other, targets: [{{ pool: p }}] }}\n\
         tenants:\n  - {{ name: t, models: [m, gone], limits: {{ requests_per_minute: 2, streams: 1 }} }}\n\
         keys:\n  - {{ name: k, tenant: t, digest: '{}' }}\n\
         limits: {limits}\n",
        KeyDigest::of(KEY.as_bytes())
    );
    let source = ntonix_config::Source::read(&text, Path::new("/")).unwrap();
    let config = ntonix_config::validate(&source.draft).unwrap();
    let cell = Cell::new(metrics.clone(), 1);
    let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
    cell.swap(cell.prepare(&config, origin).unwrap())
}

/// A stack around a stand-in for the backends.
struct Bench {
    metrics: Metrics,
    live: Arc<Live>,
    admission: Arc<Admission>,
    innermost: Innermost,
}

impl Bench {
    fn new() -> Self {
        let metrics = Metrics::new();
        let live = live(&metrics, "{ streams: 2, queue: 0 }");
        let admission = Arc::new(Admission::new(metrics.clone()));
        Self { metrics, live, admission, innermost: Innermost::default() }
    }

    fn books(&self) -> Books {
        Books { metrics: self.metrics.clone(), usage: UsageLog::default() }
    }

    fn asked(&self) -> usize {
        self.innermost.asked.load(Ordering::SeqCst)
    }

    async fn ask(&self, key: Option<&str>, model: &str) -> Result<Reply, Kind> {
        let body = format!(r#"{{"model":"{model}"}}"#);
        let address: std::net::SocketAddr = "127.0.0.1:9".parse().unwrap();
        let started = Instant::now();
        let client = Client { address: Arc::new(address.into()), transport: Transport::Http1, leave: Leave::default() };
        let call = Call::parse(Op::ChatCompletions, body.into()).unwrap();
        let (client, identity) = (Arc::new(client), self.live.identify(Ok(key), false));
        let live = Arc::clone(&self.live);
        let exchange = Exchange::new("req".into(), live, call, client, Arc::default(), identity, started);
        let stack = stack(&self.books(), Arc::clone(&self.admission), self.innermost.clone());
        stack.oneshot(exchange).await.map_err(|refusal| refusal.kind())
    }

    fn outcomes(&self) -> Vec<String> {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|line| line.starts_with("ntonix_exchanges_total{"));
        let mut outcomes: Vec<_> = lines
            .map(|line| {
                let outcome = line.split("outcome=\"").nth(1).unwrap();
                format!("{} {}", outcome.split('"').next().unwrap(), line.rsplit(' ').next().unwrap())
            })
            .collect();
        outcomes.sort();
        outcomes
    }
}

#[tokio::test]
async fn an_unauthenticated_call_touches_nothing_behind_authentication() {
    let bench = Bench::new();
    for key in [None, Some("ntx_wrong"), Some("")] {
        for _ in 0..5 {
            assert_eq!(bench.ask(key, "m").await.unwrap_err(), Kind::InvalidApiKey);
            // Not even whether a model exists is told.
            assert_eq!(bench.ask(key, "nobody-has-this").await.unwrap_err(), Kind::InvalidApiKey);
        }
    }
    assert_eq!(bench.asked(), 0);
    // The tenant's two requests a minute are all still there.
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    assert_eq!(bench.ask(Some(KEY), "m").await.unwrap_err(), Kind::RateLimited);
    assert_eq!(bench.asked(), 2);
}

#[tokio::test]
async fn a_model_that_does_not_exist_or_is_not_allowed_uses_up_no_quota() {
    let bench = Bench::new();
    for _ in 0..5 {
        assert_eq!(bench.ask(Some(KEY), "gone").await.unwrap_err(), Kind::ModelNotFound);
        assert_eq!(bench.ask(Some(KEY), "other").await.unwrap_err(), Kind::Forbidden);
    }
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    assert_eq!(bench.asked(), 1);
}

#[tokio::test]
async fn a_tenants_stream_counts_until_its_answer_is_dropped() {
    let bench = Bench::new();
    let reply = bench.ask(Some(KEY), "m").await.unwrap();
    assert_eq!(bench.ask(Some(KEY), "m").await.unwrap_err(), Kind::RateLimited, "one stream is the limit");
    drop(reply);
    drop(bench.ask(Some(KEY), "m").await.unwrap());
}

#[tokio::test]
async fn a_full_worker_refuses_before_it_looks_at_the_key() {
    let mut bench = Bench::new();
    bench.live = live(&bench.metrics, "{ streams: 1, queue: 0 }");
    let reply = bench.ask(Some(KEY), "m").await.unwrap();
    assert_eq!(bench.ask(None, "m").await.unwrap_err(), Kind::Overloaded);
    drop(reply);
    assert_eq!(bench.ask(None, "m").await.unwrap_err(), Kind::InvalidApiKey);
}

#[tokio::test]
async fn a_panic_ends_one_exchange_and_gives_everything_back() {
    let mut bench = Bench::new();
    bench.innermost.panics = true;
    assert_eq!(bench.ask(Some(KEY), "m").await.unwrap_err(), Kind::Internal);
    bench.innermost.panics = false;
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    assert!(bench.metrics.encode().contains("ntonix_panics_total 1"));
    assert!(bench.metrics.encode().contains("ntonix_active_streams 0"));
}

/// O12: a relay is polled by whoever writes to the client, outside of the stack.
#[tokio::test]
async fn a_panic_in_a_relay_ends_its_stream_alone_and_gives_everything_back() {
    let mut bench = Bench::new();
    bench.innermost.relay_panics = true;
    let mut reply = bench.ask(Some(KEY), "m").await.unwrap();
    let refusal = std::future::poll_fn(|cx| reply.body.poll_next(cx)).await.unwrap().unwrap_err();
    assert_eq!(refusal.kind(), Kind::Internal);
    assert!(std::future::poll_fn(|cx| reply.body.poll_next(cx)).await.is_none(), "that was its end");
    let page = bench.metrics.encode();
    assert!(page.contains("ntonix_panics_total 1") && page.contains("ntonix_active_streams 0"), "{page}");
    bench.innermost.relay_panics = false;
    // Its tenant has one stream: it was given back, although the answer is not dropped yet.
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    assert_eq!(bench.outcomes(), ["cancelled 1", "internal 1"]);
}

#[tokio::test]
async fn every_exchange_is_counted_once_whatever_ended_it() {
    let bench = Bench::new();
    let _ = bench.ask(None, "m").await;
    let _ = bench.ask(Some(KEY), "gone").await;
    // Dropped before its body was read: the client has left.
    drop(bench.ask(Some(KEY), "m").await.unwrap());
    let mut reply = bench.ask(Some(KEY), "m").await.unwrap();
    let body = std::future::poll_fn(|cx| reply.body.poll_next(cx)).await.unwrap().unwrap();
    assert_eq!(&body[..], b"{}");
    drop(reply);
    assert_eq!(bench.outcomes(), ["cancelled 1", "completed 1", "invalid_api_key 1", "model_not_found 1"]);
}

#[test]
fn the_future_of_the_stack_stays_small() {
    // It is boxed by the edge once for each exchange.
    let bench = Bench::new();
    let mut stack = worker_stack(&bench.books(), Arc::clone(&bench.admission));
    fn size_of_future<S: Service<Exchange>>(_: &mut S) -> usize {
        std::mem::size_of::<S::Future>()
    }
    assert!(size_of_future(&mut stack) <= 64, "{}", size_of_future(&mut stack));
}
