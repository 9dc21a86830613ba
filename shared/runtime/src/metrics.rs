//! Counters, gauges and histograms in the OpenMetrics text form, cheap enough for every token.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::family::MetricConstructor;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry as Metrics};

pub use prometheus_client::collector::Collector;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;

/// The labels of one series: names from the code, values from closed enums or from the configuration.
pub type Labels<const N: usize> = [(&'static str, String); N];

/// What a scrape's `content-type` says.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// More buckets than this are cut off, so that a [`Tally`] needs no allocation.
const BUCKETS_MAX: usize = 24;

/// All metrics of a plane. Clones share them.
#[derive(Clone, Default)]
pub struct Registry {
    metrics: Arc<Mutex<Metrics>>,
}

/// Upper bounds of a histogram's buckets, ascending, at most 24; a last one without bound is added.
pub type Buckets = &'static [Duration];

/// A histogram of durations, counted in atomics. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Histogram {
    inner: Arc<Inner>,
}

/// Counts that one stream keeps to itself until it hands them over, so that a token costs no shared memory.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: [u32; BUCKETS_MAX + 1],
    sum_ns: u64,
}

/// Makes the histograms of a family, all with the same buckets.
#[derive(Clone, Copy, Debug)]
pub struct WithBuckets(Buckets);

#[derive(Debug)]
struct Inner {
    bounds_ns: Vec<u64>,
    /// One for each bound and one beyond.
    counts: Vec<AtomicU64>,
    sum_ns: AtomicU64,
}

// === impl Registry ===

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up a metric or a family. Counters get the suffix `_total` by themselves.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        // The encoder ends the help text with a full stop of its own.
        self.locked().register(name, help.trim_end_matches('.'), metric);
    }

    /// Takes up metrics that are worked out anew for each scrape.
    pub fn register_collector(&self, collector: Box<dyn Collector>) {
        self.locked().register_collector(collector);
    }

    /// A new counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, counter.clone());
        counter
    }

    /// A new gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// A new histogram; its name ends in `_seconds`.
    pub fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        let histogram = Histogram::new(buckets);
        self.register(name, help, histogram.clone());
        histogram
    }

    /// A new family of counters.
    pub fn counters<const N: usize>(&self, name: &str, help: &str) -> Family<Labels<N>, Counter> {
        let family = Family::default();
        self.register(name, help, family.clone());
        family
    }

    /// A new family of gauges.
    pub fn gauges<const N: usize>(&self, name: &str, help: &str) -> Family<Labels<N>, Gauge> {
        let family = Family::default();
        self.register(name, help, family.clone());
        family
    }

    /// A new family of histograms with the same buckets; its name ends in `_seconds`.
    pub fn histograms<const N: usize>(
        &self,
        name: &str,
        help: &str,
        buckets: Buckets,
    ) -> Family<Labels<N>, Histogram, WithBuckets> {
        let family = Family::new_with_constructor(WithBuckets(buckets));
        self.register(name, help, family.clone());
        family
    }

    /// All metrics as text, `# EOF` at the end.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail, and a collector that fails only cuts its own lines short.
        let _ = text::encode(&mut out, &self.locked());
        out
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Metrics> {
        // A panic while registering leaves the registry whole.
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registry")
    }
}

/// Several texts of [`Registry::encode`] as one. No metric may be in two of them.
pub fn join<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut all: String = texts.into_iter().map(|text| text.trim_end_matches("# EOF\n")).collect();
    all.push_str("# EOF\n");
    all
}

// === impl Histogram ===

