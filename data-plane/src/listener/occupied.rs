//! The body of an answer on its connection: keeps it busy, says how far it has come, and over HTTP/2 leaves in pieces.
//!
//! h2 takes a chunk of any size as soon as one byte of window is there, and what it has taken nobody watches any more. So
//! it is given little at a time, and the answer ends when its last piece was taken, not when it was pulled.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{guard::Busy, streams::Progress};
use crate::{edge::EdgeBody, refusal::Refusal};

/// A frame of HTTP/2, as large as every peer takes it (RFC 9113 §6.5.2).
const PIECE: usize = 16 * 1024;
/// What h2 may hold of a stream whose last piece it has taken: its buffer and one piece more.
const HELD_MOST: usize = super::HTTP2_WINDOW as usize + PIECE;

/// A body that keeps its connection busy until it ends.
pub(super) struct Occupied {
    body: EdgeBody,
    /// Of an answer over HTTP/2.
    stream: Option<Stream>,
    _busy: Busy,
}

/// What an answer over HTTP/2 has to keep.
struct Stream {
    progress: Arc<Progress>,
    cut: Option<Cut>,
    /// There was something in it, so that its end is told by itself.
    begun: bool,
    ended: bool,
}

/// A chunk that leaves in pieces.
struct Cut {
    chunk: Bytes,
    /// So much has left.
    at: usize,
}

// === impl Occupied ===

impl Occupied {
    /// `progress` is that of the stream, when it is one of HTTP/2.
    pub(super) fn new(mut body: EdgeBody, progress: Option<Arc<Progress>>, busy: Busy) -> Self {
        if progress.is_some() {
            body.settle_when_told();
        }
        let stream = progress.map(|progress| Stream { progress, cut: None, begun: false, ended: false });
        Self { body, stream, _busy: busy }
    }
}

impl Body for Occupied {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            None => this.body.poll_data(cx),
            Some(stream) => {
                let polled = stream.poll_piece(&mut this.body, cx);
                stream.progress.note(&polled);
                polled
            }
        };
        polled.map(|item| item.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.stream {
            Some(stream) if stream.begun => stream.ended,
            _ => self.body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        // Asked before the first piece only: it goes into the head.
        self.body.size().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        if let Some(Stream { cut: Some(cut), .. }) = &self.stream {
            self.body.cut_off(&cut.chunk, cut.at);
        }
    }
}

// === impl Stream ===

impl Stream {
    /// The next bytes, so few that they can be taken at once. To ask for more is to have taken those before.
    fn poll_piece(&mut self, body: &mut EdgeBody, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        if let Some(cut) = &mut self.cut {
            let piece = cut.next();
            if cut.is_empty() {
                self.cut = None;
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        let item = match ready!(body.poll_data(cx)) {
            Some(Ok(chunk)) if chunk.len() > PIECE => {
                let cut = self.cut.insert(Cut { chunk, at: 0 });
                Some(Ok(cut.next()))
            }
            None => {
                self.ended = true;
                body.settle();
                None
            }
            item => item,
        };
        self.begun = true;
        Poll::Ready(item)
    }
}

// === impl Cut ===

impl Cut {
    fn next(&mut self) -> Bytes {
        let left = self.chunk.len() - self.at;
        let range = self.at..self.at + left.min(PIECE);
        self.at = range.end;
        // What may wait in h2 after the end of the answer must not hold all of a large chunk.
        let is_tail = left <= HELD_MOST && self.chunk.len() > HELD_MOST;
        if is_tail { Bytes::copy_from_slice(&self.chunk[range]) } else { self.chunk.slice(range) }
    }

    fn is_empty(&self) -> bool {
        self.at == self.chunk.len()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http::{HeaderMap, StatusCode};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{exchange::Reply, listener::guard::Activity};

    fn occupied(body: EdgeBody) -> Occupied {
        Occupied::new(body, Some(Arc::default()), Arc::<Activity>::default().begin())
    }

    /// What hyper gets, and whether that was the end.
    fn pull(body: &mut Occupied) -> Option<Bytes> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => Some(frame.into_data().unwrap()),
            Poll::Ready(None) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_large_answer_leaves_in_pieces_and_ends_when_the_last_was_taken() {
        let bytes: Bytes = (0..900_000_u32).map(|at| at as u8).collect();
        let mut reply = Reply::full(StatusCode::OK, HeaderMap::new(), bytes.clone());
        let (permit, mut given_back) = oneshot::channel::<()>();
        reply.hold(Box::new(permit));
        let mut body = occupied(EdgeBody::Bytes(reply.body));
        assert_eq!(body.size_hint().exact(), Some(900_000));
        let mut pulled = Vec::new();
        while let Some(piece) = pull(&mut body) {
            assert!((1..=PIECE).contains(&piece.len()) && !body.is_end_stream());
            assert!(given_back.try_recv() == Err(oneshot::error::TryRecvError::Empty), "given back too early");
            pulled.extend_from_slice(&piece);
        }
        assert!(pulled == bytes, "other bytes");
        assert!(body.is_end_stream() && given_back.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn what_is_left_in_h2_does_not_hold_a_large_chunk() {
        let chunk = Bytes::from(vec![7; 900_000]);
        let mut body = occupied(EdgeBody::whole(chunk.clone()));
        let mut pieces: Vec<_> = std::iter::from_fn(|| pull(&mut body)).collect();
        drop(body);
        assert!(!chunk.is_unique(), "most of it is not copied");
        pieces.drain(..pieces.len() - HELD_MOST / PIECE);
        assert!(chunk.is_unique());
    }

    #[test]
    fn an_empty_answer_has_ended_before_it_begins_and_a_small_one_is_passed_on_as_it_is() {
        assert!(occupied(EdgeBody::whole(Bytes::new())).is_end_stream());
        let small = Bytes::from(vec![7; PIECE]);
        let mut body = occupied(EdgeBody::whole(small.clone()));
        assert_eq!(pull(&mut body).map(|piece| piece.as_ptr()), Some(small.as_ptr()));
        assert!(!body.is_end_stream() && pull(&mut body).is_none() && body.is_end_stream());
    }
}
