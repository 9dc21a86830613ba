//! `ntonix.v1`: many streams on one socket, each with its own answer, its own failure and its own end.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method};
use ntonix_config::KeyDigest;
use ntonix_data_plane::TrafficArgs;
use ntonix_tests::client::{Ask, Socket};
use ntonix_tests::ledger::token::Token;
use ntonix_tests::mock_llm::{ErrorForm, Gate, MODEL, MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::stage::{Stage, assert_fine, assert_refused, config, nothing_is_active};

const KEY: &str = "ntx_for-sockets";

/// A socket that was greeted.
async fn open(worker: &TestWorker) -> Socket {
    open_with(worker, &[]).await
}

async fn open_with(worker: &TestWorker, headers: &[(&str, &str)]) -> Socket {
    let mut socket = Socket::open(worker.address(), headers).await.unwrap();
    let ready = socket.next().await.unwrap();
    assert_eq!((&ready["t"], &ready["flow"]), (&json!("ready"), &json!("auto")), "unasked");
    assert_eq!(ready["limits"], json!({ "streams": 128, "frame": 4 * 1024 * 1024, "idle_ms": 300_000 }));
    socket
}

fn create(id: &str, members: Value) -> Value {
    let mut body = json!({ "model": MODEL, "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    json!({ "t": "create", "id": id, "op": "chat.completions", "body": body })
}

/// What one stream gave, in the order of its frames.
#[derive(Debug, Default)]
struct Heard {
    opened: bool,
    text: String,
    deltas: u64,
    end: Option<Value>,
}

impl Heard {
    fn take(&mut self, frame: Value) {
        assert!(self.end.is_none(), "after the end: {frame}");
        match frame["t"].as_str().unwrap() {
            "open" => {
                assert!(!std::mem::replace(&mut self.opened, true));
                assert_eq!(frame["status"], 200);
                assert!(frame["request_id"].as_str().unwrap().starts_with("req_"));
            }
            "delta" => {
                assert!(self.opened, "open comes first");
                assert_eq!(frame["seq"], self.deltas, "numbered without gaps");
                self.deltas += 1;
                let choice = &frame["d"]["choices"][0];
                self.text +=
                    choice["delta"]["content"].as_str().or(choice["message"]["content"].as_str()).unwrap_or("");
            }
            "done" | "error" => self.end = Some(frame),
            other => panic!("{other}"),
        }
    }

    fn code(&self) -> &str {
        let end = self.end.as_ref().unwrap();
        assert_eq!(end["t"], "error", "{end}");
        end["error"]["code"].as_str().unwrap()
    }

    #[track_caller]
    fn assert_done(&self) {
        let end = self.end.as_ref().unwrap();
        assert_eq!((&end["t"], &end["seq"]), (&json!("done"), &json!(self.deltas)), "{end}");
    }
}

/// Reads until so many streams have ended.
async fn listen(socket: &mut Socket, ends: usize) -> BTreeMap<String, Heard> {
    let mut heard = BTreeMap::<String, Heard>::new();
    while heard.values().filter(|heard| heard.end.is_some()).count() < ends {
        let frame = socket.next().await.unwrap();
        heard.entry(frame["id"].as_str().unwrap_or_default().to_owned()).or_default().take(frame);
    }
    heard
}

/// The next frame that is none of a running stream's.
async fn next_but(socket: &mut Socket, running: &mut Heard) -> Value {
    loop {
        let frame = socket.next().await.unwrap();
        match frame["t"].as_str().unwrap() {
            "open" | "delta" => running.take(frame),
            _ => return frame,
        }
    }
}

/// One stream from its creation to its end.
async fn ask(socket: &mut Socket, members: Value) -> Heard {
    socket.send(&create("one", members)).await.unwrap();
    listen(socket, 1).await.remove("one").unwrap()
}

/// The socket lives: a further stream is answered.
async fn assert_alive(socket: &mut Socket) {
    ask(socket, json!({ "max_tokens": 3 })).await.assert_done();
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_as_over_http() {
    let stage = Stage::with("", "", "limits: { body: 2KiB }").await;
    let mut socket = open(&stage.worker).await;
    assert_eq!(ask(&mut socket, json!({ "user": "x".repeat(2048) })).await.code(), "request_too_large");
    assert_alive(&mut socket).await;
}

#[tokio::test]
async fn a_hundred_streams_on_one_socket_each_get_their_own_answer() {
    let stage = Stage::new().await;
    let mut socket = open(&stage.worker).await;
    for number in 0..100 {
        // The mock repeats the user in each token, so that a token of another stream would show.
        let members = json!({ "user": format!("u{number}"), "max_tokens": 20 });
        socket.send(&create(&format!("s{number}"), members)).await.unwrap();
    }
    let heard = listen(&mut socket, 100).await;
    assert_eq!(heard.len(), 100);
    for number in 0..100 {
        let one = &heard[&format!("s{number}")];
        one.assert_done();
        let tokens: Vec<_> = Token::all(one.text.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(tokens.len(), 20);
        for (place, token) in tokens.iter().enumerate() {
            assert_eq!((token.stream, token.number), (format!("u{number}").as_str(), place as u64));
        }
    }
}

#[tokio::test]
async fn the_objects_are_those_that_http_gives() {
    let stage = Stage::new().await;
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    let mut socket = open(&stage.worker).await;
    socket.send(&create("a", json!({}))).await.unwrap();
    let mut objects = Vec::new();
    let done = loop {
        let frame = socket.next().await.unwrap();
        match frame["t"].as_str().unwrap() {
            "delta" => objects.push(frame["d"].clone()),
            "done" => break frame,
            _ => {}
        }
    };
    // The mock counts its answers in their id.
    let without_id = |object: &Value| {
        let mut object = object.clone();
        object["id"] = Value::Null;
        object
    };
    let events = transcript.events().iter().filter(|event| *event != "[DONE]");
    let over_http: Vec<Value> = events.map(|event| without_id(&serde_json::from_str(event).unwrap())).collect();
    assert_eq!(objects.iter().map(without_id).collect::<Vec<_>>(), over_http);
    assert_eq!(done["usage"]["completion_tokens"], 5, "asked for behind the client's back: {done}");
}

#[tokio::test]
async fn what_is_not_streamed_is_one_delta() {
    let stage = Stage::new().await;
    let mut socket = open(&stage.worker).await;
    let heard = ask(&mut socket, json!({ "stream": false })).await;
    assert_eq!((heard.deltas, heard.text.as_str()), (1, "t0 t1 t2 t3 t4 "));
    heard.assert_done();
    let body = json!({ "model": MODEL, "input": "hello" });
    socket.send(&json!({ "t": "create", "id": "e", "op": "embeddings", "body": body })).await.unwrap();
    let heard = listen(&mut socket, 1).await.remove("e").unwrap();
    assert_eq!(heard.deltas, 1);
    heard.assert_done();
}

#[tokio::test]
async fn frames_that_are_none_close_the_socket_with_their_reason() {
    let stage = Stage::new().await;
    let too_big = format!("{{\"t\":\"ping\",\"x\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    let cases = [
        (Message::binary(vec![1, 2, 3]), 1003),
        (Message::text("{\"t\":"), 4400),
        (Message::text("\"create\""), 4400),
        (Message::text(too_big), 1009),
    ];
    for (message, code) in cases {
        let mut socket = open(&stage.worker).await;
        socket.send_message(message).await.unwrap();
        assert_eq!(socket.close_code().await.unwrap(), code);
    }
    assert_alive(&mut open(&stage.worker).await).await;
}

#[tokio::test]
async fn frames_that_cannot_be_served_are_refused_and_the_socket_lives() {
    let stage = Stage::new().await;
    let gate = Gate::new();
    stage.mock.next(Script::gated(2, &gate));
    let mut socket = open(&stage.worker).await;
    socket.send(&create("live", json!({}))).await.unwrap();
    stage.mock.attempts(1).await;
    let create_with = |id: &str, change: Value| {
        let mut frame = create(id, json!({}));
        frame.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        frame
    };
    let cases = [
        (json!({ "t": "attach", "id": "a", "stream": "st_1" }), "unknown_frame"),
        (json!({ "t": "nonsense" }), "unknown_frame"),
        (create("live", json!({})), "duplicate_id"),
        (create("not an id", json!({})), "bad_request"),
        (create_with("a", json!({ "op": "responses" })), "unknown_op"),
        (create_with("a", json!({ "resumable": true })), "unknown_frame"),
        (create_with("a", json!({ "body": [] })), "bad_request"),
        (create_with("a", json!({ "body": { "messages": [] } })), "bad_request"),
        (create("a", json!({ "model": "nobody-has-this" })), "model_not_found"),
    ];
    let mut live = Heard::default();
    for (frame, code) in cases {
        socket.send(&frame).await.unwrap();
        let refused = next_but(&mut socket, &mut live).await;
        assert_eq!((&refused["t"], refused["error"]["code"].as_str()), (&json!("error"), Some(code)), "{refused}");
    }
    socket.send(&json!({ "t": "ping", "n": 7 })).await.unwrap();
    assert_eq!(next_but(&mut socket, &mut live).await, json!({ "t": "pong", "n": 7 }));
    // The stream of the id that was used twice has seen nothing of all this.
    gate.open_for_good();
    while live.end.is_none() {
        live.take(socket.next().await.unwrap());
    }
    live.assert_done();
    nothing_is_active(&stage.worker).await;
}

#[tokio::test]
async fn a_backends_failure_ends_its_stream_alone() {
    let stage = Stage::with("breaker: { failures: 1000 }", "retries: 0", "").await;
    let mut socket = open(&stage.worker).await;
    let cases = [
        (Script::broken(0, [Step::Cut]), "upstream_reset"),
        (Script::broken(3, [Step::Cut]), "upstream_reset"),
        (Script::broken(3, []), "upstream_reset"),
        (Script::broken(2, [Step::Error(ErrorForm::OpenAi)]), "broken"),
        (Script::broken(2, [Step::Raw("data: {\"choices\":\n\n".into())]), "upstream_protocol"),
        (Script::garbage(), "upstream_protocol"),
        (Script::html(), "upstream_protocol"),
    ];
    let mut attempts = 0;
    for (script, code) in cases {
        let gate = Gate::new();
        stage.mock.next(Script::gated(2, &gate));
        socket.send(&create("other", json!({}))).await.unwrap();
        attempts += 1;
        stage.mock.attempts(attempts).await;
        stage.mock.next(script);
        socket.send(&create("broken", json!({}))).await.unwrap();
        let mut heard = BTreeMap::<String, Heard>::new();
        while heard.get("broken").is_none_or(|heard| heard.end.is_none()) {
            let frame = socket.next().await.unwrap();
            heard.entry(frame["id"].as_str().unwrap().to_owned()).or_default().take(frame);
        }
        assert_eq!(heard["broken"].code(), code, "{:?}", heard["broken"]);
        attempts += 1;
        gate.open_for_good();
        let mut other = heard.remove("other").unwrap_or_default();
        while other.end.is_none() {
            other.take(socket.next().await.unwrap());
        }
        other.assert_done();
    }
}

#[tokio::test]
async fn a_cancel_cuts_its_backend_and_ends_the_stream_once() {
    let stage = Stage::new().await;
    stage.mock.always(Script::gated(100, &Gate::new()));
    let mut socket = open(&stage.worker).await;
    socket.send(&create("a", json!({}))).await.unwrap();
    stage.mock.attempts(1).await;
    socket.send(&json!({ "t": "cancel", "id": "a" })).await.unwrap();
    stage.mock.cancelled(1).await;
    let heard = listen(&mut socket, 1).await.remove("a").unwrap();
    assert_eq!((heard.code(), heard.end.as_ref().unwrap()["status"].as_u64()), ("cancelled", Some(499)));
    // It is over: a second cancel means nothing, and the name is free again.
    socket.send(&json!({ "t": "cancel", "id": "a" })).await.unwrap();
    stage.mock.always(Script::answer(2));
    socket.send(&create("a", json!({}))).await.unwrap();
    listen(&mut socket, 1).await["a"].assert_done();
}

#[tokio::test]
async fn a_client_that_leaves_cuts_the_backends_of_all_its_streams() {
    let stage = Stage::new().await;
    stage.mock.always(Script::gated(100, &Gate::new()));
    let mut socket = open(&stage.worker).await;
    for id in ["a", "b", "c"] {
        socket.send(&create(id, json!({}))).await.unwrap();
    }
    stage.mock.attempts(3).await;
    drop(socket);
    stage.mock.cancelled(3).await;
    nothing_is_active(&stage.worker).await;
}

#[tokio::test]
async fn credit_stops_one_stream_and_no_other() {
    let stage = Stage::new().await;
    let mut socket = open(&stage.worker).await;
    socket.send(&json!({ "t": "hello", "flow": "credit" })).await.unwrap();
    assert_eq!(socket.next().await.unwrap()["flow"], "credit");
    let mut held = create("held", json!({ "max_tokens": 50 }));
    held["window"] = json!(600);
    socket.send(&held).await.unwrap();
    // Another one with the usual window comes to its end in the meantime.
    socket.send(&create("free", json!({ "max_tokens": 50 }))).await.unwrap();
    let mut heard = listen(&mut socket, 1).await;
    heard["free"].assert_done();
    let mut held = heard.remove("held").unwrap_or_default();
    // What the held one gets now is what was on its way; it is far from all of it.
    socket.send(&json!({ "t": "ping" })).await.unwrap();
    loop {
        let frame = socket.next().await.unwrap();
        if frame["t"] == "pong" {
            break;
        }
        held.take(frame);
    }
    assert!((1..10).contains(&held.deltas), "{held:?}");
    assert!(held.end.is_none());
    socket.send(&json!({ "t": "window", "id": "held", "add": 1_000_000 })).await.unwrap();
    while held.end.is_none() {
        held.take(socket.next().await.unwrap());
    }
    held.assert_done();
    assert_eq!(held.text.split_whitespace().count(), 50);
}

/// What a handshake that is refused is answered with.
async fn handshake(stage: &Stage, change: impl FnOnce(Ask) -> Ask) -> ntonix_tests::client::Answer {
    let ask = Ask::new(Method::GET, "/v1/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "ntonix.v1");
    stage.connect().await.ask(change(ask)).await.unwrap()
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_before_the_upgrade() {
    let stage = Stage::new().await;
    assert_refused(&handshake(&stage, |ask| ask.without("upgrade")).await, 400, "bad_request");
    assert_refused(&handshake(&stage, |ask| ask.without("sec-websocket-key")).await, 400, "bad_request");
    assert_refused(&handshake(&stage, |ask| ask.without("sec-websocket-protocol")).await, 400, "bad_request");
    let other =
        handshake(&stage, |ask| ask.without("sec-websocket-protocol").header("sec-websocket-protocol", "ntonix.v9"));
    assert_refused(&other.await, 400, "bad_request");
    let page = handshake(&stage, |ask| ask.header("origin", "https://elsewhere.example"));
    assert_refused(&page.await, 403, "origin_not_allowed");
}

#[tokio::test]
async fn a_page_on_the_list_may_open_a_socket() {
    let mock = MockLlm::start().unwrap();
    let origin = "https://chat.example.com";
    let config = config(&[&mock], "", "", "");
    let listed = |traffic: &mut TrafficArgs| traffic.allow_origin = vec![HeaderValue::from_static(origin)];
    let worker = TestWorker::start_with(&config, listed).await.unwrap();
    assert_alive(&mut open_with(&worker, &[("origin", origin)]).await).await;
}

fn keyed(extra: &str) -> String {
    format!(
        "tenants: [{{ name: research }}]\nkeys: [{{ name: alice, tenant: research, digest: \"{}\" }}{extra}]",
        KeyDigest::of(KEY.as_bytes())
    )
}

#[tokio::test]
async fn a_key_comes_by_header_or_by_subprotocol_and_is_never_echoed() {
    let stage = Stage::with("", "", &keyed("")).await;
    assert_refused(&handshake(&stage, |ask| ask).await, 401, "invalid_api_key");
    assert_refused(&handshake(&stage, |ask| ask.key("ntx_wrong")).await, 401, "invalid_api_key");
    let refused = stage.worker.metric("ntonix_requests_refused_total{code=\"invalid_api_key\"}").await.unwrap();
    assert_eq!(refused, 2.0);
    let bearer = format!("Bearer {KEY}");
    assert_alive(&mut open_with(&stage.worker, &[("authorization", &bearer)]).await).await;
    let item = format!("ntonix.v1, ntonix.bearer.{}", URL_SAFE_NO_PAD.encode(KEY));
    let mut socket = open_with(&stage.worker, &[("sec-websocket-protocol", &item)]).await;
    assert_alive(&mut socket).await;
    let seen = stage.mock.requests();
    assert!(!seen.is_empty() && seen.iter().all(|request| !format!("{:?}", request.headers).contains(KEY)));
}

#[tokio::test]
async fn a_key_that_is_revoked_is_refused_with_the_next_stream() {
    let stage = Stage::with("", "", &keyed("")).await;
    let bearer = format!("Bearer {KEY}");
    let mut socket = open_with(&stage.worker, &[("authorization", &bearer)]).await;
    let gate = Gate::new();
    stage.mock.next(Script::gated(2, &gate));
    socket.send(&create("running", json!({}))).await.unwrap();
    stage.mock.attempts(1).await;
    let none = "tenants: [{ name: research }]";
    stage.worker.save(&config(&[&stage.mock], "", "", none)).unwrap();
    let mut running = Heard::default();
    let refused = 'refused: loop {
        socket.send(&create("next", json!({ "max_tokens": 1 }))).await.unwrap();
        loop {
            let frame = socket.next().await.unwrap();
            match frame["t"].as_str().unwrap() {
                _ if frame["id"] == "running" => running.take(frame),
                "error" => break 'refused frame,
                "done" => break,
                _ => {}
            }
        }
    };
    assert_eq!((&refused["status"], &refused["error"]["code"]), (&json!(401), &json!("invalid_api_key")));
    // The stream that ran was begun with a good key.
    gate.open_for_good();
    while running.end.is_none() {
        running.take(socket.next().await.unwrap());
    }
    running.assert_done();
}

#[tokio::test]
async fn a_drain_lets_streams_finish_takes_no_new_ones_and_closes() {
    let stage = Stage::new().await;
    let gate = Gate::new();
    stage.mock.next(Script::gated(2, &gate));
    let mut socket = open(&stage.worker).await;
    socket.send(&create("running", json!({}))).await.unwrap();
    stage.mock.attempts(1).await;
    stage.worker.drain(Duration::from_secs(60));
    let mut heard = Heard::default();
    loop {
        let frame = socket.next().await.unwrap();
        if frame["t"] == "goaway" {
            break;
        }
        heard.take(frame);
    }
    socket.send(&create("late", json!({}))).await.unwrap();
    loop {
        let frame = socket.next().await.unwrap();
        if frame["id"] == "late" {
            assert_eq!(frame["error"]["code"], "draining");
            break;
        }
        heard.take(frame);
    }
    gate.open_for_good();
    while heard.end.is_none() {
        heard.take(socket.next().await.unwrap());
    }
    heard.assert_done();
    assert_eq!(socket.close_code().await.unwrap(), 1012);
    drop(socket);
    stage.worker.ended().await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_drain_is_told_to_each_stream() {
    let stage = Stage::new().await;
    stage.mock.always(Script::gated(2, &Gate::new()));
    let mut socket = open(&stage.worker).await;
    socket.send(&create("running", json!({}))).await.unwrap();
    stage.mock.attempts(1).await;
    stage.worker.stop_now();
    let refused = loop {
        let frame = socket.next().await.unwrap();
        if frame["t"] == "error" {
            break frame;
        }
    };
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("running"), &json!("draining")));
    assert_eq!(socket.close_code().await.unwrap(), 1012);
    stage.mock.cancelled(1).await;
    stage.worker.ended().await.unwrap();
}

#[tokio::test]
async fn http_goes_on_beside_a_socket() {
    let stage = Stage::new().await;
    let _socket = open(&stage.worker).await;
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}