impl Histogram {
    /// An empty histogram.
    pub fn new(buckets: Buckets) -> Self {
        let bounds_ns: Vec<u64> = buckets.iter().take(BUCKETS_MAX).map(|bound| nanos(*bound)).collect();
        let counts = (0..=bounds_ns.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { bounds_ns, counts, sum_ns: AtomicU64::new(0) }) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let ns = nanos(duration);
        if let Some(count) = self.inner.counts.get(self.bucket(ns)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Counts one duration in `tally`, which is for this histogram alone.
    pub fn tally(&self, tally: &mut Tally, duration: Duration) {
        let ns = nanos(duration);
        if let Some(count) = tally.counts.get_mut(self.bucket(ns)) {
            *count = count.saturating_add(1);
        }
        tally.sum_ns = tally.sum_ns.saturating_add(ns);
    }

    /// Takes over what `tally` has counted and empties it.
    pub fn observe_n(&self, tally: &mut Tally) {
        for (count, more) in self.inner.counts.iter().zip(&tally.counts) {
            if *more > 0 {
                count.fetch_add(u64::from(*more), Ordering::Relaxed);
            }
        }
        self.inner.sum_ns.fetch_add(tally.sum_ns, Ordering::Relaxed);
        *tally = Tally::default();
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn bucket(&self, ns: u64) -> usize {
        self.inner.bounds_ns.partition_point(|bound| *bound < ns)
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.inner.bounds_ns.iter().map(|ns| seconds(*ns)).chain([f64::INFINITY]);
        let counts = self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.inner.sum_ns.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl MetricConstructor<Histogram> for WithBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: Buckets = &[Duration::from_millis(1), Duration::from_millis(10)];

    #[test]
    fn a_duration_on_a_bound_belongs_below_it() {
        let registry = Registry::new();
        let histogram = registry.histogram("wait_seconds", "How long.", BUCKETS);
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_secs(2));
        let text = registry.encode();
        for line in [
            "# HELP wait_seconds How long.",
            "# TYPE wait_seconds histogram",
            "wait_seconds_sum 2.003",
            "wait_seconds_count 3",
            "wait_seconds_bucket{le=\"0.001\"} 1",
            "wait_seconds_bucket{le=\"0.01\"} 2",
            "wait_seconds_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_tally_counts_as_single_observations_do() {
        let (one, other) = (Histogram::new(BUCKETS), Histogram::new(BUCKETS));
        let mut tally = Tally::default();
        for ms in [0, 1, 5, 50, 500] {
            one.observe(Duration::from_millis(ms));
            other.tally(&mut tally, Duration::from_millis(ms));
        }
        assert_eq!(other.count(), 0);
        other.observe_n(&mut tally);
        other.observe_n(&mut tally);
        let encoded = |histogram: &Histogram| {
            let registry = Registry::new();
            registry.register("x", "x", histogram.clone());
            registry.encode()
        };
        assert_eq!(encoded(&one), encoded(&other));
    }

    #[test]
    fn too_many_buckets_are_cut_off_rather_than_lost() {
        const MANY: Buckets = &[Duration::from_secs(1); BUCKETS_MAX + 5];
        let histogram = Histogram::new(MANY);
        let mut tally = Tally::default();
        histogram.tally(&mut tally, Duration::from_secs(9));
        histogram.observe_n(&mut tally);
        assert_eq!(histogram.count(), 1);
    }

    #[test]
    fn families_are_told_apart_by_their_labels() {
        let registry = Registry::new();
        let family = registry.counters::<1>("calls", "Calls.");
        family.get_or_create_owned(&[("pool", "a\"b".to_owned())]).inc();
        let text = registry.encode();
        assert!(text.contains("calls_total{pool=\"a\\\"b\"} 1"), "{text}");
    }

    #[test]
    fn two_planes_share_one_page() {
        let (one, other) = (Registry::new(), Registry::new());
        one.counter("one", "One.").inc();
        other.gauge("other", "Other.").set(2);
        let page = join([one.encode().as_str(), other.encode().as_str()]);
        assert!(page.contains("one_total 1") && page.contains("other 2"), "{page}");
        assert_eq!(page.matches("# EOF").count(), 1);
        assert!(page.ends_with("# EOF\n"));
    }
}
