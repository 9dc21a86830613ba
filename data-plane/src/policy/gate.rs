//! A policy that only says yes or no, as a layer.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use crate::{
    exchange::{Exchange, Reply},
    refusal::Refusal,
};

/// Lets an exchange pass, having learned something, or refuses it.
pub(crate) trait Gate: Clone {
    /// Says yes or no, at once.
    fn pass(&self, exchange: &mut Exchange) -> Result<(), Refusal>;
}

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Gated<G, S> {
    gate: G,
    inner: S,
}

/// The layer of a gate.
#[derive(Clone, Debug)]
pub(crate) struct GateLayer<G>(G);

/// A layer that asks `gate` first.
pub(crate) fn layer<G: Gate>(gate: G) -> GateLayer<G> {
    GateLayer(gate)
}

// === impl GateLayer ===

impl<G: Gate, S> Layer<S> for GateLayer<G> {
    type Service = Gated<G, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Gated { gate: self.0.clone(), inner }
    }
}

// === impl Gated ===

impl<G, S> Service<Exchange> for Gated<G, S>
where
    G: Gate,
    S: Service<Exchange, Response = Reply, Error = Refusal>,
{
    type Response = Reply;
    type Error = Refusal;
    type Future = Either<Ready<Result<Reply, Refusal>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> Self::Future {
        match self.gate.pass(&mut exchange) {
            Ok(()) => Either::Right(self.inner.call(exchange)),
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}
