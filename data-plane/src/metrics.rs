//! What a worker counts. Labels come from closed enums or from the configuration, never from a request.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use ntonix_runtime::metrics::{Buckets, Counter, Family, Gauge, Histogram, Labels, Registry, WithBuckets};
use tokio::time::Instant;

use crate::{exchange::Transport, live::Live, refusal::Kind, routing::Route};

/// Everything that a worker counts. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(Arc<Counts>);

/// See [`Metrics`].
#[derive(Debug)]
pub(crate) struct Counts {
    registry: Registry,
    /// Exchanges that ended, by route, transport and outcome.
    exchanges: Family<Labels<3>, Counter>,
    /// Requests that were refused and are no exchange, by code.
    refused_requests: Family<Labels<1>, Counter>,
    /// Exchanges under way.
    pub(crate) active: Gauge,
    /// Exchanges that wait for a place.
    pub(crate) queued: Gauge,
    /// Client connections.
    pub(crate) connections: Gauge,
    /// Panics that were caught.
    pub(crate) panics: Counter,
    lost_records: Counter,
    dropped_log_lines: Counter,
    request_duration: Family<Labels<1>, Histogram, WithBuckets>,
    time_to_first_token: Family<Labels<1>, Histogram, WithBuckets>,
    time_per_output_chunk: Family<Labels<1>, Histogram, WithBuckets>,
    overhead: Family<Labels<1>, Histogram, WithBuckets>,
    tokens: Family<Labels<2>, Counter>,
    attempts: Family<Labels<2>, Counter>,
    failures: Family<Labels<2>, Counter>,
    /// The revision that runs.
    pub(crate) revision: Gauge,
    /// Revisions refused.
    pub(crate) refused_revisions: Counter,
    config_age: Gauge,
    backend_streams: Family<Labels<2>, Gauge>,
    backend_state: Family<Labels<3>, Gauge>,
}

/// What is counted of one route; looked up once for each revision, so that an exchange finds it ready.
#[derive(Clone, Debug)]
pub(crate) struct RouteMetrics {
    /// From the arrival to the end.
    pub(crate) request_duration: Histogram,
    /// From the arrival to the first event.
    pub(crate) time_to_first_token: Histogram,
    /// From one event to the next.
    pub(crate) time_per_output_chunk: Histogram,
    /// From the arrival to the moment that the first backend was asked.
    pub(crate) overhead: Histogram,
    /// Tokens read.
    pub(crate) prompt_tokens: Counter,
    /// Tokens generated.
    pub(crate) completion_tokens: Counter,
    /// Of the exchanges that ended, those that were completed, by transport; made when the first one is.
    completed: [OnceLock<Counter>; Transport::COUNT],
}

