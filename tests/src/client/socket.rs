//! A WebSocket client that speaks `ntonix.v1`.

use std::net::SocketAddr;

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::Message;

use super::connect;
use crate::wait::soon;

/// The path of the socket.
const PATH: &str = "/v1/ws";
/// The subprotocol.
const PROTOCOL: &str = "ntonix.v1";

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

// === impl Socket ===

impl Socket {
    /// Opens a socket with these headers beside those of the handshake.
    ///
    /// # Errors
    /// When the server does not switch protocols.
    pub async fn open(address: SocketAddr, headers: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::over(connect(address).await?, headers).await
    }

    /// The same over a stream that is there.
    ///
    /// # Errors
    /// When the server does not switch protocols.
    pub async fn over(stream: TcpStream, headers: &[(&str, &str)]) -> anyhow::Result<Self> {
        let address = stream.peer_addr()?;
        let mut request = format!("ws://{address}{PATH}").into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
        for (name, value) in headers {
            request.headers_mut().insert(name.parse::<HeaderName>()?, value.parse()?);
        }
        let opening = tokio_tungstenite::client_async(request, stream);
        let (stream, _) = soon("the WebSocket handshake", opening).await??;
        Ok(Self { stream })
    }

    /// Sends a frame of `ntonix.v1`.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, frame: &Value) -> anyhow::Result<()> {
        self.send_message(Message::text(frame.to_string())).await
    }

    /// Sends any message.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_message(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(soon("the message leaves", self.stream.send(message)).await??)
    }

    /// The next frame of `ntonix.v1`.
    ///
    /// # Errors
    /// When the socket closes, or nothing comes.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            match self.next_message().await?.context("the socket ended")? {
                Message::Text(text) => return Ok(serde_json::from_str(&text)?),
                Message::Ping(_) | Message::Pong(_) => {}
                other => anyhow::bail!("no frame: {other:?}"),
            }
        }
    }

    /// The code of the close frame that the server sends, after whatever comes before it.
    ///
    /// # Errors
    /// When the socket ends without one.
    pub async fn close_code(&mut self) -> anyhow::Result<u16> {
        loop {
            if let Message::Close(close) = self.next_message().await?.context("the socket ended")? {
                return Ok(close.context("a close without a code")?.code.into());
            }
        }
    }

    async fn next_message(&mut self) -> anyhow::Result<Option<Message>> {
        Ok(soon("the next message", self.stream.next()).await?.transpose()?)
    }
}
