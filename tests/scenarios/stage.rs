//! What most scenarios begin with: mocks, a worker in front of them, and what a refusal must look like.

use ntonix_tests::client::{Answer, Connection};
use ntonix_tests::mock_llm::{MODEL, MockLlm};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;

/// A worker in front of one mock.
pub(crate) struct Stage {
    pub(crate) mock: MockLlm,
    pub(crate) worker: TestWorker,
}

// === impl Stage ===

impl Stage {
    /// Defaults everywhere.
    pub(crate) async fn new() -> Self {
        Self::with("", "", "").await
    }

    /// One pool and one route, with these members beside their names; `rest` is the rest of the file.
    pub(crate) async fn with(pool: &str, route: &str, rest: &str) -> Self {
        let mock = MockLlm::start().unwrap();
        let worker = TestWorker::start(&config(&[&mock], pool, route, rest)).await.unwrap();
        Self { mock, worker }
    }

    pub(crate) async fn connect(&self) -> Connection {
        connect(&self.worker).await
    }
}

pub(crate) async fn connect(worker: &TestWorker) -> Connection {
    Connection::open(worker.address()).await.unwrap()
}

/// A pool `llama` of these backends and a route for the mock's model.
pub(crate) fn config(backends: &[&MockLlm], pool: &str, route: &str, rest: &str) -> String {
    let backends = backends.iter().enumerate();
    let backends: Vec<_> =
        backends.map(|(index, mock)| format!("{{ name: gpu-{index}, url: \"{}\" }}", mock.url())).collect();
    format!(
        "pools: [{{ name: llama, backends: [{}], {pool} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], {route} }}]\n{rest}\n",
        backends.join(", ")
    )
}

/// Waits until the metrics say that a backend is in a state.
pub(crate) async fn backend_is(worker: &TestWorker, backend: &str, state: &str) {
    let sample = format!("ntonix_backend_state{{pool=\"llama\",backend=\"{backend}\",state=\"{state}\"}}");
    eventually(&sample, async || worker.metric(&sample).await.unwrap() == 1.0).await.unwrap();
}

/// Waits until no exchange is under way.
pub(crate) async fn nothing_is_active(worker: &TestWorker) {
    let sample = "ntonix_active_streams";
    eventually(sample, async || worker.metric(sample).await.unwrap() == 0.0).await.unwrap();
}

/// The attempts of each mock.
pub(crate) fn attempts(mocks: &[&MockLlm]) -> Vec<usize> {
    mocks.iter().map(|mock| mock.counts().attempts).collect()
}

/// Checks everything that each error answer must have.
#[track_caller]
pub(crate) fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status(), answer.code().as_str()), (status, code), "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    let error = &answer.json()["error"];
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    assert!(error["type"].is_string() && error["retryable"].is_boolean(), "{error}");
    assert_eq!(error["request_id"].as_str(), Some(answer.header("x-request-id")));
}

/// The next request on the same connection works.
#[track_caller]
pub(crate) fn assert_fine(answer: &Answer) {
    assert_eq!(answer.status(), 200, "{}", answer.text());
}
