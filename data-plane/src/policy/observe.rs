//! Writes the one line of the log and the one record of usage, and counts, once for every exchange, whatever ended it.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::StatusCode;
use ntonix_llm::{call::Op, estimate};
use tokio::time::Instant;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    edge::respond,
    exchange::{Client, Exchange, Facts, Record, Reply},
    metrics::{COMPLETED, OBSERVED},
    refusal::{Kind, Refusal},
    relay::Tally,
    usage::{self, Books, CountedBy, Tokens, UsageRecord},
};

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    books: Books,
    inner: S,
}

/// Watches one exchange to its end. Dropping it is an end too: the client has left.
#[derive(Debug)]
pub(crate) struct Observer {
    books: Books,
    id: Arc<str>,
    op: Op,
    /// What was asked; `None` when the request was refused before it was read.
    asked: Option<Asked>,
    client: Arc<Client>,
    record: Arc<Record>,
    started: Instant,
    /// `None` until there is an answer.
    status: Option<StatusCode>,
    ended: bool,
}

/// What the records say of a question. Not the question itself: its body would be kept for as long as its answer lasts.
#[derive(Debug)]
struct Asked {
    model: String,
    stream: bool,
    prompt_bytes: usize,
}

/// How an exchange ended.
struct End<'a> {
    outcome: &'static str,
    refusal: Option<&'a Refusal>,
    tally: Tally,
    tokens: Tokens,
}

/// The outcome of an exchange that a backend answered with an error status.
const REFUSED_BY_BACKEND: &str = "upstream_status";

/// A layer that watches exchanges. It is the outermost one: nothing that happens inside escapes it.
pub(crate) fn layer<S>(books: Books) -> impl Layer<S, Service = Observe<S>> + Clone {
    layer_fn(move |inner| Observe { books: books.clone(), inner })
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
        if !OBSERVED {
            return Box::pin(self.inner.call(exchange));
        }
        let mut observer = Observer::of(&exchange, self.books.clone());
        let answered = self.inner.call(exchange);
        Box::pin(async move {
            match answered.await {
                Ok(mut reply) => {
                    observer.status = Some(reply.status);
                    reply.observe(observer);
                    Ok(reply)
                }
                Err(refusal) => {
                    observer.refused(&refusal);
                    Err(refusal)
                }
            }
        })
    }
}

// === impl Observer ===

impl Observer {
    fn of(exchange: &Exchange, books: Books) -> Self {
        let Exchange { id, call, client, record, started, .. } = exchange;
        let mut observer = Self::at_the_door(books, id, call.op, client, *started);
        observer.asked =
            Some(Asked { model: call.model.clone(), stream: call.stream, prompt_bytes: call.prompt_bytes });
        observer.record = Arc::clone(record);
        observer
    }

    /// Watches a request until it is an exchange: its credential or its body may be no good, or its client may leave
    /// while it still sends.
    pub(crate) fn at_the_door(books: Books, id: &Arc<str>, op: Op, client: &Arc<Client>, started: Instant) -> Self {
        books.metrics.active.inc();
        Self {
            books,
            id: Arc::clone(id),
            op,
            asked: None,
            client: Arc::clone(client),
            record: Arc::default(),
            started,
            status: None,
            ended: false,
        }
    }

    /// It goes into the stack, where another one watches it.
    pub(crate) fn pass(mut self) {
        self.ended = true;
        self.books.metrics.active.dec();
    }

    /// It ends with a refusal before there is an answer.
    pub(crate) fn refused(mut self, refusal: &Refusal) {
        self.status = Some(respond::status(refusal));
        self.finished(Some(refusal), None);
    }

    /// The answer ended: well, or with a refusal that the client is told.
    pub(crate) fn finished(mut self, refusal: Option<&Refusal>, tally: Option<Tally>) {
        let outcome = match refusal {
            Some(refusal) => {
                if refusal.kind() == Kind::Internal {
                    tracing::error!(exchange.id = &*self.id, error = %refusal, "Broke a promise");
                }
                refusal.kind().as_label()
            }
            None if self.status.is_some_and(|status| status.is_success()) => COMPLETED,
            None => REFUSED_BY_BACKEND,
        };
        self.end(outcome, refusal, tally);
    }

    /// A relay has panicked.
    pub(crate) fn panicked(&self) {
        self.books.metrics.panics.inc();
    }

    /// Nobody pulls the answer any more: the client left, stalled, or the gateway goes away.
    pub(crate) fn dropped(mut self, tally: Option<Tally>) {
        self.leave(tally);
    }

