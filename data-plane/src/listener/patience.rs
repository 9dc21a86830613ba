//! The timer of HTTP/2's pings: a client that is silent because nothing can be sent to it is the outlet's to judge.
//!
//! A ping that waits behind bytes nobody takes has no answer. To end the connection for that would be before its time,
//! and would say that the client left.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use tokio::time;

use super::guard::Activity;

/// How long a client may take to answer a ping that has left.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(20);

/// A timer whose sleeps do not end while the client takes nothing.
#[derive(Clone, Debug)]
pub(super) struct Patience(pub(super) Arc<Activity>);

struct Patient {
    activity: Arc<Activity>,
    sleep: Pin<Box<time::Sleep>>,
}

// === impl Patience ===

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let sleep = Box::pin(time::sleep_until(deadline.into()));
        Box::pin(Patient { activity: Arc::clone(&self.0), sleep })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

// === impl Patient ===

impl Sleep for Patient {}

impl Future for Patient {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if !self.activity.is_blocked() {
                return Poll::Ready(());
            }
            // From when it takes something again it has the whole time for its answer.
            self.sleep.as_mut().reset(time::Instant::now() + PONG_WITHIN);
        }
    }
}
