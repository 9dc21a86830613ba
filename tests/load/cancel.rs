//! The mode that leaves: how long until the backend sees that the client is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use ntonix_llm::Splitter;
use ntonix_runtime::tasks;
use ntonix_tests::mock_llm::{Cut, now_ns};

use crate::plan::Plan;
use crate::streams::{brief, read};
use crate::tally::Check;
use crate::target::{Connection, Target};

/// How long the mock gets to see the last cuts.
const LAST_CUTS: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// When we left each stream, in ns since 1970, by its nonce.
type Left = Arc<Mutex<HashMap<String, u64>>>;

pub(crate) async fn run(plan: &Arc<Plan>) -> anyhow::Result<()> {
    let mocks: Vec<Target> = plan.load.mock.iter().map(|url| Target::new(url, None)).collect::<Result<_, _>>()?;
    anyhow::ensure!(!mocks.is_empty(), "cancel needs --mock, the address of the mock behind the gateway");
    let left = Left::default();
    let workers: Vec<_> =
        (0..plan.load.streams).map(|index| tasks::spawn("worker", worker(plan.clone(), left.clone(), index))).collect();
    for worker in workers {
        worker.await?;
    }
    let left = std::mem::take(&mut *left.lock().unwrap_or_else(PoisonError::into_inner));
    settle(plan, &mocks, left).await
}

async fn worker(plan: Arc<Plan>, left: Left, index: u32) {
    plan.stagger(index).await;
    while let Some(nonce) = plan.begin() {
        let reached = plan.target.with_connection(|connection| first_token(&plan, connection, &nonce)).await;
        // The connection is closed by now; closing takes a few µs, which the measured time then includes.
        match reached {
            Ok(Ok(left_ns)) => {
                left.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce, left_ns);
            }
            Ok(Err(error)) => plan.tally().fail(error),
            Err(error) => plan.tally().fail(format!("{error:#}")),
        }
    }
}

/// Reads up to the first token and says when it left.
async fn first_token(plan: &Plan, mut connection: Connection, nonce: &str) -> Result<u64, String> {
    let mut check = Check::new(nonce.to_owned(), plan.tokens);
    let response = connection.chat(plan.body_bytes(nonce)).await.map_err(|error| brief(&error))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let mut body = response.into_body();
    let mut splitter = Splitter::new(1024 * 1024);
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|error| brief(&error))?.into_data() {
            read(plan, &mut splitter, bytes, &mut check);
        }
        if check.has_token() {
            plan.tally().complete += 1;
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
                    plan.tally().cut.add(Duration::from_nanos(cut.at_ns.saturating_sub(left_ns)));
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
