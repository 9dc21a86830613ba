//! A gateway of a few lines at the other end.

use std::{io, net::SocketAddr};

use futures_util::{SinkExt, StreamExt};
use ntonix_runtime::tasks;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
    },
};

use super::Args;
use crate::connect::{TlsArgs, parse_url};

fn args(address: SocketAddr, streams: u16, ws: bool) -> Args {
    Args {
        model: "demo".to_owned(),
        prompt: "hello".to_owned(),
        url: parse_url(&format!("http://{address}")).unwrap(),
        key: Some("ntx_secret".to_owned()),
        ws,
        streams,
    }
}

async fn chat(args: &Args) -> (anyhow::Result<()>, String) {
    let mut out = Vec::new();
    let ended = args.run(&TlsArgs::default(), &mut out).await;
    (ended, String::from_utf8(out).unwrap())
}

/// Answers every connection with these bytes after its request, and closes it.
async fn answering(bytes: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks::spawn("gateway", async move {
        while let Ok((socket, _)) = listener.accept().await {
            tasks::spawn("connection", answer(socket, bytes));
        }
    });
    address
}

async fn answer(mut socket: TcpStream, bytes: &'static str) -> io::Result<()> {
    let mut request = Vec::new();
    while !String::from_utf8_lossy(&request).contains("\"stream\":true}") {
        socket.read_buf(&mut request).await?;
    }
    let request = String::from_utf8_lossy(&request).to_lowercase();
    assert!(
        request.starts_with("post /v1/chat/completions http/1.1\r\n")
            && request.contains("authorization: bearer ntx_secret\r\n")
    );
    socket.write_all(bytes.as_bytes()).await
}

#[tokio::test]
async fn a_stream_that_ends_without_its_finish_is_an_error() {
    let address = answering(concat!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"one\"}}]}\n\n"
    ))
    .await;
    let (ended, shown) = chat(&args(address, 1, false)).await;
    assert_eq!(shown, "one\n");
    assert!(ended.unwrap_err().to_string().contains("before the answer was complete"));
}

#[tokio::test]
async fn a_refusal_says_its_status_and_reason() {
    let address = answering(concat!(
        "HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\n",
        "{\"error\":{\"message\":\"no model demo\",\"code\":\"model_missing\"}}"
    ))
    .await;
    let (ended, shown) = chat(&args(address, 1, false)).await;
    assert_eq!(ended.unwrap_err().to_string(), "404 Not Found: model_missing: no model demo");
    assert_eq!(shown, "");
}

#[tokio::test]
async fn how_the_connection_ends_after_the_last_event_does_not_matter() {
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\ndata: [DONE]\n\n").await;
    chat(&args(address, 1, false)).await.0.unwrap();
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\ndata: {}\n\n").await;
    assert!(chat(&args(address, 1, false)).await.0.unwrap_err().to_string().starts_with("the connection broke"));
}

#[tokio::test]
async fn tokens_are_shown_in_order() {
    let address = answering(concat!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        ":\n\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"one \"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"two\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n"
    ))
    .await;
    let (ended, shown) = chat(&args(address, 1, false)).await;
    ended.unwrap();
    assert_eq!(shown, "one two\n");

    let (ended, shown) = chat(&args(address, 3, false)).await;
    ended.unwrap();
    let mut lines: Vec<&str> = shown.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["1| one two", "2| one two", "3| one two"]);
}

/// Reads so many creates from one socket, and then sends these frames.
async fn websocket(creates: usize, frames: Vec<Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks::spawn("gateway", async move {
        let (socket, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/v1/ws");
            assert_eq!(request.headers()["authorization"], "Bearer ntx_secret");
            let protocol = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let mut socket = accept_hdr_async(socket, check).await.unwrap();
        for number in 1..=creates {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
            let create: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&create["t"], &create["id"]), (&json!("create"), &json!(number.to_string())));
        }
        for frame in frames {
            socket.send(Message::text(frame.to_string())).await.unwrap();
        }
        socket.close(None).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    });
    address
}

fn delta(id: &str, text: &str) -> Value {
    json!({ "t": "delta", "id": id, "seq": 0, "d": { "choices": [{ "delta": { "content": text } }] } })
}

#[tokio::test]
async fn a_socket_that_closes_early_fails_what_is_not_over() {
    let done = json!({ "t": "done", "id": "1", "seq": 1, "finish": "stop" });
    let address = websocket(2, vec![delta("1", "a"), delta("2", "b"), done]).await;
    let (ended, shown) = chat(&args(address, 2, true)).await;
    assert_eq!(shown, "1| a\n2| b\n2| failed: the connection closed before the answer was complete\n");
    assert!(ended.unwrap_err().to_string().starts_with("1 of 2 streams failed"));
}

#[tokio::test]
async fn an_error_frame_fails_its_own_stream() {
    let error = json!({ "t": "error", "id": "1", "status": 429, "retryable": true, "error": { "message": "slow down", "code": "rate_limited" } });
    let address = websocket(1, vec![json!({ "t": "ready" }), error]).await;
    let (ended, _) = chat(&args(address, 1, true)).await;
    assert_eq!(ended.unwrap_err().to_string(), "rate_limited: slow down");
}

#[tokio::test]
async fn streams_on_one_socket_are_told_apart() {
    let done = |id: &str| json!({ "t": "done", "id": id, "seq": 1 });
    let frames =
        vec![delta("2", "b"), delta("1", "a"), json!({ "t": "event", "id": "1", "kind": "lag" }), done("2"), done("1")];
    let address = websocket(2, frames).await;
    let (ended, shown) = chat(&args(address, 2, true)).await;
    ended.unwrap();
    assert_eq!(shown, "2| b\n1| a\n");
}
