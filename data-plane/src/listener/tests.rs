//! Clients that do wrong, over a connection in memory, so that the clock can be ours.

use std::{path::Path, time::SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use ntonix_runtime::drain;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
    time::Instant,
};
use tower::{service_fn as tower_service, util::BoxCloneSyncService};

use super::*;
use crate::{
    edge::Origins,
    exchange::{Client, Exchange, Reply},
    live::{Cell, Origin, OriginSource},
    refusal::Refusal,
    usage::{Books, UsageLog},
};

/// What the system would hold of a connection's bytes.
const PIPE: usize = 64 * 1024;
const STALL: Duration = Duration::from_secs(45);
const SECOND: Duration = Duration::from_secs(1);

/// What the stack answers.
type Answer = Arc<dyn Fn(&Exchange) -> Reply + Send + Sync>;

fn little(_: &Exchange) -> Reply {
    Reply::full(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"{}"))
}

/// More than the system and the gateway take of it.
fn large(_: &Exchange) -> Reply {
    let bytes = format!("\"{}\"", "x".repeat(16 * PIPE));
    Reply::full(StatusCode::OK, HeaderMap::new(), bytes.into())
}

fn edge(drain: drain::Drain, stall: Duration, answer: Answer) -> Arc<Edge> {
    let metrics = Metrics::new();
    let cell = Arc::new(Cell::new(metrics.clone(), 1));
    let source = ntonix_config::Source::read("{}", Path::new("/")).unwrap();
    let config = ntonix_config::validate(&source.draft).unwrap();
    let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
    cell.swap(cell.prepare(&config, origin).unwrap());
    let answer = move |exchange| -> BoxFuture<'static, Result<Reply, Refusal>> {
        let reply = answer(&exchange);
        Box::pin(async move { Ok(reply) })
    };
    Arc::new(Edge {
        stack: BoxCloneSyncService::new(tower_service(answer)),
        cell,
        origins: Origins::new(Vec::new()),
        books: Books { metrics, usage: UsageLog::default() },
        stall,
        drain,
    })
}

/// The client's end of a connection that is served.
async fn connect() -> DuplexStream {
    connect_to(STALL, Arc::new(little)).await.0
}

/// The same, what its connection says of it, and a place that is free when it is gone.
async fn connect_to(stall: Duration, answer: Answer) -> (DuplexStream, Arc<Activity>, Arc<Semaphore>) {
    let (near, far) = duplex(PIPE);
    let (trigger, drain) = drain::channel();
    let edge = edge(drain, stall, answer);
    let places = Arc::new(Semaphore::new(1));
    let place = Arc::clone(&places).acquire_owned().await.unwrap();
    let peer = Arc::new(Peer {
        address: Arc::new(SocketAddr::from(([127, 0, 0, 1], 9)).into()),
        anonymous: true,
        stopping: Arc::default(),
        activity: Arc::default(),
        _tenure: Tenure::new(place, &edge),
    });
    let activity = Arc::clone(&peer.activity);
    tasks::spawn("connection", async move {
        // Without it the worker would drain.
        let _trigger = trigger;
        serve(Outlet::new(near, Arc::clone(&peer.activity), edge.stall), peer, edge).await;
    });
    (far, activity, places)
}

/// A socket that was greeted.
async fn open_socket() -> DuplexStream {
    greeted(connect().await).await
}

async fn greeted(mut client: DuplexStream) -> DuplexStream {
    let handshake = "GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     sec-websocket-protocol: ntonix.v1\r\n\r\n";
    client.write_all(handshake.as_bytes()).await.unwrap();
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"}") {
        assert!(client.read_buf(&mut greeting).await.unwrap() > 0);
    }
    assert!(greeting.starts_with(b"HTTP/1.1 101 "));
    client
}

/// A client's frame, masked with zeroes.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[0x80 | kind, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Reads to the end; how long that took.
async fn end_of(client: &mut DuplexStream) -> (Vec<u8>, Duration) {
    let (start, mut all) = (Instant::now(), Vec::new());
    let read = timeout(Duration::from_secs(600), client.read_to_end(&mut all)).await;
    read.expect("it stays for ever").unwrap();
    (all, start.elapsed())
}

