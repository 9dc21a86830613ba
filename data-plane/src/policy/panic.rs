//! Turns a panic into a refusal of the one exchange that it happened in.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    exchange::{Exchange, Reply},
    metrics::Metrics,
    refusal::{Kind, Refusal},
};

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Panic<S> {
    metrics: Metrics,
    inner: S,
}

/// A layer that outlives panics of what is inside it. Panics of a relay are caught where it is polled
/// ([`ReplyBody::poll_next`](crate::exchange::ReplyBody::poll_next)).
pub(crate) fn layer<S>(metrics: Metrics) -> impl Layer<S, Service = Panic<S>> + Clone {
    layer_fn(move |inner| Panic { metrics: metrics.clone(), inner })
}

// === impl Panic ===

impl<S> Service<Exchange> for Panic<S>
where
    S: Service<Exchange, Response = Reply, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = Refusal;
    type Future = BoxFuture<'static, Result<Reply, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        let (metrics, mut inner) = (self.metrics.clone(), self.inner.clone());
        // The call is made inside the guarded future, so that a gate's panic is caught too.
        let answered = AssertUnwindSafe(async move { inner.call(exchange).await }).catch_unwind();
        Box::pin(async move {
            answered.await.unwrap_or_else(|_| {
                metrics.panics.inc();
                Err(Refusal::new(Kind::Internal, "the gateway failed on this request"))
            })
        })
    }
}
