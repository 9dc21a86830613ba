//! B9 to B15: answers that are none, not whole, or not what was asked for.

use bytes::Bytes;
use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{End, MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;

use super::books::{Books, Left};
use super::{PATIENT, row, stage};
use crate::stage::{Stage, assert_fine, assert_refused, attempts, config, connect};

fn wire(bytes: &'static str) -> Script {
    Script::Wire { bytes: Bytes::from_static(bytes.as_bytes()), end: End::Close }
}

fn reply(status: u16, media_type: &str, body: &'static str) -> Script {
    let headers = vec![("content-type".into(), media_type.to_owned())];
    Script::Reply { status, headers, body: Bytes::from_static(body.as_bytes()) }
}

/// Every answer that is none, whether a stream was asked for or not.
fn no_answers() -> Vec<(&'static str, Script, u16, &'static str)> {
    const BAD_CHUNK: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n";
    vec![
        ("closes without a reply", Script::no_reply(), 502, "upstream_reset"),
        ("resets without a reply", Script::Stream(vec![Step::Reset]), 502, "upstream_reset"),
        ("B9: no HTTP", row("B09"), 502, "upstream_protocol"),
        ("B10: a page for people", row("B10-html"), 502, "upstream_protocol"),
        ("500 with a page for people", reply(500, "text/html", "<h1>sorry</h1>"), 502, "upstream_protocol"),
        ("500 with nothing", reply(500, "application/json", ""), 502, "upstream_protocol"),
        ("refuses our credential", Script::status(401, "who are you"), 502, "upstream_protocol"),
        ("a redirect", reply(302, "text/plain", ""), 502, "upstream_protocol"),
        ("no content", reply(204, "application/json", ""), 502, "upstream_protocol"),
        ("half a head", wire("HTTP/1.1 200 OK\r\ncontent-ty"), 502, "upstream_reset"),
        ("B15: two lengths", row("B15-two-lengths"), 502, "upstream_protocol"),
        ("B15: a length and chunks", row("B15-length-and-chunks"), 502, "upstream_protocol"),
        ("chunks that are none", wire(BAD_CHUNK), 502, "upstream_protocol"),
    ]
}

#[tokio::test]
async fn a_backend_that_gives_no_answer_is_told_as_such_and_the_next_request_works() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let mut records = 0;
    for ask in [Ask::chat(), Ask::streamed_chat()] {
        for (name, script, status, code) in no_answers() {
            println!("{name}");
            let (books, seen) = (Books::after(&stage.worker, records).await, stage.mock.counts().attempts);
            stage.mock.next(script);
            assert_refused(&connection.ask(ask.clone()).await.unwrap(), status, code);
            books.gained(Left { outcome: code, attempts: 1, failures: 1 }).await;
            assert_eq!(stage.mock.counts().attempts, seen + 1, "without retries it is asked once");
            assert_fine(&connection.ask(Ask::chat()).await.unwrap());
            records += 2;
        }
    }
}

#[tokio::test]
async fn an_error_of_the_backend_passes_with_its_status_body_and_retry_after() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    for ask in [Ask::chat(), Ask::streamed_chat()] {
        for status in [400, 404, 413, 422, 429, 500, 503, 504] {
            stage.mock.next(Script::retry_after(status, 7));
            let answer = connection.ask(ask.clone()).await.unwrap();
            assert_eq!((answer.status(), answer.code().as_str()), (status, "mock"));
            assert_eq!(answer.header("retry-after"), "7");
            assert_eq!(answer.json()["error"]["message"], "come again");
        }
        assert_fine(&connection.ask(ask.clone()).await.unwrap());
    }
}

