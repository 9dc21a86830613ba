//! The stack: what every exchange goes through, in this order.
//!
//! It is built once. A change of the configuration swaps the data that the layers read (the pinned
//! [`Live`](crate::live::Live)), never the layers.

pub(crate) mod admit;
pub(crate) mod authenticate;
pub(crate) mod authorize;
pub(crate) mod deadline;
pub(crate) mod gate;
pub(crate) mod observe;
pub(crate) mod panic;
pub(crate) mod quota;
pub(crate) mod retry;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tower::{Service, ServiceBuilder};

use self::{admit::Admission, authenticate::Authenticate, authorize::Authorize, retry::Retry};
use crate::{
    exchange::{Exchange, Reply},
    refusal::Refusal,
    routing::FindRoute,
    usage::Books,
};

/// The stack around `innermost`, which asks the backends: [`retry::Retry`], or a stand-in in a test. Top = first met.
pub(crate) fn stack<S>(
    books: &Books,
    admission: Arc<Admission>,
    innermost: S,
) -> impl Service<Exchange, Response = Reply, Error = Refusal, Future: Send + 'static> + Clone + Send + 'static
where
    S: Service<Exchange, Response = Reply, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    ServiceBuilder::new()
        // Outermost: one line, one record and one count for every exchange, also for one that panics or never gets a place.
        .layer(observe::layer(books.clone()))
        // Inside observe, so that a panic is seen as the failure of one exchange; outside all that may panic.
        .layer(panic::layer(books.metrics.clone()))
        // Before any work is done: a full worker says so at once. It knows nobody yet, so it is fair to all.
        .layer(admit::layer(admission))
        // Nothing below is touched by someone without a key.
        .layer(gate::layer(Authenticate))
        // Who may answer? All that follows depends on the route, the deadlines too.
        .layer(gate::layer(FindRoute))
        // From here on everything has an end, waiting and retries included.
        .layer(deadline::layer())
        // After the route, so that a model that does not exist is a 404 for everyone.
        .layer(gate::layer(Authorize))
        // Last of the refusals: only what may really be asked uses up the tenant's quota.
        .layer(quota::layer())
        // Each attempt picks a backend anew; the quota is spent once, however many attempts it takes.
        .service(innermost)
}

/// The stack as a worker runs it.
pub(crate) fn worker_stack(
    books: &Books,
    admission: Arc<Admission>,
) -> impl Service<Exchange, Response = Reply, Error = Refusal, Future: Send + 'static> + Clone + Send + 'static {
    stack(books, admission, Retry)
}
