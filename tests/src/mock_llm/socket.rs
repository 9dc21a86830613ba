//! A connection that can be told to misbehave below HTTP.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::script::End;
use super::state::Deaf;

/// What a script does to the connection that its request came on.
#[derive(Debug, Default)]
pub(super) struct Sabotage {
    is_reset: AtomicBool,
    is_half_closed: AtomicBool,
    deaf: OnceLock<Arc<Deaf>>,
    /// Whoever reads the connection.
    connection: AtomicWaker,
    instead: OnceLock<(Bytes, End)>,
    written: AtomicUsize,
}

/// The connection; plain until its sabotage says otherwise.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    sabotage: Arc<Sabotage>,
}

// === impl Sabotage ===

impl Sabotage {
    /// Makes the end of the connection an RST.
    pub(super) fn reset_when_dropped(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
    }

    /// Sends a FIN and goes on reading.
    pub(super) fn half_close(&self) {
        self.is_half_closed.store(true, Ordering::Relaxed);
        self.connection.wake();
    }

    /// Keeps from HTTP that the client has left.
    pub(super) fn deafen(&self, deaf: Arc<Deaf>) {
        // Only the first request of a connection can do this: the connection ends with it.
        let _ = self.deaf.set(deaf);
    }

    /// Writes these bytes in place of anything that HTTP wants to write from now on, then does as `end` says.
    pub(super) fn write_instead(&self, bytes: Bytes, end: End) {
        // A second script on the same connection changes nothing: the first has ended it.
        let _ = self.instead.set((bytes, end));
    }
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(tcp: TcpStream, sabotage: Arc<Sabotage>) -> Self {
        Self { tcp, sabotage }
    }

    fn note(&self, written: &io::Result<usize>) {
        if let (Some(deaf), Ok(count)) = (self.sabotage.deaf.get(), written) {
            deaf.wrote(*count);
        }
    }

    fn poll_write_instead(&mut self, cx: &mut Context<'_>, bytes: &[u8], end: End) -> Poll<io::Result<usize>> {
        loop {
            let written = self.sabotage.written.load(Ordering::Relaxed);
            if written == bytes.len() {
                return match end {
                    // Nobody wakes this write again; the connection ends when the client or the mock ends it.
                    End::KeepOpen => Poll::Pending,
                    End::Close | End::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                };
            }
            let count = ready!(Pin::new(&mut self.tcp).poll_write(cx, &bytes[written..]))?;
            self.sabotage.written.store(written + count, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.sabotage.connection.register(cx.waker());
        if self.sabotage.is_half_closed.load(Ordering::Relaxed) {
            // A connection that is gone already needs no end.
            let _ = SockRef::from(&self.tcp).shutdown(Shutdown::Write);
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.tcp).poll_read(cx, buf));
        match self.sabotage.deaf.get() {
            Some(deaf) if read.is_err() || buf.filled().len() == before => {
                deaf.client_left();
                // HTTP shall not notice; its writes fail soon enough, which ends the connection.
                Poll::Pending
            }
            _ => Poll::Ready(read),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some((bytes, end)) = self.sabotage.instead.get().cloned() {
            return self.poll_write_instead(cx, &bytes, end);
        }
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf));
        self.note(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some((bytes, end)) = self.sabotage.instead.get().cloned() {
            return self.poll_write_instead(cx, &bytes, end);
        }
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs));
        self.note(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sabotage.is_reset.load(Ordering::Relaxed) {
            // A FIN before the RST would look like a clean end.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.sabotage.is_reset.load(Ordering::Relaxed) {
            // With a lingering time of zero, closing sends an RST; without, the end is a FIN, which a test would notice.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}
