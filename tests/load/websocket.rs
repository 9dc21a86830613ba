//! The mode over WebSockets: many streams on each socket, by the frames of `ntonix.v1`.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use ntonix_runtime::tasks;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::plan::Plan;
use crate::tally::Check;
use crate::target::{Socket, Target};

/// What the driver reads of a frame.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    t: &'a str,
    id: Option<&'a str>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
}

/// One socket and the streams that are open on it, by their ids.
struct Client {
    plan: Arc<Plan>,
    socket: WebSocketStream<Socket>,
    open: HashMap<String, Check>,
}

pub(crate) async fn run(plan: &Arc<Plan>) -> anyhow::Result<()> {
    let sockets = plan.load.sockets.min(plan.load.streams);
    let (share, rest) = (plan.load.streams / sockets, plan.load.streams % sockets);
    let clients: Vec<_> = (0..sockets)
        .map(|index| tasks::spawn("socket", client(plan.clone(), share + u32::from(index < rest), index)))
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}

async fn client(plan: Arc<Plan>, streams: u32, index: u32) -> anyhow::Result<()> {
    plan.stagger(index).await;
    let socket = connect(plan.target(index)).await?;
    let mut client = Client { plan, socket, open: HashMap::new() };
    for _ in 0..streams {
        client.create().await?;
    }
    while !client.open.is_empty() {
        match client.socket.next().await {
            Some(Ok(Message::Text(text))) => client.frame(text.as_str()).await?,
            Some(Ok(Message::Close(_)) | Err(_)) | None => {
                client.lost();
                return Ok(());
            }
            Some(Ok(_)) => {}
        }
    }
    // All answers are in; how the closing goes is not measured.
    let _ = client.socket.close(None).await;
    Ok(())
}

/// Opens a socket that speaks `ntonix.v1`.
pub(crate) async fn connect(target: &Target) -> anyhow::Result<WebSocketStream<Socket>> {
    let mut request = target.url("ws", "/v1/ws").into_client_request()?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("ntonix.v1"));
    if let Some(bearer) = target.bearer() {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let (socket, _) = tokio_tungstenite::client_async(request, target.socket().await?)
        .await
        .context("the gateway does not open a WebSocket")?;
    Ok(socket)
}

// === impl Client ===

impl Client {
    /// Opens one more stream, if there shall be one more.
    async fn create(&mut self) -> anyhow::Result<()> {
        let Some(nonce) = self.plan.begin() else { return Ok(()) };
        let body = self.plan.body(&nonce);
        let frame = serde_json::json!({ "t": "create", "id": nonce, "op": "chat.completions", "body": body });
        self.open.insert(nonce.clone(), Check::new(nonce, self.plan.tokens));
        self.socket.send(Message::text(frame.to_string())).await.context("the socket is closed")
    }

    async fn frame(&mut self, text: &str) -> anyhow::Result<()> {
        let frame: Frame<'_> = serde_json::from_str(text).context("a frame cannot be read")?;
        match (frame.t, frame.id) {
            ("delta", Some(id)) => {
                let (Some(check), Some(d)) = (self.open.get_mut(id), frame.d) else {
                    self.plan.tally().wrong.foreign += 1;
                    return Ok(());
                };
                check.event(d.get().as_bytes(), &mut self.plan.tally());
            }
            ("done", Some(id)) => self.end(id, Check::done).await?,
            ("error", Some(id)) => self.end(id, |check| check.fail(text.as_bytes())).await?,
            ("error", None) => bail!("the gateway refuses a frame: {text}"),
            // What else there is tells of the session, not of a token.
            _ => {}
        }
        Ok(())
    }

    /// Ends a stream and opens the next in its place.
    async fn end(&mut self, id: &str, note: impl FnOnce(&mut Check)) -> anyhow::Result<()> {
        match self.open.remove(id) {
            Some(mut check) => {
                note(&mut check);
                check.settle(None, &mut self.plan.tally());
            }
            None => self.plan.tally().wrong.foreign += 1,
        }
        self.create().await
    }

    fn lost(&mut self) {
        for (_, check) in self.open.drain() {
            check.settle(Some("socket closed in the middle".to_owned()), &mut self.plan.tally());
        }
    }
}
