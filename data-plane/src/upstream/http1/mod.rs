//! HTTP/1.1 to a backend, one exchange after the other on a connection.
//!
//! Nobody drives a connection but the exchange that has it: no task, no channel, no wake-up in between. It has no buffers of
//! its own either. Bytes are read into one that the thread has, so that a stream that waits costs its socket and little
//! more, and all chunks that one read brings leave as one piece. (ADR 19 has the figures.)

mod framing;
mod head;

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut, buf::Chain};
use http::Request;
use ntonix_runtime::silence::{end_when_silent, wait_for_room};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use self::framing::{Framing, Malformed};
pub(crate) use self::head::{BadHead, Head};
use super::{connect::SILENT_AT_MOST, io::Io};

/// What one read takes at most. Larger ones would make fewer calls, and pieces that a slow client holds for longer.
const READ_MOST: usize = 16 * 1024;
/// So much fits into a system's buffers although the backend reads nothing of it. Of a larger request it may have no room
/// for the rest until it is less busy; how long that may take, the first-token deadline says.
const ROOM_LEAST: usize = 32 * 1024;

thread_local! {
    /// What is read goes here first, and is gone from here before the next read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MOST].into());
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Io,
    /// What of the request has not left: its head and its body.
    unsent: Chain<Bytes, Bytes>,
    /// Is there something in the layers below that must be told to leave?
    unflushed: bool,
    /// What was read and not looked at: a part of a head, or what came with one.
    ahead: BytesMut,
    answer: Answer,
}

/// What is known of an answer whose body is being read.
#[derive(Debug)]
struct Answer {
    framing: Framing,
    /// Found behind data that was good.
    malformed: Option<Malformed>,
    /// The connection may serve another request afterwards.
    is_kept: bool,
}

/// Why there is no answer, or no more of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection broke.
    #[error("the connection broke")]
    Broke(#[source] io::Error),
    /// It was closed before the answer was over.
    #[error("the connection was closed before the answer was over")]
    Closed,
    /// What came is no head of HTTP/1.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// What came are no chunks.
    #[error(transparent)]
    Chunk(#[from] Malformed),
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: Error,
    pub(crate) reached: Reached,
}

/// A request that waits for its answer.
struct Asking {
    reached: Reached,
    /// How much of what is there was looked through for the end of a head.
    searched: usize,
}

/// The head of an answer, and where its body ends.
type Asked = Result<(Head, Framing), Error>;

/// How far an exchange came before its connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Nothing of the request was written.
    Nothing,
    /// Something was; the backend may have seen all of it.
    Request,
    /// Something of an answer came.
    Answer,
}

// === impl Connection ===

impl Connection {
    /// A connection on which nothing was sent yet.
    pub(crate) fn new(io: Io) -> Self {
        Self {
            io,
            unsent: nothing(),
            unflushed: false,
            ahead: BytesMut::new(),
            answer: Answer { framing: Framing::Ended, malformed: None, is_kept: true },
        }
    }

    /// Sends `request` and waits for the head of the answer. The connection must be free.
    pub(crate) async fn ask(&mut self, request: &Request<Bytes>) -> Result<Head, Unanswered> {
        self.unsent = Bytes::from(head::write(request)).chain(request.body().clone());
        let mut asking = Asking { reached: Reached::Nothing, searched: 0 };
        // A failed call means that the socket is gone, which shows by itself.
        let is_large = request.body().len() > ROOM_LEAST;
        if is_large {
            let _told = wait_for_room(self.io.socket());
        }
        let asked = poll_fn(|cx| self.poll_ask(cx, &mut asking)).await;
        if is_large {
            let _told = end_when_silent(self.io.socket(), SILENT_AT_MOST);
        }
        match asked {
            Ok((head, framing)) => {
                self.answer = Answer { framing, malformed: None, is_kept: head.is_kept };
                Ok(head)
            }
            Err(error) => Err(Unanswered { error, reached: asking.reached }),
        }
    }

