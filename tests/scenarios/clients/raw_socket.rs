//! A WebSocket client that sends any bytes at all.

use std::net::SocketAddr;

use ntonix_tests::wait::soon;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HANDSHAKE: &str = "GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    sec-websocket-protocol: ntonix.v1\r\n\r\n";
const MASK: [u8; 4] = [0x5A, 0x00, 0xFF, 0x17];

/// The last frame of a message.
pub(super) const FIN: u8 = 0x80;
pub(super) const TEXT: u8 = 0x01;
pub(super) const CLOSE: u8 = 0x08;
pub(super) const PING: u8 = 0x09;
pub(super) const PONG: u8 = 0x0A;

/// An open socket.
pub(super) struct RawSocket {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A frame with this first byte, masked as a client's must be.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

// === impl RawSocket ===

impl RawSocket {
    /// Opens a socket and reads its greeting.
    pub(super) async fn open(address: SocketAddr) -> Self {
        let mut socket = Self::on(TcpStream::connect(address).await.unwrap()).await;
        let (first, greeting) = socket.next().await.unwrap();
        assert_eq!(first, FIN | TEXT);
        assert!(String::from_utf8_lossy(&greeting).contains("\"t\":\"ready\""), "{greeting:?}");
        socket
    }

    /// Does the handshake on a connection.
    pub(super) async fn on(stream: TcpStream) -> Self {
        let mut socket = Self { stream, unread: Vec::new() };
        socket.send(HANDSHAKE.as_bytes()).await;
        let end = loop {
            if let Some(end) = memchr_end(&socket.unread) {
                break end;
            }
            assert!(socket.read().await, "no handshake: {}", String::from_utf8_lossy(&socket.unread));
        };
        assert!(socket.unread.starts_with(b"HTTP/1.1 101 "));
        socket.unread.drain(..end);
        socket
    }

    /// Writes these bytes. Those behind a broken frame may meet a connection that is closed.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let _ = soon("the bytes leave", self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next frame: its first byte and its payload; `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The code of the close frame after whatever comes before it, and that the connection ends behind it. A close
    /// without a code is `None`.
    pub(super) async fn closes_with(mut self) -> Option<u16> {
        loop {
            let (first, payload) = self.next().await.expect("a close frame before the end");
            if first == FIN | CLOSE {
                assert!(self.next().await.is_none(), "behind the close frame there is nothing");
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (&first, &length) = (self.unread.first()?, self.unread.get(1)?);
        let (head, length) = match length {
            // RFC 6455 §5.1: a server masks nothing.
            0..126 => (2, usize::from(length)),
            126 => (4, usize::from(u16::from_be_bytes(*self.unread.get(2..)?.first_chunk()?))),
            other => panic!("no frame of this test has a length of {other}"),
        };
        if self.unread.len() < head + length {
            return None;
        }
        let mut frame: Vec<u8> = self.unread.drain(..head + length).collect();
        Some((first, frame.split_off(head)))
    }

    /// False at the end, clean or not.
    async fn read(&mut self) -> bool {
        soon("more bytes", self.stream.read_buf(&mut self.unread)).await.unwrap().is_ok_and(|read| read > 0)
    }
}

fn memchr_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
