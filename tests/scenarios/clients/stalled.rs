//! C3 and its crowd: two thousand clients that stop reading cost bounded memory, delay nobody, and come to an end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_runtime::{listen, tasks};
use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Ended, Gate, MODEL, MockLlm, Pace, Script, Step};
use ntonix_tests::wait::eventually;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::raw_socket::{FIN, RawSocket, TEXT, frame};
use crate::stage::{assert_fine, config};

const CLIENTS: usize = 2_000;
/// Long enough for all of them to stand still at the same time.
const STALL: &str = "--client-stall=35s";
/// What one may cost: what waits for it (64 KiB), a piece of its backend's stream (16 KiB), and more than as much again for
/// halves of buffers, tasks and what the allocator keeps.
const KIB_EACH: u64 = 256;

/// A client that has asked and reads nothing more.
enum Deaf {
    Http1 { _stream: TcpStream },
    Http2 { _body: Incoming, _sender: http2::SendRequest<Full<Bytes>> },
    WebSocket { _socket: RawSocket },
}

fn body() -> Value {
    json!({ "model": MODEL, "stream": true, "messages": [] })
}

// === impl Deaf ===

impl Deaf {
    async fn open(address: SocketAddr, index: usize) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What the client's system takes without its doing is not ours to count.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        match index % 10 {
            0..4 => {
                stream.write_all(&Ask::chat_with(body()).wire()).await.unwrap();
                Self::Http1 { _stream: stream }
            }
            4..7 => {
                let mut socket = RawSocket::on(stream).await;
                let create = json!({ "t": "create", "id": "a", "op": "chat.completions", "body": body() });
                socket.send(&frame(FIN | TEXT, create.to_string().as_bytes())).await;
                Self::WebSocket { _socket: socket }
            }
            _ => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(16 * 1024);
                let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
                tasks::spawn("deaf", async move { drop(connection.await) });
                let request = http::Request::post("http://gateway.test/v1/chat/completions");
                let request = request.body(Full::new(Bytes::from(body().to_string()))).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                Self::Http2 { _body: response.into_body(), _sender: sender }
            }
        }
    }
}

/// More than all buffers on the way hold (a system that sees a fast reader takes megabytes ahead for it), from the moment on that the gate lets it.
fn endless(gate: &Gate) -> Script {
    let event =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(8000));
    let mut steps = vec![Step::Role, Step::Tokens { count: 1, pace: Pace::Fast }, Step::Gate(gate.clone())];
    steps.extend(vec![Step::Raw(event.into()); 2000]);
    Script::Stream(steps)
}

/// Waits longer than for what should happen at once: for the limit, and for two thousand to come to it.
async fn patiently(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..3 {
        if eventually(what, &mut condition).await.is_ok() {
            return;
        }
    }
    panic!("{what}: in vain");
}

#[tokio::test]
async fn two_thousand_clients_that_stop_reading_cost_little_delay_nobody_and_end_with_a_record() {
    listen::raise_open_files();
    let (mock, gate) = (MockLlm::start().unwrap(), Gate::new());
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("usage");
    let usage_log = format!("--usage-log={}", records.display());
    let config = config(&[&mock], "", "retries: 0, deadlines: { idle: 120s }", "");
    let gateway = Gateway::start(&config, &[STALL, &usage_log]).await.unwrap();
    mock.always(endless(&gate));
    let mut clients = Vec::with_capacity(CLIENTS);
    for index in 0..CLIENTS {
        clients.push(Deaf::open(gateway.address(), index).await);
    }
    mock.attempts(CLIENTS).await;
    let idle = gateway.process().resident_kib().unwrap();
    gate.open_for_good();

    // A client that reads gets all of its stream in the meantime, and the gateway answers others at once.
    mock.next(Script::Answer { tokens: 100, pace: Pace::Every(Duration::from_millis(20)) });
    let mut live = Connection::open(gateway.address()).await.unwrap().stream(Ask::streamed_chat()).await.unwrap();
    mock.attempts(CLIENTS + 1).await;
    let mut peak = idle;
    while live.next().await.unwrap().is_some() {
        peak = peak.max(gateway.process().resident_kib().unwrap());
    }
    assert!(live.so_far().is_done(), "{}", live.so_far().text());
    patiently("the one that reads is done", async || mock.counts().active <= CLIENTS).await;
    assert_eq!((mock.counts().active, mock.counts().cut), (CLIENTS, 0), "of the others none is over by now");
    // They fill what there is for them until the first one is over.
    let over = async || {
        peak = peak.max(gateway.process().resident_kib().unwrap());
        mock.counts().cut > 0
    };
    patiently("the first is over", over).await;
    let each = (peak - idle) / CLIENTS as u64;
    assert!(each <= KIB_EACH, "{each} KiB for each: {idle} before, {peak} at most");

    patiently("all are over", async || mock.counts().active == 0).await;
    let lines = || std::fs::read_to_string(&records).unwrap();
    eventually("the records", async || lines().lines().count() == CLIENTS + 1).await.unwrap();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        *ends.entry(format!("{} {}", record["transport"], record["outcome"]).replace('"', "")).or_default() += 1;
    }
    let ends: Vec<_> = ends.iter().map(|(end, count)| (end.as_str(), *count)).collect();
    let wanted = [
        ("http1 client_stalled", CLIENTS * 4 / 10),
        ("http1 completed", 1),
        ("http2 client_stalled", CLIENTS * 3 / 10),
        ("websocket client_stalled", CLIENTS * 3 / 10),
    ];
    assert_eq!(ends, wanted);
    let cut = mock.ledger().iter().filter(|attempt| attempt.ended == Ended::Cut).count();
    assert_eq!(cut, CLIENTS, "{:?}", mock.counts());
    eventually("nothing is active", async || gateway.metric("ntonix_active_streams").await.unwrap() == 0.0)
        .await
        .unwrap();
    mock.always(Script::answer(1));
    let answer = Connection::open(gateway.address()).await.unwrap().ask(Ask::chat()).await.unwrap();
    assert_fine(&answer);
    println!("{each} KiB for each of {CLIENTS} stalled clients");
    drop(clients);
}
