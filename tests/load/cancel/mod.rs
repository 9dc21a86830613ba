//! The mode that leaves: how long until the backend sees that the client is gone.

mod http1;
mod http2;
mod websocket;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ntonix_llm::Splitter;
use ntonix_runtime::tasks;
use ntonix_tests::mock_llm::{Cut, now_ns};

use crate::plan::Plan;
use crate::settings::{Load, Over};
use crate::streams::{brief, read};
use crate::tally::Check;
use crate::target::Target;

/// How long the mock gets to see the last cuts.
const LAST_CUTS: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A client that leaves while it waits has waited so long: the backend has its request by then, and nothing was said.
const WAITED: Duration = Duration::from_millis(50);

/// When we left each stream, in ns since 1970, by its nonce.
#[derive(Debug, Clone, Default)]
struct Left(Arc<Mutex<HashMap<String, u64>>>);

pub(crate) async fn run(plan: &Arc<Plan>) -> anyhow::Result<()> {
    let asking = Load { key: None, over: Over::Http1, ..plan.load.clone() };
    let mocks: Vec<Target> = plan.load.mock.iter().map(|url| Target::new(url, &asking)).collect::<Result<_, _>>()?;
    anyhow::ensure!(!mocks.is_empty(), "cancel needs --mock, the address of the mock behind the gateway");
    let left = Left::default();
    let workers: Vec<_> =
        (0..plan.load.streams).map(|index| tasks::spawn("worker", worker(plan.clone(), left.clone(), index))).collect();
    for worker in workers {
        worker.await??;
    }
    let left = std::mem::take(&mut *left.lock());
    settle(plan, &mocks, left).await
}

async fn worker(plan: Arc<Plan>, left: Left, index: u32) -> anyhow::Result<()> {
    plan.stagger(index).await;
    let target = plan.target(index);
    match plan.load.over {
        Over::Http1 => http1::leave_all(&plan, target, &left).await,
        Over::Http2 => http2::leave_all(&plan, target, &left).await?,
        Over::Ws => websocket::leave_all(&plan, target, &left).await?,
    }
    Ok(())
}

// === impl Left ===

impl Left {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a stream that is left now, or of what kept it from being left.
    fn note(&self, plan: &Plan, nonce: String, reached: Result<u64, String>) {
        match reached {
            // Whether the backend sees it is known at the end; only then it is counted.
            Ok(left_ns) => drop(self.lock().insert(nonce, left_ns)),
            Err(error) => plan.tally().fail(error),
        }
    }
}

/// Waits for as long as a client does that leaves before it is answered; what comes in the meantime is a failure.
async fn wait<T>(answered: impl Future<Output = T>) -> Result<u64, String> {
    match tokio::time::timeout(WAITED, answered).await {
        Ok(_) => Err("answered before it could be left".to_owned()),
        Err(_) => Ok(now_ns()),
    }
}

/// Reads up to the first token and says when it left; `check` began with the request.
async fn first_token(plan: &Plan, mut body: Incoming, mut check: Check) -> Result<u64, String> {
    let mut splitter = Splitter::new(1024 * 1024);
    while let Some(frame) = body.frame().await {
        let bytes: Bytes = frame.map_err(|error| brief(&error))?.into_data().unwrap_or_default();
        read(plan, &mut splitter, bytes, &mut check);
        if check.has_token() {
            return Ok(now_ns());
        }
    }
    Err("the stream ended before it could be left".to_owned())
}

/// Asks the mocks until they have seen every cut or their time is over; a cut that nobody saw is a failure.
async fn settle(plan: &Plan, mocks: &[Target], mut left: HashMap<String, u64>) -> anyhow::Result<()> {
    let asked = tokio::time::Instant::now();
    loop {
        for mock in mocks {
            let body = mock.get("/mock/cuts").await.context("cannot ask the mock for its cuts")?;
            let cuts: Vec<Cut> = serde_json::from_slice(&body).context("the mock's cuts cannot be read")?;
            for cut in cuts {
                if let Some(left_ns) = cut.user.and_then(|nonce| left.remove(&nonce)) {
                    let mut tally = plan.tally();
                    tally.complete += 1;
                    tally.cut.add(Duration::from_nanos(cut.at_ns.saturating_sub(left_ns)));
                }
            }
        }
        if left.is_empty() || asked.elapsed() > LAST_CUTS {
            break;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    for _ in left {
        plan.tally().fail("the backend never saw the cut");
    }
    Ok(())
}
