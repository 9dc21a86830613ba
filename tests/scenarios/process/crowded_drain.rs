//! O7: a signal to end comes while thousands of streams run.

use ntonix_runtime::listen;
use ntonix_tests::client::{Ask, Connection, EventStream, RawConnection, Socket};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Script};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::config;

const HTTP1: usize = 600;
const HTTP2: (usize, usize) = (10, 100);
const SOCKETS: (usize, usize) = (5, 100);
const STREAMS: usize = HTTP1 + HTTP2.0 * HTTP2.1 + SOCKETS.0 * SOCKETS.1;
const TOKENS: usize = 3;

async fn http_streams(gateway: &Gateway) -> Vec<EventStream> {
    let mut streams = Vec::new();
    for _ in 0..HTTP1 {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        streams.push(connection.stream(Ask::streamed_chat()).await.unwrap());
    }
    for _ in 0..HTTP2.0 {
        let mut connection = Connection::open_http2(gateway.address()).await.unwrap();
        for _ in 0..HTTP2.1 {
            streams.push(connection.stream(Ask::streamed_chat()).await.unwrap());
        }
    }
    streams
}

async fn sockets(gateway: &Gateway) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS.0 {
        let mut socket = Socket::open(gateway.address(), &[]).await.unwrap();
        for index in 0..SOCKETS.1 {
            let body = json!({ "model": MODEL, "stream": true, "messages": [] });
            let create = json!({ "t": "create", "id": format!("s{index}"), "op": "chat.completions", "body": body });
            socket.send(&create).await.unwrap();
        }
        sockets.push(socket);
    }
    sockets
}

/// Reads until each stream of the socket has ended, and that the socket is closed as one that may be opened again.
async fn assert_ends(mut socket: Socket) {
    let (mut done, mut tokens) = (0, 0);
    while done < SOCKETS.1 {
        let frame = socket.next().await.unwrap();
        match frame["t"].as_str().unwrap() {
            "delta" => tokens += usize::from(has_token(&frame["d"])),
            "done" => done += 1,
            "error" => panic!("{frame}"),
            _ => {}
        }
    }
    assert_eq!(tokens, SOCKETS.1 * TOKENS);
    assert_eq!(socket.close_code().await.unwrap(), 1012);
}

fn has_token(object: &Value) -> bool {
    object["choices"][0]["delta"]["content"].as_str().is_some_and(|text| text.starts_with('t'))
}

#[tokio::test]
async fn two_thousand_streams_of_every_transport_finish_before_the_process_ends() {
    listen::raise_open_files();
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    mock.always(Script::gated(TOKENS as u64, &gate));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[]).await.unwrap();
    let (streams, sockets) = (http_streams(&gateway).await, sockets(&gateway).await);
    mock.attempts(STREAMS).await;
    gateway.process().signal(Signal::TERM).unwrap();
    let refused = async || RawConnection::open(gateway.address()).await.is_err();
    ntonix_tests::wait::eventually("new connections are refused", refused).await.unwrap();
    assert_eq!(mock.counts().active, STREAMS, "all of them run at the signal");

    gate.open_for_good();
    for stream in streams {
        let transcript = stream.rest().await.unwrap();
        assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 ", "{}", transcript.text());
    }
    for socket in sockets {
        assert_ends(socket).await;
    }
    assert_eq!(mock.counts().cut, 0);
    let ended = gateway.ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log.lines().last().unwrap_or_default());
}
