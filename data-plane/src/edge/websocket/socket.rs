//! The WebSocket itself: frames are gathered and leave with a flush, and a close is said and heard.

use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::CapacityError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    frames,
    outbox::Outbox,
    session::{LIMITS, Sender},
};

/// So much is written before the socket is flushed and the client's frames are read again.
pub(super) const ROUND: usize = 48 * 1024;
/// Read in steps of this size; there may be thousands of sockets.
const READ_BUFFER: usize = 8 * 1024;
/// A client that lets more replies to its own frames lie than this is not read on. Replies are all that it can make us
/// hold without limit: a ping has its pong, whoever reads it.
const REPLIES_MOST: usize = 64 * 1024;
/// What a pong of ours has before its payload (RFC 6455 §5.2: a server's frames are not masked).
const PONG_HEAD: usize = 2;
/// How long the other side may take to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// What is read of a client that did not keep to the protocol, and how long its next bytes may take.
const SWALLOWED_MOST: usize = 64 * 1024 * 1024;
const SWALLOW_WITHIN: Duration = Duration::from_secs(1);

/// One socket, and what was written to it and has not left. Its texts are ours to write; tungstenite reads, and writes
/// what answers, pings and closes.
pub(super) struct Socket<I = TokioIo<Upgraded>> {
    inner: WebSocketStream<Outbox<I>>,
    /// The client has said its last word: it has its answer, and nothing follows that.
    is_closing: bool,
    /// Bytes written since the last flush.
    unflushed: usize,
    /// Those of them that answer the client's own frames.
    replies: usize,
}

/// How a socket is closed.
pub(super) struct Farewell {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

/// On it goes, or the socket is closed.
pub(super) type Flow<T = ()> = ControlFlow<Farewell, T>;

// === impl Socket ===

impl<I: AsyncRead + AsyncWrite + Unpin> Socket<I> {
    /// A socket of a connection that was upgraded.
    pub(super) async fn new(io: I) -> Self {
        let inner = WebSocketStream::from_raw_socket(Outbox::new(io), Role::Server, Some(limits())).await;
        Self { inner, is_closing: false, unflushed: 0, replies: 0 }
    }

