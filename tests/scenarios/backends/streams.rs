//! B4 to B7, B10, B16 and B19: streams that break, stop, or do not end.

use ntonix_tests::client::{Ask, Socket};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{ErrorForm, MODEL, MockLlm, Script, Step};
use serde_json::json;

use super::books::{Books, Left};
use super::{ONCE, PATIENT, assert_broken, row, stage};
use crate::stage::{Stage, assert_fine, assert_refused, config};

const HUNDRED_MEBIBYTES: usize = 100 * 1024 * 1024;

#[tokio::test]
async fn b4_b5_b16_a_stream_that_breaks_after_tokens_ends_with_an_error_and_without_done() {
    // Item 9. With retries: nothing is asked again once an event has left.
    let stage = Stage::with(PATIENT, "retries: 3", "").await;
    let mut connection = stage.connect().await;
    let cases: [(&str, Script, &str, &str); 8] = [
        ("B4: fin", row("B04"), "t0 t1 t2 ", "upstream_reset"),
        ("B5: rst", row("B05"), "t0 t1 t2 ", "upstream_reset"),
        ("clean end without a finish", Script::broken(3, []), "t0 t1 t2 ", "upstream_reset"),
        ("done without a finish", Script::broken(3, [Step::Done]), "t0 t1 t2 ", "upstream_reset"),
        (
            "half an event",
            "role\ntokens 3\nraw \"data: {\\\"cho\"\ncut fin".parse().unwrap(),
            "t0 t1 t2 ",
            "upstream_reset",
        ),
        (
            "reset inside an event",
            "role\ntokens 3\nraw \"data: {\"\ncut rst".parse().unwrap(),
            "t0 t1 t2 ",
            "upstream_reset",
        ),
        ("cut at a byte", "cut rst at byte 450\nrole\ntokens 9".parse().unwrap(), "t0 ", "upstream_reset"),
        ("B16: an event without end", row("B16"), "t0 ", "upstream_protocol"),
    ];
    for (round, (name, script, content, code)) in cases.into_iter().enumerate() {
        println!("{name}");
        let (books, seen) = (Books::after(&stage.worker, 2 * round).await, stage.mock.counts().attempts);
        stage.mock.next(script);
        assert_broken(&connection.transcript(Ask::streamed_chat()).await.unwrap(), content, code);
        let record = books.gained(Left { outcome: code, attempts: 1, failures: 1 }).await;
        let tokens = content.matches(' ').count();
        assert_eq!((&record["delivered"], &record["counted_by"]), (&tokens.into(), &"gateway".into()), "{record:#}");
        assert_eq!(stage.mock.counts().attempts, seen + 1);
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn b3_b16_a_stream_that_breaks_before_its_first_event_is_an_error_with_a_status() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let cases = [
        ("cut", row("B03"), 502, "upstream_reset"),
        ("reset", Script::broken(0, [Step::Reset]), 502, "upstream_reset"),
        ("clean end", Script::broken(0, []), 502, "upstream_reset"),
        ("half an event", Script::raw(["data: {\"choices\""]), 502, "upstream_reset"),
        ("huge event", Script::broken(0, [Step::Endless(HUNDRED_MEBIBYTES)]), 502, "upstream_protocol"),
    ];
    for (name, script, status, code) in cases {
        println!("{name}");
        stage.mock.next(script);
        assert_refused(&connection.ask(Ask::streamed_chat()).await.unwrap(), status, code);
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn b6_no_first_token_in_time_is_a_504_and_the_backend_is_cut() {
    let stage = Stage::with(PATIENT, "retries: 3, deadlines: { first_token: 300ms }", "").await;
    let mut connection = stage.connect().await;
    for (round, ask) in [Ask::chat(), Ask::streamed_chat()].into_iter().enumerate() {
        let books = Books::after(&stage.worker, 2 * round).await;
        stage.mock.next(row("B06"));
        assert_refused(&connection.ask(ask).await.unwrap(), 504, "upstream_timeout");
        stage.mock.cancelled(round + 1).await;
        let record = books.gained(Left { outcome: "upstream_timeout", attempts: 1, failures: 1 }).await;
        assert!(record["total_ms"].as_f64().unwrap() >= 300.0, "{record:#}");
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn b7_a_stream_that_stops_has_heartbeats_and_then_an_error() {
    let stage = Stage::with(PATIENT, "heartbeat: 1s, deadlines: { idle: 1500ms }", "").await;
    let mut connection = stage.connect().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B07"));
    let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
    assert_broken(&transcript, "t0 t1 t2 ", "upstream_timeout");
    assert_eq!(transcript.text().matches("\n:\n").count(), 1, "{}", transcript.text());
    stage.mock.cancelled(1).await;
    let record = books.gained(Left { outcome: "upstream_timeout", attempts: 1, failures: 1 }).await;
    assert_eq!((&record["completion_tokens"], &record["counted_by"]), (&3.into(), &"gateway".into()));
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b19_after_done_the_client_need_not_wait_and_the_backends_connection_is_thrown_away() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    for (round, name) in ["B19-open", "B19-half-close"].into_iter().enumerate() {
        let (books, opened) = (Books::after(&stage.worker, 2 * round).await, stage.mock.counts().connections_ever);
        stage.mock.next(row(name));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done() && transcript.content() == "t0 t1 t2 ", "{}", transcript.text());
        books.gained(Left { outcome: "completed", attempts: 1, failures: 0 }).await;
        stage.mock.cancelled(round + 1).await;
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        assert!(stage.mock.counts().connections_ever > opened, "{name}");
    }
}

#[tokio::test]
async fn item_7_and_8_each_form_of_an_error_event_ends_the_stream_in_the_form_of_the_api() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let endings: [&[Step]; 2] = [&[], &[Step::Done]];
    for form in ErrorForm::ALL {
        // Some backends say [DONE] after an error; it must not make the stream look complete.
        for ending in endings {
            println!("{form:?} {ending:?}");
            let steps = [&[Step::Error(form)], ending].concat();
            stage.mock.next(Script::broken(2, steps.clone()));
            let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
            let code = match form {
                ErrorForm::OpenAi => "broken",
                ErrorForm::NumericCode | ErrorForm::Object | ErrorForm::Field => "500",
                ErrorForm::Text | ErrorForm::Named => "upstream_error",
            };
            assert_broken(&transcript, "t0 t1 ", code);
            assert_eq!(transcript.error()["message"], "the mock broke");

            // As the first event it still has a status of its own.
            stage.mock.next(Script::broken(0, steps));
            let answer = connection.ask(Ask::streamed_chat()).await.unwrap();
            assert_refused(&answer, if code == "500" { 500 } else { 502 }, code);
        }
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b16_item_34_memory_stays_bounded_while_a_huge_event_comes() {
    let mock = MockLlm::start().unwrap();
    let gateway = Gateway::start(&config(&[&mock], PATIENT, ONCE, ""), &[]).await.unwrap();
    let peak_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let mut connection = ntonix_tests::client::Connection::open(gateway.address()).await.unwrap();
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    let before = peak_kib();
    mock.next(Script::broken(1, [Step::Endless(HUNDRED_MEBIBYTES)]));
    assert_broken(&connection.transcript(Ask::streamed_chat()).await.unwrap(), "t0 ", "upstream_protocol");
    // It is cut long before its end: nobody reads on.
    mock.cancelled(1).await;
    // One event of 8 MiB, once more while it grows, and buffers; a hundred would be all of it.
    let grown = peak_kib() - before;
    assert!(grown < 40 * 1024, "{grown} KiB more");
    println!("{grown} KiB more at most");
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn on_a_websocket_each_break_ends_its_stream_with_the_same_code() {
    let stage = stage().await;
    let mut socket = Socket::open(stage.worker.address(), &[]).await.unwrap();
    assert_eq!(socket.next().await.unwrap()["t"], "ready");
    let rows = [
        ("B04", "upstream_reset"),
        ("B05", "upstream_reset"),
        ("B09", "upstream_protocol"),
        ("B16", "upstream_protocol"),
    ];
    for (round, (name, code)) in rows.into_iter().enumerate() {
        let books = Books::after(&stage.worker, round).await;
        stage.mock.next(row(name));
        let body = json!({ "model": MODEL, "stream": true, "messages": [{ "role": "user", "content": "hello" }] });
        socket.send(&json!({ "t": "create", "id": name, "op": "chat.completions", "body": body })).await.unwrap();
        let end = loop {
            let frame = socket.next().await.unwrap();
            match frame["t"].as_str().unwrap() {
                "open" | "delta" => {}
                _ => break frame,
            }
        };
        assert_eq!(
            (&end["t"], &end["id"], &end["error"]["code"]),
            (&"error".into(), &name.into(), &code.into()),
            "{end}"
        );
        let record = books.gained(Left { outcome: code, attempts: 1, failures: 1 }).await;
        assert_eq!(record["transport"], "websocket");
    }
}
