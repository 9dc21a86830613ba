//! Backends that fail: what the client gets, to the code, and that the next request works.

use bytes::Bytes;
use ntonix_tests::client::{Ask, Transcript};
use ntonix_tests::mock_llm::{End, ErrorForm, MODEL, MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;
use serde_json::json;

use crate::stage::{Stage, assert_fine, assert_refused, backend_is, config, connect};

/// Nothing is tried twice, and no failure keeps the backend from being asked again.
const POOL: &str = "breaker: { failures: 1000 }";
const ROUTE: &str = "retries: 0";

const HUNDRED_MEBIBYTES: usize = 100 * 1024 * 1024;

/// A good answer after which the backend closes its connection. Whether a connection that was used before broke because
/// of a request or just before it cannot be told, so that it is asked again; over a fresh one it is not.
fn last_on_its_connection() -> Script {
    reply(200, "application/json", "{}").header("connection", "close")
}

async fn stage() -> Stage {
    Stage::with(POOL, ROUTE, "").await
}

fn wire(bytes: &'static str) -> Script {
    Script::Wire { bytes: Bytes::from_static(bytes.as_bytes()), end: End::Close }
}

fn reply(status: u16, media_type: &str, body: &'static str) -> Script {
    let headers = vec![("content-type".into(), media_type.to_owned())];
    Script::Reply { status, headers, body: Bytes::from_static(body.as_bytes()) }
}

/// Every answer that is none, whether a stream was asked for or not.
fn no_answers() -> Vec<(&'static str, Script, u16, &'static str)> {
    const TWO_LENGTHS: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}";
    const BAD_CHUNK: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n";
    vec![
        ("closes without a reply", Script::no_reply(), 502, "upstream_reset"),
        ("resets without a reply", Script::Stream(vec![Step::Reset]), 502, "upstream_reset"),
        ("garbage", Script::garbage(), 502, "upstream_protocol"),
        ("a page for people", Script::html(), 502, "upstream_protocol"),
        ("500 with a page for people", reply(500, "text/html", "<h1>sorry</h1>"), 502, "upstream_protocol"),
        ("500 with nothing", reply(500, "application/json", ""), 502, "upstream_protocol"),
        ("refuses our credential", Script::status(401, "who are you"), 502, "upstream_protocol"),
        ("a redirect", reply(302, "text/plain", ""), 502, "upstream_protocol"),
        ("no content", reply(204, "application/json", ""), 502, "upstream_protocol"),
        ("half a head", wire("HTTP/1.1 200 OK\r\ncontent-ty"), 502, "upstream_reset"),
        ("two lengths", wire(TWO_LENGTHS), 502, "upstream_protocol"),
        ("chunks that are none", wire(BAD_CHUNK), 502, "upstream_protocol"),
    ]
}

