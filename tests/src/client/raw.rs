//! A bare connection, for what no HTTP library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::connect;
use crate::wait::soon;

/// A connection on which the test writes and reads bytes.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

// === impl RawConnection ===

impl RawConnection {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self::over(connect(address).await?))
    }

    /// The same with a connection that is there.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Writes these bytes.
    ///
    /// # Errors
    /// When the connection is broken, or nobody reads.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        Ok(soon("the bytes leave", self.stream.write_all(bytes.as_ref())).await??)
    }

    /// Reads up to and including `end`.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn read_until(&mut self, end: &str) -> anyhow::Result<String> {
        let mut searched = 0;
        loop {
            // Only what is new, and the end of what was there: an answer may be large.
            if let Some(at) = memchr::memmem::find(&self.unread[searched..], end.as_bytes()) {
                let bytes = self.unread.drain(..searched + at + end.len()).collect();
                return Ok(String::from_utf8(bytes)?);
            }
            searched = self.unread.len().saturating_sub(end.len());
            let read = soon("more bytes", self.stream.read_buf(&mut self.unread)).await??;
            anyhow::ensure!(read > 0, "ended before {end:?}: {}", String::from_utf8_lossy(&self.unread));
        }
    }

    /// Reads everything up to the end of the connection, whether that is a clean one or a reset.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn read_to_end(&mut self) -> anyhow::Result<String> {
        // A reset is an end too; what came before it counts.
        let _ = soon("the end of the connection", self.stream.read_to_end(&mut self.unread)).await?;
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned())
    }

    /// Sends the end of what it sends; it can still read.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.shutdown().await?)
    }

    /// Makes dropping the connection a reset instead of a clean end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn reset_when_dropped(&self) -> anyhow::Result<()> {
        Ok(socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))?)
    }
}
