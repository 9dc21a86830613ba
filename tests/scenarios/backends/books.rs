//! The books of a worker before and after an exchange: one record, one count, and the failures of its backends.

use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;
use serde_json::Value;

/// How the books stood.
pub(crate) struct Books<'a> {
    worker: &'a TestWorker,
    records: usize,
    page: String,
}

/// What an exchange must have left in them.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    pub(crate) outcome: &'a str,
    /// Attempts made, and those of them that failed.
    pub(crate) attempts: u64,
    pub(crate) failures: u64,
}

// === impl Books ===

impl<'a> Books<'a> {
    /// Opens them when so many exchanges have ended.
    pub(crate) async fn after(worker: &'a TestWorker, records: usize) -> Self {
        worker.until_records(records).await.unwrap();
        Self { worker, records, page: worker.metrics().await.unwrap() }
    }

    /// One more exchange has ended, as wanted. Returns its record.
    pub(crate) async fn gained(self, wanted: Left<'_>) -> Value {
        let records = self.worker.until_records(self.records + 1).await.unwrap();
        let record = records.last().unwrap().clone();
        assert_eq!(
            (&record["outcome"], &record["attempts"]),
            (&wanted.outcome.into(), &wanted.attempts.into()),
            "{record:#}"
        );
        assert!(record["generated"].as_u64() >= record["delivered"].as_u64(), "{record:#}");
        let gained = |page: &str, name: &str, label: &str| sum(page, name, label) - sum(&self.page, name, label);
        let outcome = format!("outcome=\"{}\"", wanted.outcome);
        // A failure in the middle of a stream is counted when the stream is dropped, just behind its record.
        let mut seen = Vec::new();
        let counted = eventually("the counters", async || {
            let page = self.worker.metrics().await.unwrap();
            seen = vec![
                gained(&page, "ntonix_exchanges_total", ""),
                gained(&page, "ntonix_exchanges_total", &outcome),
                gained(&page, "ntonix_backend_attempts_total", ""),
                gained(&page, "ntonix_backend_failures_total", ""),
            ];
            seen == [1.0, 1.0, wanted.attempts as f64, wanted.failures as f64]
        });
        counted.await.unwrap_or_else(|error| panic!("{error}: {seen:?} instead of {wanted:?}"));
        record
    }
}

/// The sum of the samples of a metric that have a label.
pub(crate) fn sum(page: &str, name: &str, label: &str) -> f64 {
    let samples = page.lines().filter(|line| line.starts_with(name) && line.contains(label));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