#[tokio::test]
async fn a_backend_that_gives_no_answer_is_told_as_such_and_the_next_request_works() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    for ask in [Ask::chat(), Ask::streamed_chat()] {
        for (name, script, status, code) in no_answers() {
            println!("{name}");
            stage.mock.next(script);
            assert_refused(&connection.ask(ask.clone()).await.unwrap(), status, code);
            stage.mock.next(last_on_its_connection());
            assert_fine(&connection.ask(Ask::chat()).await.unwrap());
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
async fn a_backend_that_refuses_connections_is_a_502() {
    let (gone, mock) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let config = format!(
        "pools:\n- {{ name: gone, backends: [{{ name: a, url: \"{}\" }}], health: {{ every: 1h }} }}\n\
         - {{ name: here, backends: [{{ name: b, url: \"{}\" }}] }}\n\
         routes:\n- {{ model: gone, targets: [{{ pool: gone }}], {ROUTE} }}\n\
         - {{ model: {MODEL}, targets: [{{ pool: here }}] }}\n",
        gone.url(),
        mock.url()
    );
    drop(gone);
    let worker = TestWorker::start(&config).await.unwrap();
    let mut connection = connect(&worker).await;
    for stream in [false, true] {
        let ask = Ask::chat_with(json!({ "model": "gone", "stream": stream }));
        let answer = connection.ask(ask).await.unwrap();
        assert_refused(&answer, 502, "upstream_connect");
        assert_eq!(answer.json()["error"]["retryable"], true);
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_never_a_clean_end() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    stage.mock.next(Script::wrong_length(1000, r#"{"choices":[]}"#));
    assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 502, "upstream_reset");

    // Beyond what is held back to be retried, the client's own connection is cut.
    let start = format!("{{\"choices\":[\"{}", "x".repeat(2 * 1024 * 1024));
    stage.mock.next(Script::wrong_length(8 * 1024 * 1024, &start));
    assert!(connection.ask(Ask::chat()).await.is_err());
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn what_comes_behind_a_body_is_no_part_of_the_next_answer() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    stage.mock.next(Script::wrong_length(2, "{}HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"));
    let answer = connection.ask(Ask::chat()).await.unwrap();
    assert_eq!(answer.text(), "{}");
    for _ in 0..4 {
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_event_is_an_error_with_a_status() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let cases = [
        ("cut", Script::broken(0, [Step::Cut]), 502, "upstream_reset"),
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

/// What came stays, an error follows, and neither a `[DONE]` nor a clean-looking end.
#[track_caller]
fn assert_broken(transcript: &Transcript, content: &str, code: &str) {
    assert_eq!(transcript.status(), 200);
    assert_eq!((transcript.content().as_str(), transcript.code().as_str()), (content, code), "{}", transcript.text());
    assert!(!transcript.text().contains("[DONE]") && !transcript.text().contains("event:"), "{}", transcript.text());
    assert_eq!(transcript.error()["request_id"].as_str(), Some(transcript.header("x-request-id")));
}

#[tokio::test]
async fn a_stream_that_breaks_after_tokens_ends_with_an_error_and_without_done() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let cases: [(&str, Vec<Step>, &str); 6] = [
        ("cut", vec![Step::Cut], "upstream_reset"),
        ("reset", vec![Step::Reset], "upstream_reset"),
        ("clean end without a finish", vec![], "upstream_reset"),
        ("half an event", vec![Step::Raw("data: {\"cho".into()), Step::Cut], "upstream_reset"),
        ("huge event", vec![Step::Endless(HUNDRED_MEBIBYTES)], "upstream_protocol"),
        ("reset inside an event", vec![Step::Raw("data: {".into()), Step::Reset], "upstream_reset"),
    ];
    for (name, steps, code) in cases {
        println!("{name}");
        stage.mock.next(Script::broken(3, steps));
        assert_broken(&connection.transcript(Ask::streamed_chat()).await.unwrap(), "t0 t1 t2 ", code);
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn each_form_of_an_error_event_ends_the_stream_in_the_form_of_the_api() {
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
async fn an_error_object_with_status_200_is_an_error() {
    let stage = stage().await;
    let body = r#"{"error":{"message":"no such adapter","type":"BadRequestError","code":400}}"#;
    stage.mock.next(reply(200, "application/json", body));
    let answer = stage.connect().await.ask(Ask::streamed_chat()).await.unwrap();
    assert_refused(&answer, 400, "400");
    assert_eq!(answer.json()["error"]["message"], "no such adapter");
}

#[tokio::test]
async fn done_without_a_finish_is_no_clean_end() {
    let stage = stage().await;
    stage.mock.next(Script::broken(2, [Step::Done]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_broken(&transcript, "t0 t1 ", "upstream_reset");
}

#[tokio::test]
async fn memory_stays_bounded_while_a_huge_event_comes() {
    let stage = stage().await;
    stage.mock.next(Script::broken(1, [Step::Endless(HUNDRED_MEBIBYTES)]));
    let before = stage.mock.counts().cut;
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_broken(&transcript, "t0 ", "upstream_protocol");
    // It is cut long before its end: nobody reads on.
    stage.mock.cancelled(before + 1).await;
}

#[tokio::test]
async fn every_backend_down_is_a_503_that_says_when_to_come_again() {
    let (gone, spare) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let pool = "health: { every: 100ms, unhealthy_after: 1 }";
    let config = config(&[&gone, &spare], pool, ROUTE, "");
    gone.for_path("/health", Script::status(503, "warming up"));
    spare.for_path("/health", Script::status(503, "warming up"));
    let worker = TestWorker::start(&config).await.unwrap();
    for backend in ["gpu-0", "gpu-1"] {
        backend_is(&worker, backend, "unhealthy").await;
    }
    let answer = connect(&worker).await.ask(Ask::chat()).await.unwrap();
    assert_refused(&answer, 503, "no_healthy_backend");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
}