/// What is counted of one backend.
#[derive(Clone, Debug)]
pub(crate) struct BackendMetrics {
    /// Attempts made.
    pub(crate) attempts: Counter,
    /// Attempts that failed.
    pub(crate) failures: Counter,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const OVERHEAD: Buckets = &[
    Duration::from_micros(10),
    Duration::from_micros(25),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    ms(1),
    Duration::from_micros(2500),
    ms(5),
    ms(10),
    ms(100),
    ms(1000),
];
const BETWEEN: Buckets = &[
    ms(1),
    Duration::from_micros(2500),
    ms(5),
    ms(10),
    ms(25),
    ms(50),
    ms(75),
    ms(100),
    ms(150),
    ms(200),
    ms(300),
    ms(400),
    ms(500),
    ms(750),
    ms(1000),
    ms(2500),
    ms(10_000),
];
const FIRST: Buckets = &[
    ms(1),
    ms(5),
    ms(10),
    ms(20),
    ms(40),
    ms(60),
    ms(80),
    ms(100),
    ms(250),
    ms(500),
    ms(750),
    ms(1000),
    ms(2500),
    ms(5000),
    ms(7500),
    ms(10_000),
    ms(30_000),
    ms(60_000),
];
const WHOLE: Buckets = &[
    ms(5),
    ms(10),
    ms(50),
    ms(100),
    ms(500),
    ms(1000),
    ms(2500),
    ms(5000),
    ms(10_000),
    ms(30_000),
    ms(60_000),
    ms(300_000),
    ms(1_800_000),
];

/// Is written down what becomes of exchanges? Only a bench does without it, which tells what that costs.
pub(crate) const OBSERVED: bool = !cfg!(feature = "unobserved");

/// The outcome of an exchange that ended well.
pub(crate) const COMPLETED: &str = "completed";
/// The route label of an exchange that no route was found for.
const NO_ROUTE: &str = "";

// === impl Metrics ===

impl Metrics {
    /// All of them, at zero.
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        Self(Arc::new(Counts {
            exchanges: registry.counters(
                "ntonix_exchanges",
                "Exchanges that ended, by route, transport and outcome (completed, cancelled or the code of the refusal)",
            ),
            refused_requests: registry.counters(
                "ntonix_requests_refused",
                "Refused requests that are no exchange, by code: a wrong key at /v1/models or at a WebSocket's handshake, a path that is not there",
            ),
            active: registry.gauge("ntonix_active_streams", "Exchanges under way, streamed or not"),
            queued: registry.gauge("ntonix_queued_exchanges", "Exchanges that wait for a place"),
            connections: registry.gauge("ntonix_client_connections", "Open client connections"),
            panics: registry.counter("ntonix_panics", "Panics that were caught; each is a bug"),
            lost_records: registry.counter(
                "ntonix_usage_records_lost",
                "Records of --usage-log that never reached it, because its disk is full or too slow",
            ),
            dropped_log_lines: registry
                .counter("ntonix_log_lines_dropped", "Lines of the log that stderr did not take in time, or refused"),
            request_duration: registry.histograms(
                "gen_ai_server_request_duration_seconds",
                "From the arrival of a request to the end of its answer",
                WHOLE,
            ),
            time_to_first_token: registry.histograms(
                "gen_ai_server_time_to_first_token_seconds",
                "From the arrival of a streamed request to its first event",
                FIRST,
            ),
            time_per_output_chunk: registry.histograms(
                "gen_ai_client_operation_time_per_output_chunk_seconds",
                "From one event of a stream to the next",
                BETWEEN,
            ),
            overhead: registry.histograms(
                "ntonix_overhead_seconds",
                "From the arrival of a request to asking the first backend, waiting in the queue included",
                OVERHEAD,
            ),
            tokens: registry.counters(
                "ntonix_tokens",
                "Tokens, by route and type (input, output); counted by backends, or estimated when they do not count",
            ),
            attempts: registry.counters("ntonix_backend_attempts", "Attempts, by pool and backend"),
            failures: registry.counters("ntonix_backend_failures", "Attempts that failed, by pool and backend"),
            revision: registry.gauge("ntonix_config_revision", "The revision that runs; 0 for a file or before the first"),
            refused_revisions: registry.counter("ntonix_config_refused", "Revisions that this worker refused"),
            config_age: registry.gauge("ntonix_config_age_seconds", "Since when the configuration runs that runs"),
            backend_streams: registry.gauges("ntonix_backend_streams", "Streams in flight, by pool and backend"),
            backend_state: registry.gauges(
                "ntonix_backend_state",
                "1 for the state that a backend is in: healthy, unhealthy, draining, open (its breaker) or half-open",
            ),
            registry,
        }))
    }
}

// === impl Counts ===

impl Counts {
    /// The metrics of one route.
    pub(crate) fn route(&self, route: &str) -> RouteMetrics {
        let label = [("route", route.to_owned())];
        let tokens =
            |kind: &str| self.tokens.get_or_create_owned(&[("route", route.to_owned()), ("type", kind.to_owned())]);
        RouteMetrics {
            request_duration: self.request_duration.get_or_create_owned(&label),
            time_to_first_token: self.time_to_first_token.get_or_create_owned(&label),
            time_per_output_chunk: self.time_per_output_chunk.get_or_create_owned(&label),
            overhead: self.overhead.get_or_create_owned(&label),
            prompt_tokens: tokens("input"),
            completion_tokens: tokens("output"),
            completed: Default::default(),
        }
    }

