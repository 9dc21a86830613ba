//! The moment at which the gateway goes away, told to every stream of a connection, also to those that wait.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Says to the streams of one connection that they end now.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    begun: AtomicBool,
    streams: Mutex<Vec<Weak<AtomicWaker>>>,
}

/// How one stream hears of it. A stream of HTTP/2 has a task of its own, which nobody polls while its backend is silent.
#[derive(Debug)]
pub(crate) struct Notice {
    stopping: Arc<Stopping>,
    waker: Arc<AtomicWaker>,
}

// === impl Stopping ===

impl Stopping {
    /// It is now.
    pub(crate) fn begin(&self) {
        // Before the wakers are looked at: who registers one later looks here afterwards.
        self.begun.store(true, Ordering::SeqCst);
        self.lock().drain(..).filter_map(|stream| stream.upgrade()).for_each(|stream| stream.wake());
    }

    /// Is it now?
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// For one more stream.
    pub(crate) fn notice(self: &Arc<Self>) -> Notice {
        let waker = Arc::<AtomicWaker>::default();
        let mut streams = self.lock();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&waker));
        drop(streams);
        Notice { stopping: Arc::clone(self), waker }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<AtomicWaker>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Notice ===

impl Notice {
    /// Is it now?
    pub(crate) fn has_come(&self) -> bool {
        self.stopping.has_begun()
    }

    /// Waits until it is.
    pub(crate) async fn come(&self) {
        poll_fn(|cx| if self.comes(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Is it now? When not, the task is woken when it is.
    pub(crate) fn comes(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.stopping.begun.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_waits_is_woken() {
        let stopping = Arc::<Stopping>::default();
        let (notice, gone) = (stopping.notice(), stopping.notice());
        drop(gone);
        let telling = async { stopping.begin() };
        tokio::join!(notice.come(), telling);
        assert!(notice.has_come() && stopping.notice().has_come());
    }
}
