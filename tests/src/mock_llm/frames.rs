//! Faults of HTTP/2 that no library would make: frames are put in, cut small or kept from hyper on the way.
//!
//! Whole frames are gathered in both directions, so that a fault always stands between two of them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::script::GoAway;
use super::state::Deaf;

// RFC 9113 §4.1 and §6.
const HEAD: usize = 9;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
/// Bytes that wait to leave before hyper has to wait too.
const WAITING_MAX: usize = 64 * 1024;

/// What scripts do to the frames of one connection.
#[derive(Debug, Default)]
pub(super) struct FrameFaults {
    /// Frames to be put in.
    extra: Mutex<VecDeque<Bytes>>,
    /// The most bytes of a DATA frame; 0 leaves them as they are.
    data_max: AtomicUsize,
    /// A stream that goes on after its client has left.
    deaf: Mutex<Option<(u32, Arc<Deaf>)>>,
    requests: AtomicU32,
    connection: AtomicWaker,
}

/// The connection, as hyper sees it.
#[derive(Debug)]
pub(super) struct Frames<S> {
    inner: S,
    faults: Arc<FrameFaults>,
    version: Version,
    /// Read but not yet a whole frame; whole frames for hyper.
    incoming: BytesMut,
    received: BytesMut,
    /// Written by hyper but not yet a whole frame; whole frames for the client.
    outgoing: BytesMut,
    leaving: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Unknown,
    Http1,
    Http2,
}

// === impl FrameFaults ===

impl FrameFaults {
    /// The stream of the request that is served now: a client numbers its requests 1, 3, 5, …
    pub(super) fn next_stream(&self) -> u32 {
        2 * self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn go_away(&self, kind: GoAway, stream: u32) {
        let (last, reason) = match kind {
            GoAway::After => (stream, 0),
            GoAway::Before => (stream.saturating_sub(2), 0),
            GoAway::Calm => (stream, ENHANCE_YOUR_CALM),
        };
        let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
        self.put_in(frame(GOAWAY, 0, 0, &payload));
    }

    pub(super) fn empty(&self, stream: u32, count: usize) {
        self.put_in(frame(DATA, 0, stream, &[]).repeat(count).into());
    }

    pub(super) fn split_data(&self, most: usize) {
        self.data_max.store(most, Ordering::Relaxed);
    }

    pub(super) fn deafen(&self, stream: u32, deaf: Arc<Deaf>) {
        *self.deaf() = Some((stream, deaf));
    }

    fn put_in(&self, frames: Bytes) {
        self.extra().push_back(frames);
        self.connection.wake();
    }

    fn extra(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.extra.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deaf(&self) -> MutexGuard<'_, Option<(u32, Arc<Deaf>)>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether hyper shall see this frame of the client.
    fn hears(&self, kind: u8, stream: u32) -> bool {
        match &*self.deaf() {
            Some((deaf_stream, deaf)) if kind == RST_STREAM && stream == *deaf_stream => {
                deaf.client_left();
                false
            }
            _ => true,
        }
    }

    fn note_data(&self, stream: u32, length: usize) {
        if let Some((deaf_stream, deaf)) = &*self.deaf()
            && stream == *deaf_stream
        {
            deaf.wrote(length);
        }
    }
}

// === impl Frames ===

impl<S> Frames<S> {
    pub(super) fn new(inner: S, faults: Arc<FrameFaults>) -> Self {
        let [incoming, received, outgoing, leaving] = std::array::from_fn(|_| BytesMut::new());
        Self { inner, faults, version: Version::Unknown, incoming, received, outgoing, leaving }
    }

    /// Takes whole frames from what hyper wrote, and those of the scripts, to where they leave.
    fn pass_out(&mut self) {
        while let Some(frame) = next_frame(&mut self.outgoing) {
            let (kind, stream) = kind_and_stream(&frame);
            if kind == DATA {
                self.faults.note_data(stream, frame.len() - HEAD);
                self.pass_data(&frame, stream);
            } else {
                self.leaving.extend_from_slice(&frame);
            }
        }
        for extra in self.faults.extra().drain(..) {
            self.leaving.extend_from_slice(&extra);
        }
    }

    fn pass_data(&mut self, whole: &[u8], stream: u32) {
        let most = self.faults.data_max.load(Ordering::Relaxed);
        let (flags, mut rest) = (whole[4], &whole[HEAD..]);
        if most == 0 || rest.len() <= most {
            self.leaving.extend_from_slice(whole);
            return;
        }
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(most.min(rest.len()));
            let flags = if after.is_empty() { flags } else { flags & !END_STREAM };
            self.leaving.extend_from_slice(&frame(DATA, flags, stream, piece));
            rest = after;
        }
    }

    /// Takes whole frames from what the client sent to where hyper reads.
    fn pass_in(&mut self) {
        while let Some(frame) = next_frame(&mut self.incoming) {
            let (kind, stream) = kind_and_stream(&frame);
            if self.faults.hears(kind, stream) {
                self.received.extend_from_slice(&frame);
            }
        }
    }

    fn recognise(&mut self, read: &[u8]) {
        // A preface in pieces is taken for HTTP/1.1, whose bytes pass as they are: then no fault can be put in.
        self.version = if read.starts_with(PREFACE) { Version::Http2 } else { Version::Http1 };
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pass_out();
        while !self.leaving.is_empty() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.leaving))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.leaving.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.faults.connection.register(cx.waker());
        if self.version == Version::Http2 {
            // A script may have put a frame in while nothing else leaves; what cannot leave now leaves later.
            if let Poll::Ready(result) = self.poll_leave(cx) {
                result?;
            }
        }
        loop {
            if !self.received.is_empty() {
                let count = self.received.len().min(buf.remaining());
                buf.put_slice(&self.received.split_to(count));
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            if self.version == Version::Unknown {
                self.recognise(read);
            }
            if self.version == Version::Http1 || read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let mut read = read;
            if let Some(after) = read.strip_prefix(PREFACE) {
                self.received.extend_from_slice(PREFACE);
                read = after;
            }
            self.incoming.extend_from_slice(read);
            buf.set_filled(before);
            self.pass_in();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.version != Version::Http2 {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        if let Poll::Ready(result) = self.poll_leave(cx) {
            result?;
        } else if self.leaving.len() > WAITING_MAX {
            return Poll::Pending;
        }
        self.outgoing.extend_from_slice(buf);
        if let Poll::Ready(result) = self.poll_leave(cx) {
            result?;
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.version == Version::Http2 {
            ready!(self.poll_leave(cx))?;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    // No caller has more than one frame's bytes, and those of hyper are below 2^24.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat().into()
}

fn next_frame(bytes: &mut BytesMut) -> Option<BytesMut> {
    let length = usize::from(*bytes.first()?) << 16 | usize::from(*bytes.get(1)?) << 8 | usize::from(*bytes.get(2)?);
    (bytes.len() >= HEAD + length).then(|| bytes.split_to(HEAD + length))
}

/// Of a whole frame.
fn kind_and_stream(frame: &[u8]) -> (u8, u32) {
    (frame[3], u32::from_be_bytes([frame[5] & 0x7F, frame[6], frame[7], frame[8]]))
}
