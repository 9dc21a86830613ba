//! What the check calls wrong, what `/proc` means, and every mode against a mock.

use clap::Parser as _;
use futures_util::{SinkExt as _, StreamExt as _};
use ntonix_tests::ledger::token::Token;
use ntonix_tests::mock_llm::{ErrorForm, MockLlm, Script, Step};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;
use crate::process::{cpu_ticks, resident_kib};
use crate::tally::{Check, Tally};

fn checked(events: &[&str]) -> Tally {
    let mut tally = Tally::new().unwrap();
    let mut check = Check::new("n-1".to_owned(), 3);
    for event in events {
        check.event(event.as_bytes(), &mut tally);
    }
    check.settle(None, &mut tally);
    tally
}

fn wrong(events: &[&str]) -> [u64; 5] {
    let wrong = checked(events).wrong;
    [wrong.lost, wrong.doubled, wrong.reordered, wrong.foreign, wrong.truncated]
}

const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
const DONE: &str = "[DONE]";

fn token(stream: &str, attempt: &str, number: u64) -> String {
    Token { stream, attempt, number, sent_ns: 1 }.to_string()
}

fn chunk(content: &str) -> String {
    format!(r#"{{"choices":[{{"delta":{{"content":"{content}"}},"finish_reason":null}}]}}"#)
}

fn chunks() -> [String; 3] {
    [0, 1, 2].map(|number| chunk(&token("n-1", "a-1", number)))
}

#[test]
fn every_kind_of_wrong_token_is_told_apart() {
    let [t0, t1, t2] = &chunks();
    assert_eq!(wrong(&[t0, t2, STOP, DONE]), [1, 0, 0, 0, 0], "lost");
    assert_eq!(wrong(&[t0, t1, DONE]), [1, 0, 0, 0, 0], "lost at the end");
    assert_eq!(wrong(&[t0, t1, t1, t2, STOP, DONE]), [0, 1, 0, 0, 0], "doubled");
    assert_eq!(wrong(&[t1, t0, t2, STOP, DONE]), [0, 0, 1, 0, 0], "reordered");
    assert_eq!(wrong(&[t0, t1, t2, STOP]), [0, 0, 0, 0, 1], "without [DONE]");
    assert_eq!(wrong(&[t0, t1, t2, DONE]), [0, 0, 0, 0, 1], "without a finish reason");
    let good = token("n-1", "a-1", 0);
    let foreign = [token("n-2", "a-1", 0), token("n-1", "a-1", 9), token("n-1", "a-2", 1), good.replace(".1.", ".2.")];
    for foreign in foreign.iter().map(String::as_str).chain(["n-1.0 ", "hello "]) {
        assert_eq!(wrong(&[t0, &chunk(foreign), t1, t2, STOP, DONE]), [0, 0, 0, 1, 0], "{foreign}");
    }
}

#[test]
fn a_right_answer_is_complete() {
    let [t0, t1, t2] = &chunks();
    let tally = checked(&[ROLE, t0, t1, t2, STOP, DONE]);
    assert_eq!((tally.complete, tally.tokens, tally.failed.len(), tally.wrong.total()), (1, 3, 0, 0));
    let content: String = [0, 1, 2].map(|number| token("n-1", "a-1", number)).concat();
    let whole = format!(r#"{{"choices":[{{"message":{{"content":"{content}"}},"finish_reason":"stop"}}]}}"#);
    assert_eq!(checked(&[&whole, DONE]).complete, 1);
}

#[test]
fn an_error_that_is_told_is_a_failure_and_no_wrong_token() {
    let tally = checked(&[&chunks()[0], r#"{"error":{"message":"m","type":"t","code":"upstream_reset"}}"#]);
    assert_eq!((tally.failed["upstream_reset"], tally.wrong.total()), (1, 0));
}

#[test]
fn proc_is_read_whatever_the_process_is_called() {
    let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 100 1000 50";
    assert_eq!(cpu_ticks(stat), Some(175));
    assert_eq!(resident_kib("Name:\tx\nVmPeak:\t 900 kB\nVmRSS:\t  512 kB\n"), Some(512));
    assert_eq!((cpu_ticks("12 (a"), resident_kib("Name:\tx\n")), (None, None));
}

async fn drive_with(line: &str) -> Report {
    let settings = Settings::parse_from(line.split(' '));
    let Work::Drive(mode, departure, load) = settings.command.work() else { panic!("{line} drives nothing") };
    drive(mode, departure, *load).await.unwrap()
}

#[tokio::test]
async fn every_http_mode_runs_clean_against_a_sound_mock() {
    let mock = MockLlm::start().unwrap();
    let url = mock.url();
    for mode in [
        "unary --count 50",
        "fast --count 20 --tokens 30",
        "paced --count 6 --tokens 3 --pause 2ms",
        "held --duration 50ms",
        "unary --over http2 --sockets 2 --count 50",
        "fast --over http2 --sockets 2 --count 20 --tokens 30 --together 1",
        "held --over http2 --sockets 1 --duration 50ms --prompt 100000",
        "held --duration 50ms --tokens 3 --leave-after 2 --count 5",
        "held --over http2 --sockets 1 --duration 50ms --tokens 3 --leave-after 2 --count 5",
    ] {
        let report = drive_with(&format!("load {mode} --streams 5 --url {url}")).await;
        assert!(report.is_clean(), "{report}");
        let again: Report = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(again.to_string(), report.to_string());
    }
    assert_eq!(mock.counts().attempts, 2 * (50 + 20) + 6 + 4 * 5);
}

#[tokio::test]
async fn clients_that_leave_in_the_middle_have_what_they_wanted_and_no_more() {
    let mock = MockLlm::start().unwrap();
    for over in ["http1", "http2"] {
        let line = format!(
            "load held --over {over} --streams 5 --duration 2s --pause 50ms --tokens 4 --leave-after 2 --count 5"
        );
        let report = drive_with(&format!("{line} --url {}", mock.url())).await;
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.complete, report.tokens, report.open_most), (5, 10, 5), "{report}");
    }
    mock.cancelled(10).await;
}

#[tokio::test]
async fn cancels_are_timed_by_what_the_mock_saw() {
    let mock = MockLlm::start().unwrap();
    let url = mock.url();
    let mut cut = 0;
    for how in ["", "--over http2", "--waiting", "--whole", "--over http2 --waiting"] {
        let line = format!("load cancel {how} --count 20 --streams 4 --pause 1ms --url {url} --mock {url}");
        let report = drive_with(&line.replace("  ", " ")).await;
        assert!(report.is_clean(), "{report}");
        assert!(report.to_string().contains("  cut          p50"), "{report}");
        assert!(report.to_string().contains("  requests     20 left, 0 failed, "), "{report}");
        let first = report.to_string().lines().next().unwrap().to_owned();
        assert_eq!(first.contains(" waiting"), how.contains("--waiting"), "{first}");
        cut += 20;
        assert_eq!(mock.counts().cut, cut, "{how}");
    }
}

#[test]
fn a_run_of_no_request_is_refused() {
    let wrong = Settings::try_parse_from("load fast --count 0".split(' ')).unwrap_err().to_string();
    assert!(wrong.contains("--count"), "{wrong}");
}

/// Speaks just enough of `ntonix.v1` for clients that leave: a token for each create, an end for each cancel.
async fn speak_until_cancelled(mut socket: tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>) {
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let frame: Value = serde_json::from_str(&text).unwrap();
        let id = frame["id"].as_str().unwrap();
        let answer = if frame["t"] == "create" {
            let choice = json!({ "delta": { "content": token(id, "a-1", 0) }, "finish_reason": null });
            json!({ "t": "delta", "id": id, "seq": 0, "d": { "choices": [choice] } })
        } else {
            json!({ "t": "error", "id": id, "error": { "code": "cancelled" } })
        };
        socket.send(Message::text(answer.to_string())).await.unwrap();
    }
}

/// The mock knows nothing of these requests, so each of them failed, and is not called left as well.
#[tokio::test]
async fn tokens_of_a_socket_that_is_left_are_counted_and_a_cut_that_nobody_saw_has_only_failed() {
    let mock = MockLlm::start().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = ntonix_runtime::tasks::spawn("server", async move {
        let tcp = listener.accept().await.unwrap().0;
        speak_until_cancelled(accept(tcp).await).await;
    });
    let line = format!("load cancel --over ws --count 3 --streams 1 --pause 1ms --url {url} --mock {}", mock.url());
    let told = drive_with(&line).await.to_string();
    assert!(told.contains("\n  tokens       3, "), "{told}");
    assert!(told.contains("\n  first token  p50") && told.contains("\n  travel       p50"), "{told}");
    assert!(told.contains("  requests     0 left, 3 failed, "), "{told}");
    assert!(told.contains("3 × the backend never saw the cut"), "{told}");
    server.await.unwrap();
}

async fn accept(tcp: tokio::net::TcpStream) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    let choose = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", "ntonix.v1".parse().unwrap());
        Ok(response)
    };
    tokio_tungstenite::accept_hdr_async(tcp, choose).await.unwrap()
}

