//! One record for each exchange, whatever ended it: who asked, what it used, and what of that was delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use ntonix_tests::client::{Ask, CHAT, Connection, RawConnection, Socket};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{Gate, MODEL, MockLlm, Pace, Script, Step};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::{Stage, assert_fine, config, connect, nothing_is_active};

/// So many tokens, one each time that the gate opens.
fn tokens(count: u64, gate: &Gate) -> Step {
    Step::Tokens { count, pace: Pace::Gate(gate.clone()) }
}

/// These members of a record.
#[track_caller]
fn assert_record(record: &Value, wanted: Value) {
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&record[name], value, "{name} in {record:#}");
    }
}

#[tokio::test]
async fn a_complete_answer_is_recorded_with_what_the_backend_counted() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let asked = connection.ask(Ask::chat().header("x-request-id", "mine")).await.unwrap();
    assert_fine(&asked);
    assert!(connection.transcript(Ask::streamed_chat()).await.unwrap().is_done());
    let records = stage.worker.until_records(2).await.unwrap();
    assert_record(
        &records[0],
        json!({
            "id": "mine", "transport": "http1", "op": "chat.completions", "stream": false, "model": MODEL,
            "tenant": null, "key": null, "route": MODEL, "pool": "llama", "backend": "gpu-0", "attempts": 1,
            "status": 200, "outcome": "completed", "prompt_tokens": 7, "completion_tokens": 5, "counted_by": "backend",
            "generated": 5, "delivered": 5, "first_token_ms": null,
        }),
    );
    assert_record(
        &records[1],
        json!({
            "stream": true, "outcome": "completed", "completion_tokens": 5, "counted_by": "backend", "generated": 5,
            "delivered": 5,
        }),
    );
    assert!(records[1]["first_token_ms"].as_f64().unwrap() <= records[1]["total_ms"].as_f64().unwrap());
    assert!(records[0]["at"].as_str().unwrap().ends_with('Z'), "{records:#?}");
}

#[tokio::test]
async fn what_no_backend_counted_is_estimated_and_says_so() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let fast = Step::Tokens { count: 3, pace: Pace::Fast };
    stage.mock.next(Script::Stream(vec![Step::Role, fast, Step::finish("stop"), Step::Done]));
    assert!(connection.transcript(Ask::streamed_chat()).await.unwrap().is_done());
    let body = r#"{"choices":[{"index":0,"message":{"content":"twelve bytes"},"finish_reason":"stop"}]}"#;
    let reply = |body: String| Script::Reply {
        status: 200,
        headers: vec![("content-type".into(), "application/json".to_owned())],
        body: body.into(),
    };
    stage.mock.next(reply(body.to_owned()));
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    // B27: nonsense is no count.
    for usage in [r#"{"prompt_tokens":-1,"completion_tokens":5}"#, r#"{"prompt_tokens":7,"completion_tokens":1e30}"#] {
        stage.mock.next(reply(body.replacen('{', &format!("{{\"usage\":{usage},"), 1)));
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    let records = stage.worker.until_records(4).await.unwrap();
    let prompt = r#"[{"content":"hello","role":"user"}]"#.len().div_ceil(4);
    assert_record(
        &records[0],
        json!({
            "counted_by": "gateway", "prompt_tokens": prompt, "completion_tokens": 3, "generated": 3, "delivered": 3,
        }),
    );
    for record in &records[1..] {
        let text = r#"{"content":"twelve bytes"}"#.len().div_ceil(4);
        assert_record(record, json!({ "counted_by": "gateway", "prompt_tokens": prompt, "completion_tokens": text }));
    }
}