    /// The next bytes of the body, never empty; `None` at its clean end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        // An answer may begin before all of the request was taken. That the rest is not wanted is no failure of it.
        if self.is_sending()
            && let Poll::Ready(Err(_)) = self.poll_send(cx)
        {
            self.give_up_sending();
        }
        loop {
            if let Some(malformed) = self.answer.malformed {
                return Poll::Ready(Some(Err(malformed.into())));
            }
            if self.answer.framing.is_end() {
                return Poll::Ready(None);
            }
            let data = if self.ahead.is_empty() {
                let answer = &mut self.answer;
                match ready!(poll_read(&mut self.io, cx, |bytes| answer.decode(bytes)))? {
                    Some(data) => data,
                    None => self.answer.end()?,
                }
            } else {
                self.answer.decode(&std::mem::take(&mut self.ahead))
            };
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// Can it take another request, as far as the socket says? Nobody looks at it while it is idle.
    pub(crate) fn is_free(&mut self) -> bool {
        self.answer.leaves_it_free() && self.ahead.is_empty() && !self.is_sending() && self.is_silent()
    }

    /// Has nothing come, and no end?
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let mut nobody = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut nobody, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    fn is_sending(&self) -> bool {
        self.unsent.has_remaining() || self.unflushed
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = self.unsent.chunks_vectored(&mut slices);
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
            // The prompt may be large, and the stream long.
            self.unsent = nothing();
        }
        Poll::Ready(Ok(()))
    }

    fn give_up_sending(&mut self) {
        (self.unsent, self.unflushed, self.answer.is_kept) = (nothing(), false, false);
    }

    fn poll_ask(&mut self, cx: &mut Context<'_>, asking: &mut Asking) -> Poll<Asked> {
        // What came is looked at first: a connection that was closed while it lay idle gets nothing of the request.
        if let Poll::Ready(asked) = self.poll_head(cx, asking) {
            return Poll::Ready(asked);
        }
        let before = self.unsent.remaining();
        let sent = self.poll_send(cx);
        if asking.reached == Reached::Nothing && self.unsent.remaining() < before {
            asking.reached = Reached::Request;
        }
        match sent {
            // What a backend says before it closes, as in a 413, can be read although nothing more can be written.
            Poll::Ready(Err(error)) => match self.poll_head(cx, asking) {
                Poll::Pending => Poll::Ready(Err(Error::Broke(error))),
                asked => asked,
            },
            _ => Poll::Pending,
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, asking: &mut Asking) -> Poll<Asked> {
        loop {
            let ahead = &mut self.ahead;
            match ready!(poll_read(&mut self.io, cx, |bytes| ahead.extend_from_slice(bytes)))? {
                // It answers what nobody asked: a 408, say, before it closes.
                Some(()) if asking.reached == Reached::Nothing => return Poll::Ready(Err(Error::Closed)),
                Some(()) => asking.reached = Reached::Answer,
                None => return Poll::Ready(Err(Error::Closed)),
            }
            if let Some(asked) = head::read(&mut self.ahead, &mut asking.searched)? {
                if self.ahead.is_empty() {
                    // Empty as it is, it would hold the bytes of the head for as long as the stream waits.
                    self.ahead = BytesMut::new();
                }
                return Poll::Ready(Ok(asked));
            }
        }
    }
}

// === impl Answer ===

impl Answer {
    /// What `bytes` have of the body. It may be empty.
    fn decode(&mut self, bytes: &[u8]) -> Bytes {
        let mut data = BytesMut::with_capacity(bytes.len());
        match self.framing.decode(bytes, &mut data) {
            // More than was announced: what it may be, it is no answer to the next request.
            Ok(taken) if taken < bytes.len() => self.is_kept = false,
            Ok(_) => {}
            // What came before it is good, and leaves first.
            Err(malformed) => self.malformed = Some(malformed),
        }
        data.freeze()
    }

    /// The connection has ended: nothing more comes.
    fn end(&mut self) -> Result<Bytes, Error> {
        if !self.framing.may_end() {
            return Err(Error::Closed);
        }
        self.framing = Framing::Ended;
        Ok(Bytes::new())
    }

    fn leaves_it_free(&self) -> bool {
        self.framing.is_end() && self.malformed.is_none() && self.is_kept
    }
}

/// Gives `take` what one read brings, and `None` at the end of the connection.
fn poll_read<R>(io: &mut Io, cx: &mut Context<'_>, take: impl FnOnce(&[u8]) -> R) -> Poll<Result<Option<R>, Error>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut buffer)).map_err(Error::Broke)?;
        let bytes = buffer.filled();
        Poll::Ready(Ok((!bytes.is_empty()).then(|| take(bytes))))
    })
}

fn nothing() -> Chain<Bytes, Bytes> {
    Bytes::new().chain(Bytes::new())
}

#[cfg(test)]
mod tests;
