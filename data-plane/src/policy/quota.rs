//! A tenant's requests per minute and streams in flight, on this worker.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::time::Instant;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    exchange::{Exchange, Reply},
    live::{Identity, Tenant},
    refusal::{Kind, Refusal},
};

/// What a tenant uses right now.
#[derive(Debug)]
pub(crate) struct Usage {
    streams: AtomicUsize,
    minute: Mutex<Minute>,
}

/// A bucket that holds a minute's worth of requests and fills up evenly. Sans-IO.
#[derive(Debug)]
struct Minute {
    /// Requests that were taken and have not come back yet.
    taken: f64,
    at: Option<Instant>,
}

/// A stream in flight of a tenant; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Usage>);

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Quota<S> {
    inner: S,
}

/// A layer that counts requests when they arrive and streams until they end.
pub(crate) fn layer<S>() -> impl Layer<S, Service = Quota<S>> + Clone {
    layer_fn(|inner| Quota { inner })
}

// === impl Usage ===

impl Usage {
    /// Nothing is used.
    pub(crate) fn new() -> Self {
        Self { streams: AtomicUsize::new(0), minute: Mutex::new(Minute { taken: 0.0, at: None }) }
    }

    /// Takes a request and a stream, or says what is used up and when to come back.
    fn reserve(self: &Arc<Self>, tenant: &Tenant, now: Instant) -> Result<Slot, Refusal> {
        let most = tenant.streams.map_or(usize::MAX, |streams| streams as usize);
        let taken = self
            .streams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| (streams < most).then_some(streams + 1));
        if taken.is_err() {
            let public = format!("the tenant \"{}\" has {most} streams in flight, which is its limit", tenant.name);
            return Err(Refusal::new(Kind::RateLimited, public).retry_after(Duration::from_secs(1)));
        }
        // From here on the stream is given back when the slot is dropped.
        let slot = Slot(Arc::clone(self));
        if let Some(per_minute) = tenant.requests_per_minute {
            let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(wait) = minute.take(per_minute, now) {
                let public = format!("the tenant \"{}\" may send {per_minute} requests a minute", tenant.name);
                return Err(Refusal::new(Kind::RateLimited, public).retry_after(wait));
            }
        }
        Ok(slot)
    }
}

// === impl Minute ===

impl Minute {
    /// Takes one request, or says how long until there is one.
    fn take(&mut self, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let per_second = f64::from(per_minute) / 60.0;
        if let Some(at) = self.at {
            let back = now.saturating_duration_since(at).as_secs_f64() * per_second;
            self.taken = (self.taken - back).max(0.0);
        }
        self.at = Some(now);
        let over = self.taken + 1.0 - f64::from(per_minute);
        if over > 1e-9 {
            return Err(Duration::from_secs_f64(over / per_second));
        }
        self.taken += 1.0;
        Ok(())
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Quota ===

impl<S> Service<Exchange> for Quota<S>
where
    S: Service<Exchange, Response = Reply, Error = Refusal>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Refusal;
    type Future = Either<Ready<Result<Reply, Refusal>>, Either<S::Future, BoxFuture<'static, Result<Reply, Refusal>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        let Identity::Known(key) = &exchange.identity else {
            return Either::Right(Either::Left(self.inner.call(exchange)));
        };
        match key.tenant.usage.reserve(&key.tenant, Instant::now()) {
            Err(refusal) => Either::Left(ready(Err(refusal))),
            Ok(slot) => {
                let answered = self.inner.call(exchange);
                Either::Right(Either::Right(Box::pin(async move {
                    let mut reply = answered.await?;
                    reply.hold(Box::new(slot));
                    Ok(reply)
                })))
            }
        }
    }
}

#[cfg(test)]
#[path = "quota_walk.rs"]
mod walk;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minutes_worth_may_come_at_once_and_then_one_at_a_time() {
        let (mut minute, now) = (Minute { taken: 0.0, at: None }, Instant::now());
        assert!((0..6).all(|_| minute.take(6, now).is_ok()));
        let wait = minute.take(6, now).unwrap_err();
        assert_eq!(wait.as_secs(), 10);
        assert!(minute.take(6, now + Duration::from_secs(9)).is_err());
        assert!(minute.take(6, now + Duration::from_secs(10)).is_ok());
        assert!(minute.take(6, now + Duration::from_secs(10)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lowered_limit_counts_what_was_taken_before() {
        let (mut minute, now) = (Minute { taken: 0.0, at: None }, Instant::now());
        (0..6).for_each(|_| minute.take(60, now).unwrap());
        assert!(minute.take(6, now).is_err());
    }
}