    /// The metrics of one backend.
    pub(crate) fn backend(&self, pool: &str, backend: &str) -> BackendMetrics {
        let labels = [("pool", pool.to_owned()), ("backend", backend.to_owned())];
        BackendMetrics {
            attempts: self.attempts.get_or_create_owned(&labels),
            failures: self.failures.get_or_create_owned(&labels),
        }
    }

    /// One exchange ended.
    pub(crate) fn ended(&self, route: Option<&Route>, transport: Transport, outcome: &'static str) {
        let counter = || {
            let name = route.map_or(NO_ROUTE, |route| &route.name);
            let transport = transport.as_label();
            let labels = [("route", name), ("transport", transport), ("outcome", outcome)];
            self.exchanges.get_or_create_owned(&labels.map(|(name, value)| (name, value.to_owned())))
        };
        match route {
            // Found once instead of each time: three strings, a hash and a lock less for most exchanges.
            Some(route) if outcome == COMPLETED => {
                route.metrics.completed[transport as usize].get_or_init(counter).inc()
            }
            _ => counter().inc(),
        };
    }

    /// A request was refused that is no exchange.
    pub(crate) fn refused_request(&self, kind: Kind) {
        self.refused_requests.get_or_create_owned(&[("code", kind.as_label().to_owned())]).inc();
    }

    /// Brings what is looked up rather than counted up to date, before a scrape.
    pub(crate) fn look_at(&self, live: &Live) {
        let age = SystemTime::now().duration_since(live.origin().taken).unwrap_or_default();
        self.config_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        // Backends that are gone must not stay on the page.
        self.backend_streams.clear();
        self.backend_state.clear();
        for pool in live.pools() {
            for backend in &pool.backends {
                let label = |name: &'static str, value: &str| (name, value.to_owned());
                let (pool, name) = (label("pool", &pool.name), label("backend", &backend.name));
                let streams = i64::try_from(backend.load.in_flight()).unwrap_or(i64::MAX);
                self.backend_streams.get_or_create_owned(&[pool.clone(), name.clone()]).set(streams);
                let state = label("state", backend.load.state(Instant::now()));
                self.backend_state.get_or_create_owned(&[pool, name, state]).set(1);
            }
        }
    }

    /// So many records of usage were lost so far.
    pub(crate) fn lost_records(&self, so_far: u64) {
        self.lost_records.inc_by(so_far.saturating_sub(self.lost_records.get()));
    }

    /// So many lines of the log were dropped so far.
    pub(crate) fn dropped_log_lines(&self, so_far: u64) {
        self.dropped_log_lines.inc_by(so_far.saturating_sub(self.dropped_log_lines.get()));
    }

    /// All of them as text.
    pub(crate) fn encode(&self) -> String {
        self.registry.encode()
    }
}

impl Deref for Metrics {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{self, tests::swap};

    #[test]
    fn what_is_completed_is_counted_for_its_own_transport() {
        let metrics = Metrics::new();
        let cell = live::Cell::new(metrics.clone(), 1);
        let live = swap(
            &cell,
            "pools: [{ name: p, backends: [{ name: b, url: 'http://127.0.0.1:1' }] }]\n\
             routes: [{ model: m, targets: [{ pool: p }] }]",
        );
        let route = &live.routes().routes()[0];
        let ended = [(Transport::Http1, 1), (Transport::Http2, 2), (Transport::WebSocket, 3)];
        for (transport, times) in ended {
            for _ in 0..times {
                metrics.ended(Some(route), transport, COMPLETED);
            }
        }
        let page = metrics.encode();
        for (transport, times) in ended {
            let labels = format!("route=\"m\",transport=\"{}\",outcome=\"completed\"", transport.as_label());
            let line = format!("ntonix_exchanges_total{{{labels}}} {times}\n");
            assert!(page.contains(&line), "{line} is not on the page: {page}");
        }
    }
}