    fn leave(&mut self, tally: Option<Tally>) {
        let (outcome, status) = self.client.leave.outcome(self.status);
        self.status.get_or_insert(status);
        self.end(outcome, None, tally);
    }

    fn end(&mut self, outcome: &'static str, refusal: Option<&Refusal>, tally: Option<Tally>) {
        self.ended = true;
        self.books.metrics.active.dec();
        let facts = self.record.facts().clone();
        let tally = tally.unwrap_or_default();
        let end = End { outcome, refusal, tally, tokens: self.tokens(&tally, outcome) };
        self.count(&facts, &end);
        self.log(&facts, &end);
        if self.books.usage.is_kept() {
            self.write(&facts, &end);
        }
    }

    /// A prompt counts once the model has begun to answer; until then nobody can tell whether it was read.
    fn tokens(&self, tally: &Tally, outcome: &'static str) -> Tokens {
        let Tally { generated, delivered, usage, .. } = *tally;
        let has_begun = outcome != REFUSED_BY_BACKEND && (generated > 0 || tally.bytes > 0 || outcome == COMPLETED);
        let prompt =
            || self.asked.as_ref().filter(|_| has_begun).map_or(0, |asked| estimate::tokens(asked.prompt_bytes));
        Tokens {
            prompt_tokens: usage.map_or_else(prompt, |usage| usage.prompt_tokens),
            completion_tokens: usage.map_or(generated, |usage| usage.completion_tokens),
            counted_by: if usage.is_some() { CountedBy::Backend } else { CountedBy::Gateway },
            generated,
            delivered,
        }
    }

    fn count(&self, facts: &Facts, end: &End<'_>) {
        self.books.metrics.ended(facts.route.as_deref(), self.client.transport, end.outcome);
        let Some(route) = &facts.route else { return };
        route.metrics.request_duration.observe(self.started.elapsed());
        if let Some(first_token) = end.tally.first_token {
            route.metrics.time_to_first_token.observe(first_token);
        }
        route.metrics.prompt_tokens.inc_by(end.tokens.prompt_tokens);
        route.metrics.completion_tokens.inc_by(end.tokens.completion_tokens);
    }

    fn log(&self, facts: &Facts, end: &End<'_>) {
        let (pool, backend) = facts.backend.as_ref().map_or(("", ""), |(pool, backend)| (pool, backend));
        tracing::info!(
            exchange.id = &*self.id,
            client.addr = %self.client.address,
            transport = self.client.transport.as_label(),
            op = self.op.name(),
            model = self.asked.as_ref().map(|asked| &*asked.model),
            stream = self.asked.as_ref().map(|asked| asked.stream),
            tenant = facts.tenant.as_deref().map(|tenant| &*tenant.name),
            key = facts.key.as_deref().map(|key| &*key.name),
            route.name = facts.route.as_deref().map(|route| &*route.name),
            pool.name = pool,
            backend.name = backend,
            attempts = facts.attempts,
            status = self.status.map(|status| status.as_u16()),
            outcome = end.outcome,
            error = end.refusal.map(tracing::field::display),
            tokens.r#in = end.tokens.prompt_tokens,
            tokens.out = end.tokens.completion_tokens,
            tokens.generated = end.tokens.generated,
            tokens.delivered = end.tokens.delivered,
            bytes.out = end.tally.bytes,
            first_token_ms = end.tally.first_token.map(usage::ms),
            total_ms = usage::ms(self.started.elapsed()),
            "Exchange finished"
        );
    }

    fn write(&self, facts: &Facts, end: &End<'_>) {
        let backend = facts.backend.as_ref();
        self.books.usage.write(&UsageRecord {
            id: &self.id,
            at: usage::now(),
            transport: self.client.transport.as_label(),
            op: self.op.name(),
            stream: self.asked.as_ref().map(|asked| asked.stream),
            model: self.asked.as_ref().map(|asked| &*asked.model),
            tenant: facts.tenant.as_deref().map(|tenant| &*tenant.name),
            key: facts.key.as_deref().map(|key| &*key.name),
            route: facts.route.as_deref().map(|route| &*route.name),
            pool: backend.map(|(pool, _)| &**pool),
            backend: backend.map(|(_, backend)| &**backend),
            attempts: facts.attempts,
            status: self.status.map(|status| status.as_u16()),
            outcome: end.outcome,
            tokens: end.tokens,
            first_token_ms: end.tally.first_token.map(usage::ms),
            total_ms: usage::ms(self.started.elapsed()),
        });
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if !self.ended {
            self.leave(None);
        }
    }
}
