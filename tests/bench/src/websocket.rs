//! A WebSocket on a gateway in lockstep, with many streams at once.

use anyhow::Context as _;

use crate::lockstep::{Counting, Lockstep, STREAM_HEAD, Side, ending, is_whole, question_body, read, token};

/// One socket of a client; each of its streams takes one of the connections to the backend.
pub(crate) struct WebSocket<'a> {
    lockstep: &'a mut Lockstep,
    client: Side,
}

// === impl WebSocket ===

impl<'a> WebSocket<'a> {
    /// Opens it, which is not counted.
    pub(crate) fn open(lockstep: &'a mut Lockstep) -> anyhow::Result<Self> {
        let client = lockstep.runtime.block_on(Side::connect(lockstep.address))?;
        let mut all = Self { lockstep, client };
        let (address, key) = (all.lockstep.address, all.lockstep.site.key());
        let handshake = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: ntonix.v1\r\nauthorization: Bearer {key}\r\n\r\n"
        );
        all.client.write(handshake.as_bytes())?;
        all.hear(Counting::Off, r#""t":"ready"}"#, 1)?;
        Ok(all)
    }

    /// So many streams at once, of so many `tokens` each, of which the backend writes `together` at once for each stream.
    pub(crate) fn streams(
        &mut self,
        streams: u32,
        tokens: u32,
        together: u32,
        counting: Counting,
    ) -> anyhow::Result<()> {
        self.ask(streams, counting)?;
        for first in (0..tokens).step_by(together as usize) {
            let head = if first == 0 { STREAM_HEAD } else { "" };
            let some: String = (first..first + together).map(token).collect();
            self.answer(&[head, &some].concat())?;
            self.hear(counting, r#""finish_reason":null}]}}"#, streams * together)?;
        }
        self.answer(&ending())?;
        self.hear(counting, r#""t":"done"}"#, streams)
    }

    /// Creates the streams, and waits until the backend has all of their requests.
    fn ask(&mut self, streams: u32, counting: Counting) -> anyhow::Result<()> {
        let body = question_body(self.lockstep.site, true);
        for id in 0..streams {
            let create = format!(r#"{{"t":"create","id":"s{id}","op":"chat.completions","body":{body}}}"#);
            self.client.write(&frame(&create)?)?;
        }
        let Lockstep { runtime, listener, backends, .. } = &mut *self.lockstep;
        while backends.len() < streams as usize {
            backends.push(runtime.block_on(Side::accept(listener))?);
        }
        backends.iter_mut().try_for_each(|backend| read(runtime, backend, counting, is_whole))
    }

    fn answer(&mut self, bytes: &str) -> anyhow::Result<()> {
        self.lockstep
            .backends
            .iter_mut()
            .try_for_each(|backend| backend.write(bytes.as_bytes()))
            .context("a write failed")
    }

    /// Lets the gateway run until the client has read so many frames that end in `end`.
    fn hear(&mut self, counting: Counting, end: &str, frames: u32) -> anyhow::Result<()> {
        let have_come = |bytes: &[u8]| memchr::memmem::find_iter(bytes, end).count() == frames as usize;
        read(&self.lockstep.runtime, &mut self.client, counting, have_come)
    }
}

/// A text frame of a client, masked with nothing (RFC 6455 §5.2).
fn frame(text: &str) -> anyhow::Result<Vec<u8>> {
    const TEXT: u8 = 0x81;
    const MASKED: u8 = 0x80;
    const LENGTH_IN_TWO_BYTES: u8 = 126;
    let mut frame = vec![TEXT];
    let length = u16::try_from(text.len()).context("a question is short")?;
    match u8::try_from(length) {
        Ok(length @ ..LENGTH_IN_TWO_BYTES) => frame.push(MASKED | length),
        _ => {
            frame.push(MASKED | LENGTH_IN_TWO_BYTES);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::SMALL;

    #[test]
    fn streams_of_a_socket_come_whole_round_after_round() {
        let mut lockstep = Lockstep::begin(SMALL, true).unwrap();
        let mut socket = WebSocket::open(&mut lockstep).unwrap();
        for (tokens, together) in [(1, 1), (5, 1), (20, 10)] {
            socket.streams(4, tokens, together, Counting::On).unwrap();
        }
    }
}
