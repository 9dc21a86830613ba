//! The modes over HTTP: unary, paced, fast and held.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ntonix_llm::{Keep, Splitter};
use ntonix_runtime::tasks;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::plan::Plan;
use crate::settings::Mode;
use crate::tally::Check;
use crate::target::Connection;

/// The longest event that an answer may have.
const EVENT_MAX: usize = 1024 * 1024;
/// Connections that are opened at once: a burst of more than a listener's backlog would measure the kernel's retries.
const OPENING_MAX: usize = 256;
/// Pause before a connection that failed is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(plan: &Arc<Plan>) -> anyhow::Result<()> {
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let connections = plan.connections();
    let (share, rest) = (plan.load.streams / connections, plan.load.streams % connections);
    let worker = |index| worker(plan.clone(), opening.clone(), index, share + u32::from(index < rest));
    let workers: Vec<_> = (0..connections).map(|index| tasks::spawn("worker", worker(index))).collect();
    for worker in workers {
        worker.await?;
    }
    Ok(())
}

/// One connection after another, each for as many requests as it lives, `lanes` of them at once.
async fn worker(plan: Arc<Plan>, opening: Arc<Semaphore>, index: u32, lanes: u32) {
    plan.stagger(index).await;
    while plan.has_more() {
        let is_over = {
            let Ok(permit) = opening.acquire().await else { return };
            plan.target(index).with_connection(|connection| serve(&plan, connection.lanes(lanes), permit)).await
        };
        match is_over {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                // Counted against a request, so that a gateway that is away ends the run by its count too.
                if plan.begin().is_none() {
                    return;
                }
                plan.tally().fail(format!("{error:#}"));
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
        }
    }
}

/// Returns true when there is nothing left to do, false when the connection cannot be used any more.
async fn serve(plan: &Plan, lanes: Vec<Connection>, permit: SemaphorePermit<'_>) -> bool {
    let mut permit = Some(permit);
    let lanes = lanes.into_iter().zip(0..).map(|(lane, number)| {
        let permit = permit.take();
        async move {
            plan.stagger_lane(number).await;
            requests(plan, lane, permit).await
        }
    });
    join_all(lanes).await.into_iter().all(|is_over| is_over)
}

async fn requests(plan: &Plan, mut connection: Connection, mut permit: Option<SemaphorePermit<'_>>) -> bool {
    while let Some(nonce) = plan.begin() {
        let body = plan.body_bytes(&nonce);
        let mut check = Check::new(nonce, plan.tokens);
        let result = request(plan, &mut connection, body, &mut check, &mut permit).await;
        let lost = result.err().map(|error| brief(&error));
        let is_lost = lost.is_some();
        // A client that leaves in the middle of an answer of HTTP/1.1 leaves its connection.
        let has_left = check.has_left() && !connection.has_lanes();
        check.settle(lost, &mut plan.tally());
        if has_left {
            return false;
        }
        if is_lost {
            return false;
        }
    }
    true
}

async fn request(
    plan: &Plan,
    connection: &mut Connection,
    body: Bytes,
    check: &mut Check,
    permit: &mut Option<SemaphorePermit<'_>>,
) -> hyper::Result<()> {
    let response = connection.chat(body).await?;
    if response.status() != StatusCode::OK {
        check.fail(&response.into_body().collect().await?.to_bytes());
        return Ok(());
    }
    if plan.mode != Mode::Unary {
        return stream(plan, response.into_body(), check, permit).await;
    }
    let body = response.into_body().collect().await?.to_bytes();
    check.event(&body, &mut plan.tally());
    check.done();
    *permit = None;
    Ok(())
}

async fn stream(
    plan: &Plan,
    mut body: Incoming,
    check: &mut Check,
    permit: &mut Option<SemaphorePermit<'_>>,
) -> hyper::Result<()> {
    let mut splitter = Splitter::new(EVENT_MAX);
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        read(plan, &mut splitter, bytes, check);
        if check.has_token() {
            *permit = None;
        }
        if plan.load.leave_after.is_some_and(|tokens| check.leave(tokens)) {
            break;
        }
    }
    Ok(())
}

/// Shows the events of one chunk to the check.
pub(crate) fn read(plan: &Plan, splitter: &mut Splitter, bytes: Bytes, check: &mut Check) {
    let mut tally = plan.tally();
    let visited = splitter.scan(bytes, &mut |block| {
        check.event(&block.data(), &mut tally);
        Keep::Drop
    });
    if let Err(too_long) = visited {
        tally.fail(too_long.to_string());
    }
}

/// What went wrong in few words, so that like counts with like.
pub(crate) fn brief(error: &hyper::Error) -> String {
    let words = if error.is_incomplete_message() {
        "connection closed in the middle"
    } else if error.is_canceled() || error.is_closed() {
        "connection closed before the request"
    } else if error.is_body_write_aborted() {
        "request not taken"
    } else {
        return error.to_string();
    };
    words.to_owned()
}
