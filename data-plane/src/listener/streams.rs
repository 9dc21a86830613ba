//! Watches the streams of an HTTP/2 connection: one whose client stops reading ends alone, its siblings run on.
//!
//! A stream that has no window left is not polled by hyper any more, so that no clock of its answer runs; and the socket,
//! which the siblings share, does not stall. What is left is the task that hyper spawns for each stream: it is watched
//! here, and dropping it resets the stream (RFC 9113 §5.4.2) and, with its body, cuts the backend.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use ntonix_runtime::tasks;

use super::guard::Clock;

tokio::task_local! {
    static CURRENT: Arc<Progress>;
}

/// How far the answer of one stream has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The answer waits for its backend, not for its client.
    waits_for_backend: AtomicBool,
    /// Pieces handed to the connection.
    pieces: AtomicU64,
    stalled: AtomicBool,
}

/// Spawns the tasks of an HTTP/2 connection's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// How long a client may read nothing while there is something to read.
    pub(super) stall: Duration,
}

pin_project_lite::pin_project! {
    /// The task of one stream.
    struct Watched<F> {
        #[pin]
        stream: F,
        progress: Arc<Progress>,
        stall: Duration,
        clock: Clock,
        seen: u64,
    }
}

/// The stream that the current task serves, when it is one of HTTP/2.
pub(crate) fn current() -> Option<Arc<Progress>> {
    CURRENT.try_with(Arc::clone).ok()
}

// === impl Progress ===

impl Progress {
    /// Takes note of what the answer's body gave when it was polled.
    pub(super) fn note<T>(&self, polled: &Poll<T>) {
        self.waits_for_backend.store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready() {
            self.pieces.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Did its client stop reading for too long?
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

// === impl Streams ===

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = Arc::<Progress>::default();
        // Until the answer is there, its own deadlines run.
        progress.waits_for_backend.store(true, Ordering::Relaxed);
        let watched =
            Watched { stream, progress: Arc::clone(&progress), stall: self.stall, clock: Clock::default(), seen: 0 };
        tasks::spawn("http2-stream", CURRENT.scope(progress, watched));
    }
}

// === impl Watched ===

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let pieces = this.progress.pieces.load(Ordering::Relaxed);
        if std::mem::replace(this.seen, pieces) != pieces || this.progress.waits_for_backend.load(Ordering::Relaxed) {
            this.clock.stop();
        }
        if this.progress.waits_for_backend.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        ready!(this.clock.poll_over(cx, *this.stall));
        // Before the body is dropped, which asks why.
        this.progress.stalled.store(true, Ordering::Relaxed);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        sync::oneshot,
        time::{Instant, sleep},
    };

    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    /// A stream whose body gives a piece each time that the client makes room, and then waits for more room.
    fn spawn(mut gives: impl FnMut(u32) -> Option<Duration> + Send + 'static) -> oneshot::Receiver<()> {
        let (alive, ended) = oneshot::channel::<()>();
        Streams { stall: STALL }.execute(async move {
            let _alive = alive;
            let progress = current().expect("a stream of HTTP/2");
            for round in 0.. {
                progress.note(&Poll::Ready(()));
                let Some(room) = gives(round) else { break };
                sleep(room).await;
            }
            poll_fn(|_| {
                progress.note(&Poll::<()>::Pending);
                Poll::<()>::Pending
            })
            .await;
        });
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_reads_nothing_is_dropped_after_a_minute() {
        let start = Instant::now();
        let ended = spawn(|_| Some(100 * STALL));
        assert!(ended.await.is_err(), "dropped");
        assert_eq!(start.elapsed(), STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_slowly_is_not() {
        let start = Instant::now();
        let ended = spawn(|round| Some(if round < 10 { STALL / 2 } else { 100 * STALL }));
        assert!(ended.await.is_err());
        assert_eq!(start.elapsed(), 10 * STALL / 2 + STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_for_its_backend_is_not() {
        let ended = spawn(|round| (round == 0).then_some(STALL / 2));
        assert!(tokio::time::timeout(100 * STALL, ended).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn outside_of_http2_there_is_no_stream() {
        assert!(current().is_none());
    }
}