    /// The next frame of the client.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Flow<Message>> {
        let message = match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Poll::Ready(Flow::Break(Farewell::of(&error))),
            None => return Poll::Ready(Flow::Break(Farewell::gone())),
        };
        match &message {
            // tungstenite answers it by itself, with the next flush.
            Message::Ping(payload) => self.unflushed += PONG_HEAD + payload.len(),
            Message::Close(_) => self.is_closing = true,
            _ => {}
        }
        Poll::Ready(Flow::Continue(message))
    }

    /// Sends what was gathered.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Flow> {
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_flush(cx)) {
            Ok(()) => {
                (self.unflushed, self.replies) = (0, 0);
                Flow::Continue(())
            }
            Err(_) => Flow::Break(Farewell::gone()),
        })
    }

    /// Puts a frame into the buffer; the next flush sends it.
    pub(super) fn say(&mut self, frame: &str) -> Flow {
        if self.is_closing {
            return Flow::Break(Farewell::gone());
        }
        frames::put_text(self.inner.get_mut().frames(), frame);
        self.unflushed += frame.len();
        Flow::Continue(())
    }

    /// Sends a ping, after all that is in the buffer.
    pub(super) fn ping(&mut self) -> Flow {
        self.unflushed += 1;
        match Pin::new(&mut self.inner).start_send(Message::Ping(Bytes::new())) {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(Farewell::gone()),
        }
    }

    /// Puts the next event of the stream called `id` into the buffer. Returns how many bytes it takes.
    pub(super) fn delta(&mut self, sender: &mut Sender<'_>, id: &str, object: &[u8]) -> Flow<usize> {
        if self.is_closing {
            return Flow::Break(Farewell::gone());
        }
        let bytes = sender.delta(self.inner.get_mut().frames(), id, object);
        self.unflushed += bytes;
        Flow::Continue(bytes)
    }

    /// Bytes written since the last flush.
    pub(super) fn unflushed(&self) -> usize {
        self.unflushed
    }

    /// Must it be flushed before more is written?
    pub(super) fn is_full(&self) -> bool {
        self.unflushed >= ROUND
    }

    /// So many bytes of those that were written answer the client's own frames.
    pub(super) fn note_replies(&mut self, bytes: usize) {
        self.replies += bytes;
    }

    /// May the client be read on?
    pub(super) fn listens(&self) -> bool {
        self.replies < REPLIES_MOST
    }

    /// Says `farewell` and waits for the client's.
    pub(super) async fn close(mut self, farewell: Farewell) {
        if farewell.code == 0 {
            return;
        }
        let frame = CloseFrame { code: CloseCode::from(farewell.code), reason: farewell.reason.into() };
        let closing = async {
            self.inner.close(Some(frame)).await?;
            // Until the client has answered; after a broken frame nothing more is read.
            while let Some(read) = poll_fn(|cx| Pin::new(&mut self.inner).poll_next(cx)).await {
                read?;
            }
            Ok::<_, Error>(())
        };
        // A client that does not answer is let go.
        let _ = timeout(CLOSE_WITHIN, closing).await;
        if farewell.is_broken() {
            self.swallow().await;
        }
    }

    /// Reads on without looking: a socket that is closed with bytes unread is reset, and the reset may overtake the
    /// close frame that says why.
    async fn swallow(&mut self) {
        let (mut buffer, mut left) = ([0; 8 * 1024], SWALLOWED_MOST);
        while left > 0 {
            match timeout(SWALLOW_WITHIN, self.inner.get_mut().read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => left = left.saturating_sub(read),
                _ => return,
            }
        }
    }
}

// === impl Farewell ===

impl Farewell {
    /// The client is gone: there is nobody to say a word to.
    pub(super) fn gone() -> Self {
        Self { code: 0, reason: "" }
    }

    /// Can frames not be read any more?
    fn is_broken(&self) -> bool {
        matches!(self.code, 1002 | 1007 | 1009)
    }

    /// What a broken frame means (RFC 6455 §7.4.1).
    fn of(error: &Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => Self { code: 1009, reason: "frame_too_large" },
            Error::Utf8(_) => Self { code: 1007, reason: "not_utf8" },
            Error::Protocol(_) => Self { code: 1002, reason: "protocol_error" },
            _ => Self::gone(),
        }
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LIMITS.frame))
        .max_frame_size(Some(LIMITS.frame))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// A client's frame without a payload, masked with nothing.
    fn bare(opcode: u8) -> [u8; 6] {
        [0x80 | opcode, 0x80, 0, 0, 0, 0]
    }

    async fn next<I: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<I>) -> Flow<Message> {
        poll_fn(|cx| socket.poll_read(cx)).await
    }

    #[tokio::test]
    async fn nothing_follows_the_answer_to_a_close() {
        const PING: u8 = 9;
        const CLOSE: u8 = 8;
        let (near, mut far) = duplex(1024);
        let mut socket = Socket::new(near).await;
        assert!(socket.say("{}").is_continue());
        far.write_all(&[bare(PING), bare(CLOSE)].concat()).await.unwrap();
        assert!(matches!(next(&mut socket).await, Flow::Continue(Message::Ping(_))));
        assert!(matches!(next(&mut socket).await, Flow::Continue(Message::Close(_))));
        assert!(socket.say("{}").is_break(), "the other side has ended");
        assert!(matches!(next(&mut socket).await, Flow::Break(Farewell { code: 0, .. })));
        socket.close(Farewell::gone()).await;
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"\x81\x02{}\x8a\x00\x88\x00", "a text, a pong, a close");
    }
}