#[tokio::test]
async fn half_a_body_is_not_passed_on_as_a_whole_one_although_only_its_connection_ends_it() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    let whole = |body: &str| Script::Wire { bytes: [HEAD, body].concat().into(), end: End::Close };
    stage.mock.next(whole(r#"{"choices":[{"index":0,"#));
    assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 502, "upstream_reset");
    stage.mock.next(whole(r#"{"choices":[]}"#));
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn what_a_client_asked_wrongly_is_no_failure_of_the_backend_whatever_form_the_answer_has() {
    // vLLM says so of an operation that its model does not have, nginx of a body that is too large for it.
    let stage = Stage::with("breaker: { failures: 2 }", "retries: 2", "").await;
    let mut connection = stage.connect().await;
    let answers = [(404, "application/json", r#"{"detail":"Not Found"}"#), (413, "text/html", "<h1>too large</h1>")];
    for (status, media_type, body) in answers.into_iter().cycle().take(6) {
        stage.mock.next(reply(status, media_type, body));
        assert_refused(&connection.ask(Ask::chat()).await.unwrap(), status, "upstream_error");
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn errors_in_other_forms_are_told_in_the_form_of_the_api() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let bodies = [
        r#"{"object":"error","message":"the mock broke","type":"Error","code":500}"#,
        r#"{"error":"the mock broke","error_type":"generation"}"#,
    ];
    for body in bodies {
        stage.mock.next(reply(500, "application/json", body));
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.json()["error"]["message"], "the mock broke", "{body}");
    }
}

#[tokio::test]
async fn b10_an_error_object_with_status_200_is_an_error() {
    let stage = stage().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B10-json"));
    let mut connection = stage.connect().await;
    let answer = connection.ask(Ask::streamed_chat()).await.unwrap();
    assert_refused(&answer, 400, "400");
    assert_eq!(answer.json()["error"]["message"], "no such adapter");
    // It was the request that was wrong.
    books.gained(Left { outcome: "upstream_error", attempts: 1, failures: 1 }).await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn b11_a_busy_backend_says_when_to_come_again_and_another_one_is_asked_first() {
    let pool = format!("{PATIENT}, balance: weighted-round-robin");
    // A 429 says something of the load and nothing against the backend.
    for (status, failures) in [(429, 0), (503, 1)] {
        let (busy, good) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
        let worker = TestWorker::start(&config(&[&busy, &good], &pool, "retries: 1", "")).await.unwrap();
        busy.always(Script::retry_after(status, 7));
        let mut connection = connect(&worker).await;
        let books = Books::after(&worker, 0).await;
        assert_fine(&connection.ask(Ask::streamed_chat()).await.unwrap());
        books.gained(Left { outcome: "completed", attempts: 2, failures }).await;
        assert_eq!(attempts(&[&busy, &good]), [1, 1]);

        // When all are, the client hears it from one of them.
        let both = row("B11");
        busy.always(both.clone());
        good.always(both);
        let books = Books::after(&worker, 1).await;
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert!(matches!(answer.status(), 429 | 503), "{}", answer.text());
        assert_eq!((answer.header("retry-after"), answer.code().as_str()), ("7", "mock"));
        books.gained(Left { outcome: "upstream_status", attempts: 2, failures: 1 }).await;
    }
}

#[tokio::test]
async fn b13_a_body_shorter_than_its_length_is_never_a_clean_end() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B13"));
    assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 502, "upstream_reset");
    books.gained(Left { outcome: "upstream_reset", attempts: 1, failures: 1 }).await;

    // Beyond what is held back to be retried, the client's own connection is cut.
    let books = Books::after(&stage.worker, 1).await;
    let start = format!("{{\"choices\":[\"{}", "x".repeat(2 * 1024 * 1024));
    stage.mock.next(Script::wrong_length(8 * 1024 * 1024, &start));
    assert!(connection.ask(Ask::chat()).await.is_err());
    books.gained(Left { outcome: "upstream_reset", attempts: 1, failures: 1 }).await;
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());

    // A stream says so in the stream.
    let books = Books::after(&stage.worker, 3).await;
    stage.mock.next("length 5000\nrole\ntokens 2".parse().unwrap());
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    super::assert_broken(&transcript, "t0 t1 ", "upstream_reset");
    books.gained(Left { outcome: "upstream_reset", attempts: 1, failures: 1 }).await;
}

#[tokio::test]
async fn b14_what_comes_behind_a_body_is_no_part_of_the_next_answer() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let books = Books::after(&stage.worker, 0).await;
    stage.mock.next(row("B14"));
    assert_eq!(connection.ask(Ask::chat()).await.unwrap().text(), "{}");
    books.gained(Left { outcome: "completed", attempts: 1, failures: 0 }).await;
    for _ in 0..4 {
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
    }
    // Its connection was thrown away, and the others share another one.
    stage.mock.until(|counts| counts.connections_ever >= 2 && counts.cut == 0).await;
    assert_eq!(stage.mock.counts().attempts, 5);
}

#[tokio::test]
async fn a_large_body_that_only_its_connection_ends_is_never_whole_when_it_was_cut() {
    let stage = stage().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    let text = "x\\\"]}{[".repeat(512 * 1024);
    let whole = format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}\n");
    let wire = |body: &str| Script::Wire { bytes: [head, body].concat().into(), end: End::Close };
    stage.mock.next(wire(&whole));
    let answer = stage.connect().await.ask(Ask::chat()).await.unwrap();
    assert_eq!(answer.text(), whole);
    for missing in [2, 5, whole.len() / 2] {
        stage.mock.next(wire(&whole[..whole.len() - missing]));
        assert!(stage.connect().await.ask(Ask::chat()).await.is_err(), "{missing} bytes are missing");
    }
    let records = stage.worker.until_records(4).await.unwrap();
    let outcomes: Vec<_> = records.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["completed", "upstream_reset", "upstream_reset", "upstream_reset"]);
}