/// Speaks just enough of `ntonix.v1`: answers each create with two tokens, the last of the fourth stream twice.
async fn speak_frames(tcp: tokio::net::TcpStream) {
    let mut socket = accept(tcp).await;
    socket.send(Message::text(r#"{"t":"ready","session":"s"}"#)).await.unwrap();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        let create: Value = serde_json::from_str(&text).unwrap();
        let id = create["id"].as_str().unwrap();
        assert_eq!((&create["t"], &create["op"]), (&json!("create"), &json!("chat.completions")));
        let mut numbers = vec![0, 1];
        if id.ends_with("-3") {
            numbers.push(1);
        }
        for number in numbers {
            let choice = json!({ "delta": { "content": token(id, "a-1", number) }, "finish_reason": "stop" });
            let delta = json!({ "t": "delta", "id": id, "seq": number, "d": { "choices": [choice] } });
            socket.send(Message::text(delta.to_string())).await.unwrap();
        }
        socket.send(Message::text(json!({ "t": "done", "id": id, "seq": 1 }).to_string())).await.unwrap();
    }
}

#[tokio::test]
async fn streams_on_a_websocket_are_checked_one_by_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = ntonix_runtime::tasks::spawn("server", async move {
        let sockets = [listener.accept().await.unwrap().0, listener.accept().await.unwrap().0];
        futures_util::future::join_all(sockets.map(speak_frames)).await;
    });
    let report = drive_with(&format!("load ws --streams 5 --sockets 2 --tokens 2 --count 10 --url {url}")).await;
    assert!(report.to_string().contains("answers      10 complete, 0 failed"), "{report}");
    assert!(report.to_string().contains("0 lost, 1 doubled, 0 reordered, 0 foreign; 0 answers truncated"), "{report}");
    assert!(!report.is_clean());
    server.await.unwrap();
}

#[tokio::test]
async fn a_broken_answer_makes_the_run_unclean() {
    let mock = MockLlm::start().unwrap();
    for (script, told) in [
        (Script::broken(3, []), "1 answers truncated"),
        (Script::broken(3, [Step::Cut]), "× "),
        (Script::broken(1, [Step::Error(ErrorForm::OpenAi)]), "1 × broken"),
        (Script::status(503, "away"), "1 × mock"),
    ] {
        mock.next(script);
        let report = drive_with(&format!("load fast --count 1 --streams 1 --tokens 3 --url {}", mock.url())).await;
        assert!(!report.is_clean() && report.to_string().contains(told), "{report}");
    }
}
