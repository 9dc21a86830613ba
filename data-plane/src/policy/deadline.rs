//! Bounds the whole of an exchange by the route's total deadline.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::timeout_at;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    exchange::{Exchange, Reply},
    refusal::{Kind, Refusal},
};

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
}

/// Says when an exchange must be over, and ends it then when no answer has begun; a relay keeps the time from there on.
pub(crate) fn layer<S>() -> impl Layer<S, Service = Deadline<S>> + Clone {
    layer_fn(|inner| Deadline { inner })
}

// === impl Deadline ===

impl<S> Service<Exchange> for Deadline<S>
where
    S: Service<Exchange, Response = Reply, Error = Refusal>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = Refusal;
    type Future = BoxFuture<'static, Result<Reply, Refusal>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> Self::Future {
        let total =
            exchange.route.as_ref().map_or(exchange.over_at - exchange.started, |route| route.spec.deadlines.total);
        let over_at = exchange.started + total;
        exchange.over_at = over_at;
        let answered = self.inner.call(exchange);
        Box::pin(async move {
            match timeout_at(over_at, answered).await {
                Ok(answered) => answered,
                Err(_) => Err(Refusal::new(Kind::DeadlineExceeded, format!("not finished within {total:?}"))),
            }
        })
    }
}
