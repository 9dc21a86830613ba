//! Asks backends, one after the other, until one gives the first event. The innermost service of the stack.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

use crate::{
    balance::{Backend, Nobody},
    exchange::{Exchange, Reply, Source},
    metrics::OBSERVED,
    refusal::{Kind, Refusal},
    relay::opening::{Attempts, Opening},
    routing::{Offer, Route},
    upstream::attempt::{self, attempt},
};

/// After so long without a first event the 200 of a stream leaves, so that proxies in between do not give up; errors
/// come inside the stream from then on.
const EARLY_COMMIT: Duration = Duration::from_secs(10);
/// Before the same backend is asked again, when there is no other: 50 to 150 ms.
const SAME_BACKEND_PAUSE: std::ops::Range<u64> = 50..150;
/// Tells SDKs that we have tried already.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The innermost service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry;

/// The attempts of one exchange.
struct Course {
    exchange: Exchange,
    route: Arc<Route>,
    tried: Vec<Arc<Backend>>,
}

// === impl Retry ===

impl Service<Exchange> for Retry {
    type Response = Reply;
    type Error = Refusal;
    type Future = BoxFuture<'static, Result<Reply, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        Box::pin(async move {
            let route = Arc::clone(exchange.route()?);
            let (streams, heartbeat) = (exchange.call.stream, route.spec.heartbeat);
            let course = Course { exchange, route, tried: Vec::new() };
            let mut attempts: Attempts = Box::pin(course.run());
            if !streams {
                return attempts.await;
            }
            match timeout(EARLY_COMMIT, &mut attempts).await {
                Ok(answered) => answered,
                Err(_) => {
                    let opening = Opening::new(attempts, heartbeat);
                    Ok(Reply::stream(http::HeaderMap::new(), Source::Opening(Box::new(opening))))
                }
            }
        })
    }
}

// === impl Course ===

impl Course {
    async fn run(mut self) -> Result<Reply, Refusal> {
        let mut last: Option<Result<Reply, Refusal>> = None;
        for again in 0..=self.route.spec.retries {
            let route = Arc::clone(&self.route);
            let offer = match self.pick(&route, last.as_ref()) {
                Ok(offer) => offer,
                // Nobody is left to ask: what the last one said stands.
                Err(refusal) => return self.conclude(last.unwrap_or(Err(refusal))),
            };
            self.note(&offer);
            if again > 0 && self.tried.iter().filter(|tried| Arc::ptr_eq(tried, &offer.picked.backend)).count() > 1 {
                sleep(Duration::from_millis(fastrand::u64(SAME_BACKEND_PAUSE))).await;
            }
            let answered = attempt(&self.exchange, offer.picked, offer.model).await;
            if !is_worth_another(&answered) {
                return self.conclude(answered);
            }
            self.tell_failed(&answered);
            last = Some(answered);
        }
        self.conclude(last.unwrap_or_else(|| Err(Refusal::new(Kind::Internal, "no attempt was made"))))
    }

    /// A backend that was not asked yet. When every one was, one that is still up may be asked again, but only after
    /// a lost connection: one that has answered would only answer the same once more.
    fn pick<'r>(&self, route: &'r Route, last: Option<&Result<Reply, Refusal>>) -> Result<Offer<'r>, Refusal> {
        let model = &self.exchange.call.model;
        let was_lost = last.is_some_and(|last| last.as_ref().is_err_and(|refusal| refusal.kind().is_lost_connection()));
        let picked = match route.pick(model, &self.tried) {
            Err(Nobody::Tried) if was_lost => route.pick(model, &[]),
            picked => picked,
        };
        picked.map_err(|nobody| nobody.refuse(model))
    }

    fn note(&mut self, offer: &Offer<'_>) {
        let backend = &offer.picked.backend;
        backend.metrics.attempts.inc();
        let mut facts = self.exchange.record.facts();
        if OBSERVED && facts.attempts == 0 {
            self.route.metrics.overhead.observe(Instant::now().duration_since(self.exchange.started));
        }
        facts.attempts += 1;
        facts.backend = Some((Arc::clone(&offer.picked.pool.name), Arc::clone(&backend.name)));
        drop(facts);
        self.tried.push(Arc::clone(backend));
    }

    /// The access line tells of the last attempt only.
    fn tell_failed(&self, answered: &Result<Reply, Refusal>) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some((pool, backend)) = self.exchange.record.facts().backend.clone() else { return };
        let error = match answered {
            Ok(reply) => attempt::answered(reply.status),
            Err(refusal) => refusal.to_string(),
        };
        tracing::debug!(
            exchange.id = &*self.exchange.id,
            pool.name = &*pool,
            backend.name = &*backend,
            error,
            "Attempt failed"
        );
    }

    /// When we have tried more than once, a client that tries again on top only multiplies the load.
    fn conclude(&self, answered: Result<Reply, Refusal>) -> Result<Reply, Refusal> {
        let spent = self.tried.len() > 1;
        match answered {
            Ok(mut reply) if spent && reply.status.is_server_error() => {
                reply.headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
                Ok(reply)
            }
            Err(refusal) if spent => Err(refusal.spent()),
            answered => answered,
        }
    }
}

/// May another backend do better? No event has left: the head is held back until the first one is here.
fn is_worth_another(answered: &Result<Reply, Refusal>) -> bool {
    match answered {
        Ok(reply) => matches!(
            reply.status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        Err(refusal) => refusal.kind().is_worth_another_attempt(),
    }
}
