//! Writes the one line of the log and counts, once for every exchange, whatever ended it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::StatusCode;
use ntonix_llm::call::Op;
use tokio::time::Instant;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    edge::respond,
    exchange::{Client, Exchange, Facts, Record, Reply},
    metrics::{Metrics, NO_ROUTE},
    refusal::{Kind, Refusal},
    relay::Tally,
};

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    metrics: Metrics,
    inner: S,
}

/// Watches one exchange to its end. Dropping it is an end too: the client has left.
#[derive(Debug)]
pub(crate) struct Observer {
    metrics: Metrics,
    id: Arc<str>,
    op: Op,
    /// The model that was asked for; empty when the request was refused before it was read.
    model: String,
    stream: bool,
    client: Arc<Client>,
    record: Arc<Record>,
    started: Instant,
    status: StatusCode,
    ended: bool,
}

/// The outcome of an exchange that ended well.
const COMPLETED: &str = "completed";
/// The outcome of an exchange whose client left before the end.
const CANCELLED: &str = "cancelled";
/// The outcome of an exchange that a backend answered with an error status.
const REFUSED_BY_BACKEND: &str = "upstream_status";

/// A layer that watches exchanges. It is the outermost one: nothing that happens inside escapes it.
pub(crate) fn layer<S>(metrics: Metrics) -> impl Layer<S, Service = Observe<S>> + Clone {
    layer_fn(move |inner| Observe { metrics: metrics.clone(), inner })
}

// === impl Observe ===

impl<S> Service<Exchange> for Observe<S>
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

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        let mut observer = Observer::new(&exchange, self.metrics.clone());
        let answered = self.inner.call(exchange);
        Box::pin(async move {
            match answered.await {
                Ok(mut reply) => {
                    observer.status = reply.status;
                    reply.observe(observer);
                    Ok(reply)
                }
                Err(refusal) => {
                    observer.status = respond::status(&refusal);
                    observer.finished(Some(&refusal), None);
                    Err(refusal)
                }
            }
        })
    }
}

// === impl Observer ===

impl Observer {
    fn new(exchange: &Exchange, metrics: Metrics) -> Self {
        metrics.active.inc();
        Self {
            metrics,
            id: Arc::clone(&exchange.id),
            op: exchange.call.op,
            model: exchange.call.model.clone(),
            stream: exchange.call.stream,
            client: Arc::clone(&exchange.client),
            record: Arc::clone(&exchange.record),
            started: exchange.started,
            status: StatusCode::OK,
            ended: false,
        }
    }

    /// A request that is refused before it became an exchange: its credential or its body is no good.
    pub(crate) fn refused_at_the_door(
        metrics: &Metrics,
        id: &Arc<str>,
        op: Op,
        client: &Arc<Client>,
        started: Instant,
        refusal: &Refusal,
    ) {
        metrics.active.inc();
        let observer = Self {
            metrics: metrics.clone(),
            id: Arc::clone(id),
            op,
            model: String::new(),
            stream: false,
            client: Arc::clone(client),
            record: Arc::default(),
            started,
            status: respond::status(refusal),
            ended: false,
        };
        observer.finished(Some(refusal), None);
    }

    /// The answer ended: well, or with a refusal that the client is told.
    pub(crate) fn finished(mut self, refusal: Option<&Refusal>, tally: Option<Tally>) {
        match refusal {
            Some(refusal) if refusal.kind() == Kind::Internal => {
                tracing::error!(exchange.id = &*self.id, error = %refusal, "Broke a promise");
                self.end(refusal.kind().as_label(), Some(refusal), tally);
            }
            Some(refusal) => self.end(refusal.kind().as_label(), Some(refusal), tally),
            None if self.status.is_success() => self.end(COMPLETED, None, tally),
            None => self.end(REFUSED_BY_BACKEND, None, tally),
        }
    }

    /// A relay has panicked.
    pub(crate) fn panicked(&self) {
        self.metrics.panics.inc();
    }

    /// The client left before the end.
    pub(crate) fn cancelled(mut self, tally: Option<Tally>) {
        self.end(CANCELLED, None, tally);
    }

    fn end(&mut self, outcome: &'static str, refusal: Option<&Refusal>, tally: Option<Tally>) {
        self.ended = true;
        self.metrics.active.dec();
        let facts = self.record.facts().clone();
        let tally = tally.unwrap_or(Tally { usage: facts.usage, ..Tally::default() });
        let route = facts.route.as_deref().map_or(NO_ROUTE, |route| &route.name);
        self.metrics.ended(route, self.client.transport.as_label(), outcome);
        self.count(&facts, &tally);
        self.log(&facts, &tally, outcome, refusal);
    }

    fn count(&self, facts: &Facts, tally: &Tally) {
        let Some(route) = &facts.route else { return };
        route.metrics.request_duration.observe(self.started.elapsed());
        if let Some(first_token) = tally.first_token {
            route.metrics.time_to_first_token.observe(first_token);
        }
        if let Some(usage) = tally.usage {
            route.metrics.prompt_tokens.inc_by(usage.prompt_tokens);
            route.metrics.completion_tokens.inc_by(usage.completion_tokens);
        }
    }

    fn log(&self, facts: &Facts, tally: &Tally, outcome: &'static str, refusal: Option<&Refusal>) {
        let ms = |duration: std::time::Duration| duration.as_micros() as f64 / 1000.0;
        let (pool, backend) = facts.backend.as_ref().map_or(("", ""), |(pool, backend)| (pool, backend));
        tracing::info!(
            exchange.id = &*self.id,
            client.addr = %self.client.address,
            transport = self.client.transport.as_label(),
            op = self.op.name(),
            model = self.model,
            stream = self.stream,
            tenant = facts.tenant.as_deref().map(|tenant| &*tenant.name),
            key = facts.key.as_deref().map(|key| &*key.name),
            route.name = facts.route.as_deref().map(|route| &*route.name),
            pool.name = pool,
            backend.name = backend,
            attempts = facts.attempts,
            status = self.status.as_u16(),
            outcome,
            error = refusal.map(tracing::field::display),
            tokens.r#in = tally.usage.map(|usage| usage.prompt_tokens),
            tokens.out = tally.usage.map(|usage| usage.completion_tokens),
            events = tally.events,
            bytes.out = tally.bytes,
            first_token_ms = tally.first_token.map(ms),
            total_ms = ms(self.started.elapsed()),
            "Exchange finished"
        );
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if !self.ended {
            self.end(CANCELLED, None, None);
        }
    }
}
