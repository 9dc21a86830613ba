//! Bounds the exchanges of this worker: a number in flight, a short queue, a deadline in it, and a clear refusal.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use ntonix_config::Limits;
use tokio::{sync::oneshot, time::timeout};
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    exchange::{Exchange, Reply},
    metrics::Metrics,
    refusal::{Kind, Refusal},
};

/// The places of a worker.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Mutex<Places>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Places {
    taken: u32,
    /// How many there are, as the revision says under which the last exchange came.
    most: u32,
    /// Those who wait, the first to come first. A closed channel means that its owner has left.
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A place; it is given on when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Admission>>);

/// One who waits, as the metrics count it; over when this is dropped.
struct Queued<'a>(&'a Metrics);

/// See [`layer`].
#[derive(Clone, Debug)]
pub(crate) struct Admit<S> {
    admission: Arc<Admission>,
    inner: S,
}

/// A layer that gives each exchange a place until its answer has ended.
pub(crate) fn layer<S>(admission: Arc<Admission>) -> impl Layer<S, Service = Admit<S>> + Clone {
    layer_fn(move |inner| Admit { admission: Arc::clone(&admission), inner })
}

// === impl Admission ===

impl Admission {
    /// No place is taken.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { places: Mutex::default(), metrics }
    }

    /// A place, now or after waiting for it.
    async fn place(self: &Arc<Self>, limits: &Limits) -> Result<Place, Refusal> {
        let waiting = {
            let mut places = self.limited(limits.streams);
            if places.taken < limits.streams {
                places.taken += 1;
                return Ok(Place(Some(Arc::clone(self))));
            }
            // Whoever has given up waiting leaves the queue when the next one comes.
            places.waiting.retain(|waiting| !waiting.is_closed());
            if places.waiting.len() >= limits.queue as usize {
                return Err(full(limits));
            }
            let (sender, receiver) = oneshot::channel();
            places.waiting.push_back(sender);
            receiver
        };
        // Given back also when the client leaves the queue and this future is dropped.
        let _queued = Queued::new(&self.metrics);
        match timeout(limits.queue_wait, waiting).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(full(limits)),
        }
    }

    /// The places, of which there are `most` from now on. When there are more than before, those who wait come first.
    fn limited(self: &Arc<Self>, most: u32) -> MutexGuard<'_, Places> {
        loop {
            let mut places = self.lock();
            places.most = most;
            if places.taken >= most {
                return places;
            }
            let Some(next) = places.waiting.pop_front() else { return places };
            places.taken += 1;
            drop(places);
            // Whoever has left gives it on as it drops it.
            drop(next.send(Place(Some(Arc::clone(self)))));
        }
    }

    /// The next one who waits; when nobody does, or there are fewer places now, the caller's is free from here on.
    fn next_or_free(&self) -> Option<oneshot::Sender<Place>> {
        let mut places = self.lock();
        let next = if places.taken <= places.most { places.waiting.pop_front() } else { None };
        if next.is_none() {
            places.taken -= 1;
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(limits: &Limits) -> Refusal {
    let public = format!("this gateway has {} exchanges in flight, which is its limit", limits.streams);
    Refusal::new(Kind::Overloaded, public).retry_after(Duration::from_secs(1))
}

// === impl Queued ===

impl<'a> Queued<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.queued.inc();
        Self(metrics)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.dec();
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let Some(admission) = self.0.take() else { return };
        // The next one in the queue takes this place over in one step, so that nobody comes in between.
        let mut heir = Place(Some(Arc::clone(&admission)));
        while let Some(next) = admission.next_or_free() {
            match next.send(heir) {
                Ok(()) => return,
                // It has left in the meantime; the one behind it is next.
                Err(returned) => heir = returned,
            }
        }
        // The place is free, and the heir that nobody took must not free it again.
        heir.0 = None;
    }
}

// === impl Admit ===

impl<S> Service<Exchange> for Admit<S>
where
    S: Service<Exchange, Response = Reply, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = Refusal;
    type Future = BoxFuture<'static, Result<Reply, Refusal>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        // Always ready: waiting happens in the call, where it has a deadline.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, exchange: Exchange) -> Self::Future {
        let (admission, mut inner) = (Arc::clone(&self.admission), self.inner.clone());
        Box::pin(async move {
            let place = admission.place(exchange.live.limits()).await?;
            let mut reply = inner.call(exchange).await?;
            reply.hold(Box::new(place));
            Ok(reply)
        })
    }
}

#[cfg(test)]
#[path = "admit_walk.rs"]
mod walk;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn limits(streams: u32, queue: u32) -> Limits {
        let text = format!("limits: {{ streams: {streams}, queue: {queue}, queue_wait: 1s }}\n");
        let source = ntonix_config::Source::read(&text, std::path::Path::new("/")).unwrap();
        ntonix_config::validate(&source.draft).unwrap().limits
    }

    fn admission() -> Arc<Admission> {
        Arc::new(Admission::new(Metrics::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_waiting_has_an_end() {
        let (admission, limits) = (admission(), limits(1, 1));
        let _place = admission.place(&limits).await.unwrap();
        let (waited, refused) = tokio::join!(admission.place(&limits), admission.place(&limits));
        assert_eq!(waited.unwrap_err().kind(), Kind::Overloaded, "it waited its second in vain");
        assert_eq!(refused.unwrap_err().kind(), Kind::Overloaded, "the queue was full");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_the_one_who_waits_longest() {
        let (admission, limits) = (admission(), limits(1, 2));
        let place = admission.place(&limits).await.unwrap();
        let mut first = Box::pin(admission.place(&limits));
        let mut second = Box::pin(admission.place(&limits));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(place);
        assert!(futures_util::poll!(&mut second).is_pending());
        let place = first.await.unwrap();
        drop(place);
        second.await.unwrap();
        assert_eq!(admission.lock().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_the_queue_is_passed_over_and_no_place_is_lost() {
        let (admission, limits) = (admission(), limits(1, 2));
        let place = admission.place(&limits).await.unwrap();
        let mut gone = Box::pin(admission.place(&limits));
        let mut patient = Box::pin(admission.place(&limits));
        assert!(futures_util::poll!(&mut gone).is_pending());
        assert!(futures_util::poll!(&mut patient).is_pending());
        drop(gone);
        drop(place);
        drop(patient.await.unwrap());
        assert_eq!(admission.lock().taken, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_left_the_queue_is_not_counted_as_waiting() {
        let (admission, limits) = (admission(), limits(1, 1));
        let _place = admission.place(&limits).await.unwrap();
        let mut gone = Box::pin(admission.place(&limits));
        assert!(futures_util::poll!(&mut gone).is_pending());
        assert_eq!(admission.metrics.queued.get(), 1);
        drop(gone);
        assert_eq!(admission.metrics.queued.get(), 0);
    }
}