#[tokio::test]
async fn a_stream_that_broke_or_was_left_is_recorded_with_what_came_until_then() {
    let stage = Stage::with("breaker: { failures: 1000 }", "retries: 0", "").await;
    stage.mock.next(Script::broken(3, [Step::Cut]));
    assert_eq!(stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap().code(), "upstream_reset");

    let gate = Gate::new();
    gate.open(2);
    stage.mock.next(Script::Stream(vec![Step::Role, tokens(5, &gate)]));
    let mut stream = stage.connect().await.stream(Ask::streamed_chat()).await.unwrap();
    stream.take(3).await.unwrap();
    drop(stream);
    let records = stage.worker.until_records(2).await.unwrap();
    let counts = |count| {
        json!({
            "counted_by": "gateway", "completion_tokens": count, "generated": count, "delivered": count, "status": 200,
        })
    };
    assert_record(&records[0], json!({ "outcome": "upstream_reset" }));
    assert_record(&records[0], counts(3));
    assert_record(&records[1], json!({ "outcome": "cancelled" }));
    assert_record(&records[1], counts(2));
}

/// A backend whose idle connection breaks under a request may have seen it: nobody else can tell the operator that it
/// was asked twice.
#[tokio::test]
async fn a_request_that_was_sent_again_on_a_new_connection_counts_as_two_attempts() {
    let stage = Stage::with("", "retries: 1", "").await;
    let mut connection = stage.connect().await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    stage.mock.next(Script::no_reply());
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    assert_eq!(stage.mock.counts().attempts, 3);
    let records = stage.worker.until_records(2).await.unwrap();
    assert_record(&records[0], json!({ "attempts": 1 }));
    assert_record(&records[1], json!({ "attempts": 2, "outcome": "completed" }));
    let counter = "ntonix_backend_attempts_total{pool=\"llama\",backend=\"gpu-0\"}";
    assert_eq!(stage.worker.metric(counter).await.unwrap(), 3.0);
}

#[tokio::test]
async fn a_refusal_is_recorded_too_wherever_it_was_made() {
    let digest = ntonix_config::KeyDigest::of(b"ntx_mine");
    let rest = format!(
        "tenants: [{{ name: research, limits: {{ requests_per_minute: 5 }} }}]\n\
         keys: [{{ name: alice, tenant: research, digest: \"{digest}\" }}]"
    );
    let stage = Stage::with("", "retries: 0", &rest).await;
    let mut connection = stage.connect().await;
    let asks = [
        (Ask::chat(), "invalid_api_key"),
        (Ask::post(CHAT, "{").key("ntx_mine"), "invalid_json"),
        (Ask::chat_with(json!({ "model": "none" })).key("ntx_mine"), "model_not_found"),
    ];
    for (ask, code) in asks {
        assert_eq!(connection.ask(ask).await.unwrap().code(), code);
    }
    stage.mock.next(Script::status(500, "sorry"));
    assert_eq!(connection.ask(Ask::chat().key("ntx_mine")).await.unwrap().status(), 500);
    let records = stage.worker.until_records(4).await.unwrap();
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["invalid_api_key", "invalid_json", "model_not_found", "upstream_status"]);
    assert_record(&records[0], json!({ "status": 401, "model": null, "tenant": null, "attempts": 0 }));
    assert_record(&records[2], json!({ "status": 404, "model": "none", "tenant": "research", "key": "alice" }));
    assert_record(&records[3], json!({ "status": 500, "attempts": 1, "prompt_tokens": 0, "completion_tokens": 0 }));
}

#[tokio::test]
async fn a_client_that_leaves_before_it_has_an_answer_has_no_status() {
    let stage = Stage::new().await;
    stage.mock.next(Script::hang());
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    raw.send(Ask::chat().wire()).await.unwrap();
    stage.mock.attempts(1).await;
    drop(raw);
    assert_record(&stage.worker.until_records(1).await.unwrap()[0], json!({ "outcome": "cancelled", "status": 499 }));
}

