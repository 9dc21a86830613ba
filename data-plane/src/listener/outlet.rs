//! The way out of a client's socket: a client that takes nothing of what is there for it does not stay for ever.
//!
//! It is below TLS, which takes more than the socket does: what a client has taken shows only here.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Activity, Clock};

/// A socket with the clock of what does not leave.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    inner: T,
    activity: Arc<Activity>,
    /// How long a client may read nothing while there is something to read.
    stall: Duration,
    clock: Clock,
}

// === impl Outlet ===

impl<T: AsyncWrite + Unpin> Outlet<T> {
    /// Watches `inner`. `activity` is told when the client stops reading.
    pub(crate) fn new(inner: T, activity: Arc<Activity>, stall: Duration) -> Self {
        Self { inner, activity, stall, clock: Clock::default() }
    }

    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let written = write(Pin::new(&mut self.inner), cx);
        if let Poll::Ready(result) = &written {
            if let Err(error) = result {
                self.note_silence(error);
            }
            if self.clock.stop() {
                self.activity.set_blocked(false);
            }
            return written;
        }
        self.activity.set_blocked(true);
        ready!(self.clock.poll_over(cx, self.stall));
        self.activity.note_stall();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
    }

    /// The system gives a client up that takes nothing, or is not there any more.
    fn note_silence(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.activity.note_loss();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Outlet<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            this.note_silence(error);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Outlet<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().watch(cx, |inner, cx| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().watch(cx, |inner, cx| inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has nothing to flush: to say that it is flushed does not mean that anything has left.
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::{
        io::{AsyncWriteExt as _, BufWriter, DuplexStream, duplex},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::exchange::Leave;

    const STALL: Duration = Duration::from_secs(60);

    fn outlet() -> (Outlet<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(16);
        (Outlet::new(near, Arc::default(), STALL), far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_let_go() {
        let (mut outlet, _far) = outlet();
        let start = Instant::now();
        let error = outlet.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, STALL));
        assert!(outlet.activity.has_stalled());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_slowly_stays() {
        let (mut outlet, mut far) = outlet();
        let reading = async {
            let mut bytes = [0; 16];
            for _ in 0..10 {
                tokio::time::sleep(STALL / 2).await;
                tokio::io::AsyncReadExt::read_exact(&mut far, &mut bytes).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(outlet.write_all(&[0; 160]), reading);
        written.unwrap();
    }

    /// A client whose connection the system gives up.
    struct Lost;

    impl AsyncRead for Lost {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    }

    impl AsyncWrite for Lost {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// C2.
    #[tokio::test]
    async fn one_that_the_system_gives_up_has_stalled_when_it_had_an_answer_to_take_and_left_when_it_had_none() {
        let activity = Arc::<Activity>::default();
        let leave = Leave { activity: Arc::clone(&activity), ..Leave::default() };
        let mut outlet = Outlet::new(Lost, activity, STALL);
        outlet.write_all(b"token").await.unwrap();
        assert_eq!(leave.outcome(Some(StatusCode::OK)).0, "cancelled");
        tokio::io::AsyncReadExt::read_u8(&mut outlet).await.unwrap_err();
        assert_eq!(leave.outcome(Some(StatusCode::OK)).0, "client_stalled");
        assert_eq!(leave.outcome(None).0, "cancelled");
    }

    /// Takes all that it is given, as rustls does, and gets rid of it with the flush.
    #[tokio::test(start_paused = true)]
    async fn tokens_that_only_a_buffer_above_takes_do_not_put_the_end_off() {
        let (outlet, _far) = outlet();
        let activity = Arc::clone(&outlet.activity);
        let mut tls = BufWriter::with_capacity(64 * 1024, outlet);
        let start = Instant::now();
        while !activity.has_stalled() {
            tls.write_all(&[0; 100]).await.unwrap();
            let _flushed = timeout(STALL / 4, tls.flush()).await;
            assert!(start.elapsed() <= STALL, "nobody lets it go");
        }
        assert_eq!(start.elapsed(), STALL);
    }
}
