//! What leaves a WebSocket with its next flush: frames of text as we write them, and between them those of tungstenite.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Memory that is kept for the next frames when all have left. A round takes less, also in a buffer that has doubled.
const KEPT_MOST: usize = 128 * 1024;

/// The connection of a WebSocket, to which nothing but whole frames is written. They are gathered.
#[derive(Debug)]
pub(super) struct Outbox<I> {
    io: I,
    frames: BytesMut,
}

// === impl Outbox ===

impl<I> Outbox<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, frames: BytesMut::new() }
    }

    /// Where frames are put, each wholly.
    pub(super) fn frames(&mut self) -> &mut BytesMut {
        &mut self.frames
    }
}

impl<I: AsyncWrite + Unpin> Outbox<I> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.frames.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.frames))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frames.advance(sent);
        }
        // What one huge event took is not kept for small ones.
        if self.frames.try_reclaim(KEPT_MOST + 1) {
            self.frames = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Outbox<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Outbox<I> {
    /// Takes a frame of tungstenite's: a ping, a pong or a close. It does not wait for a flush, because none is asked for
    /// when the answer to a close is its last word.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, frame: &[u8]) -> Poll<io::Result<usize>> {
        self.frames.extend_from_slice(frame);
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What does not leave now leaves later.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(frame.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn frames_leave_in_the_order_in_which_they_were_written_whoever_wrote_them() {
        let (near, mut far) = duplex(1024);
        let mut outbox = Outbox::new(near);
        outbox.frames().put_slice(b"ours ");
        outbox.write_all(b"theirs ").await.unwrap();
        let mut read = vec![0; 12];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, b"ours theirs ", "a control frame waits for no flush");
        outbox.frames().put_slice(b"again");
        outbox.flush().await.unwrap();
        far.read_exact(&mut read[..5]).await.unwrap();
        assert_eq!(&read[..5], b"again");
    }

    #[tokio::test]
    async fn what_a_full_connection_does_not_take_leaves_later() {
        let (near, mut far) = duplex(4);
        let mut outbox = Outbox::new(near);
        outbox.frames().put_slice(b"123456");
        // Taken whole, so that no frame is ever cut into by another one.
        assert_eq!(outbox.write(b"7890").await.unwrap(), 4);
        let mut read = vec![0; 10];
        let (flushed, taken) = tokio::join!(outbox.flush(), far.read_exact(&mut read));
        flushed.unwrap();
        taken.unwrap();
        assert_eq!(read, b"1234567890");
    }

    #[tokio::test]
    async fn memory_is_kept_for_a_round_and_not_for_one_huge_event() {
        let (near, mut far) = duplex(2 * KEPT_MOST);
        let mut outbox = Outbox::new(near);
        for (size, is_kept) in [(KEPT_MOST / 2, true), (2 * KEPT_MOST, false)] {
            outbox.frames().put_bytes(b'x', size);
            outbox.flush().await.unwrap();
            far.read_exact(&mut vec![0; size]).await.unwrap();
            assert_eq!(outbox.frames().try_reclaim(size), is_kept, "of {size}");
        }
    }
}