/// C8: an upload that its client leaves is no request, but it was accepted: it is recorded and nothing else.
#[tokio::test]
async fn a_client_that_leaves_while_it_still_sends_is_recorded_and_no_backend_asked() {
    let stage = Stage::new().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let wire = Ask::chat().header("x-request-id", "half").wire();
    raw.send(&wire[..wire.len() - 5]).await.unwrap();
    let sample = "ntonix_active_streams";
    eventually(sample, async || stage.worker.metric(sample).await.unwrap() == 1.0).await.unwrap();
    drop(raw);
    let records = stage.worker.until_records(1).await.unwrap();
    assert_eq!((&records[0]["id"], &records[0]["attempts"]), (&json!("half"), &json!(0)));
    assert!(["cancelled", "bad_request"].contains(&records[0]["outcome"].as_str().unwrap()), "{records:?}");
    assert_eq!(stage.mock.counts().attempts, 0);
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn streams_of_a_socket_are_recorded_one_by_one() {
    let stage = Stage::with("breaker: { failures: 1000 }", "retries: 0", "").await;
    let mut socket = Socket::open(stage.worker.address(), &[]).await.unwrap();
    let create = |id: &str, model: &str, stream: bool| {
        let body = json!({ "model": model, "stream": stream, "messages": [] });
        json!({ "t": "create", "id": id, "op": "chat.completions", "body": body })
    };
    stage.mock.for_model(MODEL, Script::answer(4));
    for (id, model, stream) in [("a", MODEL, true), ("b", MODEL, false), ("c", "none", true)] {
        socket.send(&create(id, model, stream)).await.unwrap();
        let last = loop {
            let frame = socket.next().await.unwrap();
            if matches!(frame["t"].as_str(), Some("done" | "error")) {
                break frame;
            }
        };
        if id != "c" {
            assert_eq!(last["usage"]["completion_tokens"], 4, "{last}");
        }
    }
    let records = stage.worker.until_records(3).await.unwrap();
    for record in &records[..2] {
        assert_record(
            record,
            json!({ "transport": "websocket", "outcome": "completed", "generated": 4, "delivered": 4 }),
        );
    }
    assert_record(&records[2], json!({ "outcome": "model_not_found", "status": 404 }));
}

/// A worker whose clients may read nothing for a moment only.
async fn impatient(mock: &MockLlm) -> TestWorker {
    let stall = |traffic: &mut ntonix_data_plane::TrafficArgs| traffic.client_stall = Duration::from_millis(200);
    TestWorker::start_with(&config(&[mock], "breaker: { failures: 1 }", "", ""), stall).await.unwrap()
}

/// More than all buffers of all sockets on the way hold.
fn endless() -> Script {
    let text = "x".repeat(64 * 1024);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    Script::Stream(vec![Step::Raw(event.into()); 1000])
}

/// What came and what was passed on of a stream that its client did not read.
#[track_caller]
fn assert_stalled(record: &Value, transport: &str) {
    assert_record(record, json!({ "outcome": "client_stalled", "transport": transport }));
    let (generated, delivered) = (record["generated"].as_u64().unwrap(), record["delivered"].as_u64().unwrap());
    assert!(delivered <= generated && generated > 0 && generated < 1000, "{record}");
}

/// C3, on the two transports whose sockets stand still.
#[tokio::test]
async fn a_client_that_stops_reading_is_let_go_and_recorded_as_stalled() {
    let mock = MockLlm::start().unwrap();
    let worker = impatient(&mock).await;
    mock.always(endless());
    let mut raw = RawConnection::open(worker.address()).await.unwrap();
    raw.send(Ask::streamed_chat().wire()).await.unwrap();
    mock.cancelled(1).await;
    let mut socket = Socket::open(worker.address(), &[]).await.unwrap();
    let body = json!({ "model": MODEL, "stream": true, "messages": [] });
    socket.send(&json!({ "t": "create", "id": "a", "op": "chat.completions", "body": body })).await.unwrap();
    mock.cancelled(2).await;
    let records = worker.until_records(2).await.unwrap();
    assert_stalled(&records[0], "http1");
    assert_stalled(&records[1], "websocket");
    nothing_is_active(&worker).await;
    // No failure of the backend: one would have opened its breaker.
    mock.always(Script::answer(1));
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
}

/// C3 over HTTP/2: the connection lives, and with it the siblings.
#[tokio::test]
async fn a_stream_of_http2_that_is_not_read_ends_alone_and_is_recorded_as_stalled() {
    let mock = MockLlm::start().unwrap();
    let worker = impatient(&mock).await;
    let mut connection = Connection::open_http2(worker.address()).await.unwrap();
    let gate = Gate::new();
    gate.open(1);
    mock.next(Script::gated(2, &gate));
    let mut sibling = connection.stream(Ask::streamed_chat()).await.unwrap();
    sibling.take(1).await.unwrap();
    mock.next(endless());
    let stalled = connection.stream(Ask::streamed_chat()).await.unwrap();
    mock.cancelled(1).await;
    assert_stalled(&worker.until_records(1).await.unwrap()[0], "http2");
    assert!(stalled.rest().await.unwrap().is_cut(), "what is not whole does not look whole");
    gate.open_for_good();
    assert!(sibling.rest().await.unwrap().is_done());
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

/// C3: an answer that is all here is not delivered by being handed to the connection in one piece.
#[tokio::test]
async fn a_large_answer_over_http2_that_is_not_read_is_recorded_as_stalled_too() {
    let mock = MockLlm::start().unwrap();
    let worker = impatient(&mock).await;
    let text = "x".repeat(900_000);
    let whole = json!({ "choices": [{ "index": 0, "message": { "content": text }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12 } });
    let stream = |text: &str| {
        let token = json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        let last = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
        Script::raw([format!("data: {token}\n\ndata: {last}\n\ndata: [DONE]\n\n")])
    };
    let whole = Script::reply(200, [("content-type", "application/json")], whole.to_string());
    // The last is one small piece, which finds no window.
    let rows = [(1, Ask::chat(), whole, 7), (1, Ask::streamed_chat(), stream(&text), 1)];
    let rows = rows.into_iter().chain([(0, Ask::streamed_chat(), stream("x"), 1)]);
    for (number, (window, ask, script, generated)) in rows.enumerate() {
        mock.next(script);
        let mut connection = Connection::open_http2_narrow(worker.address(), window).await.unwrap();
        let _unread = connection.send(ask).await.unwrap();
        let records = worker.until_records(number + 1).await.unwrap();
        assert_record(&records[number], json!({ "outcome": "client_stalled", "generated": generated }));
        if window > 0 {
            assert_record(&records[number], json!({ "delivered": 0 }));
        }
    }
    nothing_is_active(&worker).await;
}

/// Item 72: a stream without credit stops alone, and its record tells what was pulled from what was sent.
#[tokio::test]
async fn a_stream_without_credit_is_recorded_with_what_its_client_got() {
    let mock = MockLlm::start().unwrap();
    let worker = impatient(&mock).await;
    let mut socket = Socket::open(worker.address(), &[]).await.unwrap();
    socket.send(&json!({ "t": "hello", "flow": "credit" })).await.unwrap();
    mock.next(Script::answer(50));
    let body = json!({ "model": MODEL, "stream": true, "messages": [] });
    // Enough for the role and one token.
    let create = json!({ "t": "create", "id": "a", "op": "chat.completions", "window": 300, "body": body });
    socket.send(&create).await.unwrap();
    let mut deltas = 0;
    let last = loop {
        let frame = socket.next().await.unwrap();
        match frame["t"].as_str() {
            Some("delta") => deltas += 1,
            Some("error") => break frame,
            _ => {}
        }
    };
    assert_eq!((last["error"]["code"].as_str(), deltas), (Some("client_stalled"), 2), "{last}");
    let records = worker.until_records(1).await.unwrap();
    assert_record(&records[0], json!({ "outcome": "client_stalled", "delivered": 1 }));
    let generated = records[0]["generated"].as_u64().unwrap();
    assert!((1..=50).contains(&generated), "what was pulled before the credit was spent: {generated}");
}

#[tokio::test]
async fn what_a_drain_cuts_is_recorded_as_such_and_told_to_those_without_a_head_too() {
    let stage = Stage::new().await;
    stage.mock.always(Script::hang());
    let mut waiting = stage.connect().await;
    let asked = ntonix_runtime::tasks::spawn("asked", async move { waiting.ask(Ask::chat()).await });
    stage.mock.attempts(1).await;
    stage.worker.stop_now();
    let answer = asked.await.unwrap().unwrap();
    assert_eq!((answer.status(), answer.code().as_str()), (503, "draining"));
    assert_record(&stage.worker.until_records(1).await.unwrap()[0], json!({ "outcome": "draining", "status": 503 }));
}

#[tokio::test]
async fn a_body_that_comes_after_the_end_of_the_drain_leaves_one_record_like_any_other() {
    const ASKED: usize = 20;
    let stage = Stage::new().await;
    let wire = Ask::chat().wire();
    let (start, rest) = wire.split_at(wire.len() - 5);
    let mut asked = Vec::new();
    for _ in 0..ASKED {
        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(start).await.unwrap();
        asked.push(raw);
    }
    let sample = "ntonix_active_streams";
    eventually(sample, async || stage.worker.metric(sample).await.unwrap() == ASKED as f64).await.unwrap();
    stage.worker.stop_now();
    for raw in &mut asked {
        // Its answer may be there already, and its connection closed.
        let _ = raw.send(rest).await;
    }
    for record in stage.worker.until_records(ASKED).await.unwrap() {
        assert_record(&record, json!({ "outcome": "draining", "status": 503 }));
    }
    for mut raw in asked {
        let answer = raw.read_to_end().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"draining\""), "{answer}");
    }
}

#[tokio::test]
async fn after_a_sighup_records_go_to_a_new_file_and_without_a_file_to_standard_output() {
    let mock = MockLlm::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (log, moved) = (folder.path().join("usage"), folder.path().join("usage.1"));
    let flag = format!("--usage-log={}", log.display());
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[&flag]).await.unwrap();
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    let ask = async || {
        let mut connection = Connection::open(gateway.address()).await.unwrap();
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    };
    ask().await;
    eventually("the first record", async || lines(&log) == 1).await.unwrap();
    std::fs::rename(&log, &moved).unwrap();
    gateway.process().signal(Signal::HUP).unwrap();
    // The signal is taken in its own time; every record goes to one of the two files.
    let mut asked = 1;
    eventually("a record in the new file", async || {
        ask().await;
        asked += 1;
        eventually("the record", async || lines(&log) + lines(&moved) == asked).await.unwrap();
        lines(&log) > 0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn each_outcome_is_counted_as_often_as_it_is_recorded() {
    let stage = Stage::with("breaker: { failures: 1000 }", "retries: 0", "").await;
    let mut connection = stage.connect().await;
    for script in
        [Script::answer(1), Script::garbage(), Script::no_reply(), Script::status(404, "no"), Script::answer(2)]
    {
        stage.mock.next(script);
        connection.ask(Ask::chat()).await.unwrap();
    }
    let mut recorded: BTreeMap<String, usize> = BTreeMap::new();
    for record in stage.worker.until_records(5).await.unwrap() {
        *recorded.entry(record["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for (outcome, count) in recorded {
        let sample = format!("ntonix_exchanges_total{{route=\"{MODEL}\",transport=\"http1\",outcome=\"{outcome}\"}}");
        assert_eq!(stage.worker.metric(&sample).await.unwrap() as usize, count, "{outcome}");
    }
}
