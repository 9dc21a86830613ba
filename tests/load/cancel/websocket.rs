//! Clients of `ntonix.v1` that leave: a `cancel` frame, the socket stays.

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use ntonix_tests::mock_llm::now_ns;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::cancel::{Left, wait};
use crate::plan::Plan;
use crate::tally::Check;
use crate::target::{self, Target};
use crate::websocket::connect;

type Socket = WebSocketStream<target::Socket>;

pub(super) async fn leave_all(plan: &Plan, target: &Target, left: &Left) -> anyhow::Result<()> {
    let mut socket = connect(target).await?;
    while let Some(nonce) = plan.begin() {
        let check = Check::new(nonce.clone(), plan.tokens);
        let create =
            serde_json::json!({ "t": "create", "id": nonce, "op": "chat.completions", "body": plan.body(&nonce) });
        socket.send(Message::text(create.to_string())).await.context("the socket is closed")?;
        let reached = reach(plan, &mut socket, check).await?;
        if reached.is_ok() {
            let cancel = serde_json::json!({ "t": "cancel", "id": nonce });
            socket.send(Message::text(cancel.to_string())).await.context("the socket is closed")?;
            until_last(&mut socket).await?;
        }
        left.note(plan, nonce, reached);
    }
    // All streams are left; how the closing goes is not measured.
    let _ = socket.close(None).await;
    Ok(())
}

async fn reach(plan: &Plan, socket: &mut Socket, mut check: Check) -> anyhow::Result<Result<u64, String>> {
    let token = async {
        loop {
            let frame = next(socket).await?;
            match frame["t"].as_str() {
                Some("delta") => {
                    check.event(frame["d"].to_string().as_bytes(), &mut plan.tally());
                    if check.has_token() {
                        return Ok(());
                    }
                }
                Some("error") => bail!("{frame}"),
                _ => {}
            }
        }
    };
    if plan.departure.is_early() {
        return Ok(wait(token).await);
    }
    token.await?;
    Ok(Ok(now_ns()))
}

/// Reads on to the frame that ends the stream.
async fn until_last(socket: &mut Socket) -> anyhow::Result<()> {
    loop {
        let frame = next(socket).await?;
        if matches!(frame["t"].as_str(), Some("error" | "done")) {
            return Ok(());
        }
    }
}

async fn next(socket: &mut Socket) -> anyhow::Result<serde_json::Value> {
    loop {
        match socket.next().await.context("the socket is closed")?? {
            Message::Text(text) => return Ok(serde_json::from_str(&text)?),
            Message::Close(_) => bail!("the socket is closed"),
            _ => {}
        }
    }
}
