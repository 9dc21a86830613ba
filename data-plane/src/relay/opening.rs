//! A stream whose 200 left early: heartbeats go out while the first event is still awaited.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use ntonix_llm::{openai, reply};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    exchange::{Reply, Source},
    refusal::{Kind, Refusal},
};

/// The attempts that are still under way.
pub(crate) type Attempts = Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>>;

/// A stream without its first event. A committed 200 and heartbeats are no events: attempts may still be repeated.
pub(crate) struct Opening {
    attempts: Attempts,
    heartbeat: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// What comes of waiting.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing yet; these bytes keep the connection alive.
    Heartbeat(Bytes),
    /// The first event is here.
    Opened(Source),
}

// === impl Opening ===

impl Opening {
    /// Goes on waiting for `attempts`, with a sign of life after each `heartbeat`, the first one at once.
    pub(crate) fn new(attempts: Attempts, heartbeat: Option<Duration>) -> Self {
        let heartbeat = heartbeat.map(|every| (every, Box::pin(sleep(Duration::ZERO))));
        Self { attempts, heartbeat }
    }

    /// The next sign of life, or the stream itself. What is no stream by now is an error inside of one.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, Refusal>> {
        if let Poll::Ready(attempted) = self.attempts.as_mut().poll(cx) {
            let reply = attempted?;
            if reply.status != StatusCode::OK {
                return Poll::Ready(Err(error_of(reply)));
            }
            return Poll::Ready(Ok(Step::Opened(reply.body.into_source())));
        }
        let Some((every, sleep)) = &mut self.heartbeat else { return Poll::Pending };
        std::task::ready!(sleep.as_mut().poll(cx));
        sleep.as_mut().reset(Instant::now() + *every);
        Poll::Ready(Ok(Step::Heartbeat(Bytes::from_static(openai::HEARTBEAT))))
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("heartbeat", &self.heartbeat.is_some()).finish_non_exhaustive()
    }
}

fn error_of(reply: Reply) -> Refusal {
    let status = reply.status;
    let error = match reply.body.into_source() {
        Source::Full(mut whole) => whole.take().and_then(|body| reply::backend_error(&body)),
        _ => None,
    };
    match error {
        Some(error) => Refusal::from_backend(error),
        None => Refusal::new(Kind::UpstreamError, format!("the backend answered {}", status.as_u16())),
    }
}
