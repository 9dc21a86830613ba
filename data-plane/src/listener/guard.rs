//! Watches what comes from a client: one that says nothing, or says it too slowly, does not stay for ever.
//!
//! hyper's own header timer also runs while a connection is idle between requests; the two are told apart here.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::{Instant, Sleep, sleep_until, timeout},
};

/// How long the head of a request may take from its first byte.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may be idle between requests; before the first one it has `HEAD_WITHIN`.
const IDLE_AT_MOST: Duration = Duration::from_secs(75);

/// What a connection does: how many of its requests are under way, and whether its client takes their answers.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    requests: AtomicUsize,
    /// A request begins or ends.
    changed: Notify,
    http2: AtomicBool,
    /// Something waits to leave, and the client's socket takes nothing.
    blocked: AtomicBool,
    stalled: AtomicBool,
    lost: AtomicBool,
}

/// One request under way; over when dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

/// A client's socket with the clock of what it sends.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    inner: T,
    activity: Arc<Activity>,
    reading: Clock,
    /// Did the request that is awaited begin to come?
    began: bool,
    /// Was there a request before?
    served: bool,
    /// HTTP/2 has frames between requests that are no requests.
    frames: bool,
}

/// A timer that is set when something begins to be waited for, and forgotten when it comes.
#[derive(Debug, Default)]
pub(super) struct Clock {
    until: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Activity ===

impl Activity {
    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
        Busy(Arc::clone(self))
    }

    /// It speaks HTTP/2.
    pub(super) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing was asked for `long`; over HTTP/2 not at all.
    pub(super) async fn rested(&self, long: Duration) {
        while !self.http2.load(Ordering::Relaxed) {
            let changed = self.changed.notified();
            if !self.is_idle() {
                changed.await;
            } else if timeout(long, changed).await.is_err() {
                return;
            }
        }
    }

    /// Did the client stop reading for too long?
    pub(crate) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Does something wait to leave that the client's socket does not take?
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    pub(super) fn set_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Its client has stopped reading; to be said before its answers are dropped, which ask why.
    pub(super) fn note_stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Did the system give the client up, which took nothing of what was sent, or was not heard any more?
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// The system has given its client up; to be said before its answers are dropped.
    pub(super) fn note_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
    }
}

// === impl Clock ===

impl Clock {
    /// What was waited for has come; says whether it was waited for.
    pub(super) fn stop(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Is the time of what is waited for over? It begins with the first call.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>, within: Duration) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + within);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(cx)
    }
}

// === impl Guarded ===

impl<T> Guarded<T> {
    /// Watches `inner`. `activity` is told of requests by whoever serves them.
    pub(crate) fn new(inner: T, activity: Arc<Activity>) -> Self {
        Self { inner, activity, reading: Clock::default(), began: false, served: false, frames: false }
    }

    /// What may be waited for now, while nothing comes.
    fn read_within(&self) -> Duration {
        let awaits_head = (self.began || !self.served) && !self.frames;
        if awaits_head { HEAD_WITHIN } else { IDLE_AT_MOST }
    }

    fn came(&mut self, first: &[u8]) {
        if !self.served && !self.began {
            // RFC 9113 §3.4: an HTTP/2 connection begins with "PRI * HTTP/2.0".
            self.frames = first.starts_with(b"PRI ");
        }
        // The head has one time for all of its bytes; idle time ends with its first. With frames it is idle time that runs
        // from there: the answers to our own pings must not put it off for ever.
        if !self.began {
            self.reading.stop();
        }
        self.began = true;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.activity.is_idle() {
            // A request is under way: its own clocks run, and what comes now belongs to it or to the next one.
            (this.served, this.began) = (true, false);
            this.reading.stop();
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Pending if this.activity.is_idle() => {
                ready!(this.reading.poll_over(cx, this.read_within()));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent no request in time")))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => {
                if read.is_ok() && buf.filled().len() > before {
                    this.came(&buf.filled()[before..]);
                }
                Poll::Ready(read)
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_head_byte_by_byte_has_ten_seconds_in_all() {
        let (near, mut far) = duplex(64);
        let mut guarded = Guarded::new(near, Arc::default());
        let start = Instant::now();
        let dripping = async {
            while far.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let reading = async {
            let mut byte = [0];
            while guarded.read_exact(&mut byte).await.is_ok() {}
        };
        tokio::select! { () = dripping => panic!("nobody stopped it"), () = reading => {} }
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_connection_may_rest_longer() {
        let (near, mut far) = duplex(64);
        let activity = Arc::<Activity>::default();
        let mut guarded = Guarded::new(near, Arc::clone(&activity));
        far.write_all(b"G").await.unwrap();
        let mut byte = [0];
        let busy = activity.begin();
        guarded.read_exact(&mut byte).await.unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut none = [0];
        assert!(Pin::new(&mut guarded).poll_read(&mut cx, &mut ReadBuf::new(&mut none)).is_pending());
        drop(busy);
        let start = Instant::now();
        assert!(guarded.read_exact(&mut byte).await.is_err());
        assert_eq!(start.elapsed(), IDLE_AT_MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_our_pings_do_not_keep_a_connection_without_requests() {
        let (near, mut far) = duplex(64);
        let mut guarded = Guarded::new(near, Arc::default());
        far.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let start = Instant::now();
        let acknowledging = async {
            while far.write_all(b"ack").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        let reading = async {
            let mut bytes = [0; 64];
            while guarded.read(&mut bytes).await.is_ok() {}
        };
        tokio::select! {
            () = acknowledging => panic!("nobody stopped it"),
            () = reading => {}
            () = tokio::time::sleep(4 * IDLE_AT_MOST) => panic!("it stays for ever"),
        }
        assert_eq!(start.elapsed(), IDLE_AT_MOST);
    }
}