/// C5, the body: its time is the same for one that drips and for one that stops.
#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_in_time_is_a_408() {
    for drips in [false, true] {
        let mut client = connect().await;
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{";
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(client);
        let dripping = async {
            while drips && writer.write_all(b" ").await.is_ok() {
                sleep(SECOND).await;
            }
            std::future::pending::<()>().await;
        };
        let (start, mut answer) = (Instant::now(), Vec::new());
        let answering = async {
            while !answer.ends_with(b"}}") {
                assert!(reader.read_buf(&mut answer).await.unwrap() > 0);
            }
        };
        tokio::select! {
            () = dripping => {}
            () = answering => {}
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}

/// C5, the head: what is no request yet has no answer.
#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_in_time_ends_its_connection() {
    let mut client = connect().await;
    client.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost:").await.unwrap();
    let (answer, waited) = end_of(&mut client).await;
    assert_eq!((answer.as_slice(), waited.as_secs()), (&b""[..], 10));
}

/// C11, no pong; and C2 for a socket on which nothing happens: who says nothing for a minute is gone.
#[tokio::test(start_paused = true)]
async fn a_socket_whose_client_answers_no_ping_is_let_go() {
    let mut client = open_socket().await;
    let (heard, waited) = end_of(&mut client).await;
    let pings = heard.chunks(2).filter(|frame| frame == b"\x89\x00").count();
    assert!(pings >= 3 && heard.len() == 2 * pings, "nothing but pings: {heard:?}");
    assert!((60..=65).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_whose_client_answers_pings_stays() {
    let mut client = open_socket().await;
    let mut ping = [0; 2];
    for _ in 0..10 {
        client.read_exact(&mut ping).await.unwrap();
        assert_eq!(&ping, b"\x89\x00");
        client.write_all(&frame(0x0A, b"")).await.unwrap();
    }
}

/// C11, the ping flood, and its like of `ntonix.v1`: a client that never reads what it is answered is not read on
/// either, and is let go as one that does not read.
#[tokio::test(start_paused = true)]
async fn a_client_that_floods_and_never_reads_makes_the_gateway_hold_little() {
    let unknown = br#"{"t":"nobody-knows-this"}"#;
    for flood in [frame(0x09, &[b'p'; 125]), frame(0x01, br#"{"t":"ping","n":1}"#), frame(0x01, unknown)] {
        let mut client = open_socket().await;
        let start = Instant::now();
        let mut sent = 0;
        // Each write ends at once, or not before the connection does.
        while timeout(2 * STALL, client.write_all(&flood)).await.is_ok_and(|written| written.is_ok()) {
            sent += flood.len();
            assert!(sent < 2 * 1024 * 1024, "it goes on and on");
        }
        // What was read on the way, what waits to be read, what waits to be written, and what was written; an answer to
        // a short frame is longer than the frame.
        assert!(sent < 4 * PIPE, "{sent}");
        assert_eq!(start.elapsed().as_secs(), STALL.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_floods_and_reads_late_is_answered_in_full() {
    let mut client = open_socket().await;
    let (ping, count) = (frame(0x09, &[b'p'; 125]), 4000);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let writing = async {
        for _ in 0..count {
            writer.write_all(&ping).await.unwrap();
        }
    };
    let reading = async {
        // Not so late that a ping of the gateway comes in between.
        sleep(STALL / 4).await;
        let mut pong = [0; 127];
        for _ in 0..count {
            reader.read_exact(&mut pong).await.unwrap();
            assert_eq!(&pong[..2], b"\x8A\x7D");
        }
    };
    tokio::join!(writing, reading);
}

/// A frame of HTTP/2.
fn frame2(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field that is in no table (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

const ASK: &str = r#"{"model":"m","messages":[]}"#;

/// All of a request over HTTP/2 whose client has room for any answer.
fn request2() -> Vec<u8> {
    let wide = 1_u32 << 30;
    let fields = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/v1/chat/completions"),
        field(":authority", "x"),
    ];
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame2(4, 0, 0, &[&[0, 4], &wide.to_be_bytes()[..]].concat()),
        frame2(8, 0, 0, &wide.to_be_bytes()),
        frame2(1, 4, 1, &fields.concat()),
        frame2(0, 1, 1, ASK.as_bytes()),
    ]
    .concat()
}

/// Tells what the records would say of its end.
struct Witness {
    client: Arc<Client>,
    told: mpsc::Sender<&'static str>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _nobody_asks = self.told.try_send(self.client.leave.outcome(None).0);
    }
}

/// C3: the pings that a client does not answer, because it reads none, end it neither early nor under another name.
#[tokio::test(start_paused = true)]
async fn a_client_of_http2_that_reads_nothing_has_stalled_and_not_left() {
    let (told, mut outcomes) = mpsc::channel(1);
    let answer = move |exchange: &Exchange| {
        let mut reply = large(exchange);
        reply.hold(Box::new(Witness { client: Arc::clone(&exchange.client), told: told.clone() }));
        reply
    };
    let (mut client, activity, places) = connect_to(STALL, Arc::new(answer)).await;
    let start = Instant::now();
    client.write_all(&request2()).await.unwrap();
    assert_eq!(outcomes.recv().await, Some("client_stalled"));
    assert_eq!(start.elapsed(), STALL);
    let _gone = places.acquire().await.unwrap();
    assert!(start.elapsed() == STALL && activity.has_stalled());
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http2_that_takes_all_and_answers_no_ping_is_let_go() {
    let (mut client, ..) = connect_to(100 * STALL, Arc::new(large)).await;
    client.write_all(&request2()).await.unwrap();
    let (heard, waited) = end_of(&mut client).await;
    assert!(heard.len() > 16 * PIPE, "all of it");
    assert_eq!(waited, Duration::from_secs(40));
}

#[tokio::test(start_paused = true)]
async fn a_socket_whose_client_reads_nothing_has_stalled_and_not_left() {
    let stall = 2 * STALL;
    let (client, activity, places) = connect_to(stall, Arc::new(large)).await;
    let mut client = greeted(client).await;
    let start = Instant::now();
    let create = format!(r#"{{"t":"create","id":"a","op":"chat.completions","body":{ASK}}}"#);
    client.write_all(&frame(0x01, create.as_bytes())).await.unwrap();
    let _gone = places.acquire().await.unwrap();
    assert!(activity.has_stalled() && start.elapsed() == stall, "{:?}", start.elapsed());
}
