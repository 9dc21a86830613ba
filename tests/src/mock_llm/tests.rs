//! The mock does on the wire what its scripts say.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_llm::Decoder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::ledger::token::Token;

const CHAT: &str = "/v1/chat/completions";

/// Sends one request on a connection of its own and leaves it open.
async fn connect(mock: &MockLlm, path: &str, body: &Value) -> TcpStream {
    let mut tcp = TcpStream::connect(mock.address()).await.unwrap();
    let body = body.to_string();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    tcp.write_all((head + &body).as_bytes()).await.unwrap();
    tcp
}

/// Everything that comes back, and how it ended.
async fn ask(mock: &MockLlm, path: &str, body: &Value) -> (String, io::Result<()>) {
    let mut tcp = connect(mock, path, body).await;
    let mut bytes = Vec::new();
    let end = tcp.read_to_end(&mut bytes).await.map(drop);
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

/// The events of a chunked reply.
async fn events(mock: &MockLlm, path: &str, body: &Value) -> Vec<String> {
    let (reply, _) = ask(mock, path, body).await;
    let (head, mut rest) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut decoder = Decoder::new(1_000_000);
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        decoder.feed(&after.as_bytes()[..length]).unwrap();
        rest = after[length..].trim_start_matches("\r\n");
    }
    decoder.map(|event| event.data).collect()
}

fn streamed(with: Value) -> Value {
    let mut body = json!({ "model": MODEL, "stream": true });
    body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    body
}

fn content(event: &str) -> Value {
    serde_json::from_str::<Value>(event).unwrap()["choices"][0]["delta"]["content"].clone()
}

#[tokio::test]
async fn a_script_without_a_reply_just_closes() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::no_reply());
    assert_eq!(ask(&mock, CHAT, &json!({})).await.0, "");
    assert_eq!(mock.counts().cut, 0);
}

#[tokio::test]
async fn garbage_is_not_http() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::garbage());
    assert!(ask(&mock, CHAT, &json!({})).await.0.starts_with("\u{16}\u{3}\u{1} this is not"));
}

#[tokio::test]
async fn a_content_length_can_lie_both_ways() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::wrong_length(100, "{}"));
    let (reply, _) = ask(&mock, CHAT, &json!({})).await;
    assert!(reply.ends_with("content-length: 100\r\n\r\n{}"), "{reply}");

    mock.next(Script::wrong_length(2, "{}surplus"));
    let mut tcp = connect(&mock, CHAT, &json!({})).await;
    let mut bytes = vec![0; 1_000];
    let length = tcp.read(&mut bytes).await.unwrap();
    assert!(bytes[..length].ends_with(b"content-length: 2\r\n\r\n{}surplus"));
    assert_eq!(mock.counts().connections, 1, "the connection stays open");
}

#[tokio::test]
async fn a_cut_stream_has_its_tokens_but_no_end() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::broken(2, [Step::Cut]));
    let (reply, end) = ask(&mock, CHAT, &streamed(json!({}))).await;
    assert!(reply.contains("t1 ") && !reply.ends_with("0\r\n\r\n"), "{reply}");
    assert!(end.is_ok());
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::broken(1, [Step::Reset]));
    let (_, end) = ask(&mock, CHAT, &streamed(json!({}))).await;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_endless_event_has_as_many_bytes_as_told() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::broken(0, [Step::Endless(200_000), Step::Cut]));
    let (reply, _) = ask(&mock, CHAT, &streamed(json!({}))).await;
    assert_eq!(reply.bytes().filter(|byte| *byte == b'x').count() - reply.matches("text/").count(), 200_000);
    assert_eq!(reply.matches("data: ").count(), 1);
}

#[tokio::test]
async fn bytes_are_repeated_and_garbage_is_made_while_it_is_written() {
    let mock = MockLlm::start().unwrap();
    mock.next("raw \"<ab>\" times 3 every 1ms\ngarbage 200000\nraw \"<end>\"".parse().unwrap());
    let mut tcp = connect(&mock, CHAT, &json!({})).await;
    let mut reply = Vec::new();
    tcp.read_to_end(&mut reply).await.unwrap();
    let text = String::from_utf8_lossy(&reply);
    assert_eq!((text.matches("<ab>").count(), text.matches("<end>").count()), (3, 1), "{text}");
    assert_eq!(reply.iter().filter(|byte| **byte >= 128).count(), 200_000);
}

#[tokio::test]
async fn statuses_pages_and_headers_are_sent_as_told() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::retry_after(429, 3));
    let (reply, _) = ask(&mock, CHAT, &json!({})).await;
    assert!(reply.starts_with("HTTP/1.1 429") && reply.contains("retry-after: 3"), "{reply}");
    mock.next(Script::html());
    assert!(ask(&mock, CHAT, &json!({})).await.0.contains("content-type: text/html\r\n"));
    mock.next(Script::raw(["data: x\n\n"]).header("x-mock", "1"));
    assert!(ask(&mock, CHAT, &json!({})).await.0.contains("x-mock: 1\r\n"));
}

#[test]
fn only_faults_have_names() {
    assert!(matches!(Script::named("status-503"), Some(Script::Reply { status: 503, .. })));
    assert!(matches!(Script::named("cut"), Some(Script::Stream(_))));
    for name in Script::NAMES {
        assert!(Script::named(name).is_some(), "{name}");
    }
    for unknown in ["status-200", "status-", "status-1000", "cuts", ""] {
        assert!(Script::named(unknown).is_none(), "{unknown}");
    }
}

#[tokio::test]
async fn every_error_form_is_an_event_that_the_watch_calls_a_failure() {
    let call =
        ntonix_llm::Call::parse(ntonix_llm::Op::ChatCompletions, r#"{"model":"m","stream":true}"#.into()).unwrap();
    for form in ErrorForm::ALL {
        let mut watch = ntonix_llm::Watch::new(&call, false);
        watch.event(&ntonix_llm::Block::new(form.event().as_bytes()));
        let ntonix_llm::Ending::Failed(error) = watch.ending() else { panic!("{form:?}") };
        assert_eq!(error.message, "the mock broke");
    }
}

#[tokio::test]
async fn a_chat_streams_role_tokens_finish_and_done() {
    let mock = MockLlm::start().unwrap();
    let events = events(&mock, CHAT, &streamed(json!({ "max_tokens": 2 }))).await;
    assert_eq!(events.len(), 5);
    assert!(events[0].contains(r#""delta":{"role":"assistant","content":""}"#));
    assert_eq!([content(&events[1]), content(&events[2])], ["t0 ", "t1 "]);
    assert!(events[3].contains(r#""finish_reason":"stop""#));
    assert_eq!(events[4], "[DONE]");
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let mock = MockLlm::start().unwrap();
    let body = streamed(json!({ "stream_options": { "include_usage": true }, "n": 2, "max_tokens": 1 }));
    let events = events(&mock, CHAT, &body).await;
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 2);
    assert_eq!(events.iter().filter(|event| event.contains(r#""index":1"#)).count(), 3);
}

#[tokio::test]
async fn whole_answers_have_the_shape_of_their_operation() {
    let mock = MockLlm::start().unwrap();
    for (path, pointer, expected) in [
        (CHAT, "/choices/0/message/content", json!("t0 t1 ")),
        ("/v1/completions", "/choices/0/text", json!("t0 t1 ")),
        ("/v1/embeddings", "/data/0/embedding/0", json!(0.25)),
    ] {
        let (reply, _) = ask(&mock, path, &json!({ "model": "m", "max_tokens": 2 })).await;
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body.pointer(pointer), Some(&expected), "{path}");
        assert_eq!(body["model"], "m");
    }
    assert_eq!(mock.counts().attempts, 3);
    assert!(ask(&mock, "/v1/models", &json!({})).await.0.contains(MODEL));
    assert!(ask(&mock, "/health", &json!({})).await.0.starts_with("HTTP/1.1 200"));
    assert!(ask(&mock, "/nowhere", &json!({})).await.0.starts_with("HTTP/1.1 404"));
    assert_eq!((mock.counts().attempts, mock.counts().requests, mock.requests().len()), (3, 6, 6));
}

#[tokio::test]
async fn a_token_for_a_reader_that_checks_carries_stream_attempt_number_and_time() {
    let mock = MockLlm::start().unwrap();
    let before = now_ns();
    for count in 0..2 {
        let events = events(&mock, CHAT, &streamed(json!({ "max_tokens": 2, "user": "u-1" }))).await;
        for number in 0..2 {
            let text = content(&events[number + 1]);
            let token = Token::parse(text.as_str().unwrap().trim_end().as_bytes()).unwrap();
            assert_eq!((token.stream, token.number), ("u-1", number as u64));
            assert_eq!(token.attempt, mock.ledger()[count].attempt);
            assert!((before..=now_ns()).contains(&token.sent_ns));
        }
    }
}

#[tokio::test]
async fn the_books_say_of_each_attempt_what_was_written_and_how_it_ended() {
    let mock = MockLlm::start().unwrap();
    let body = streamed(json!({ "user": "u-1" }));
    let wire = Script::Wire { bytes: "x".into(), end: End::Close };
    let cases = [
        (Script::answer(3), 3, Ended::Complete),
        (Script::broken(2, [Step::Cut]), 2, Ended::Fault),
        (Script::broken(2, []), 2, Ended::Fault),
        (Script::broken(1, [Step::finish("stop"), Step::Error(ErrorForm::OpenAi)]), 1, Ended::Fault),
        (Script::broken(1, [Step::finish("stop")]), 1, Ended::Complete),
        (Script::status(503, "no"), 0, Ended::Fault),
        (wire, 0, Ended::Fault),
    ];
    for (script, tokens, ended) in cases {
        println!("{script:?}");
        mock.next(script);
        drop(ask(&mock, CHAT, &body).await);
        let attempt = mock.ledger().pop().unwrap();
        assert_eq!((attempt.tokens, attempt.ended, attempt.stream.as_deref()), (tokens, ended, Some("u-1")));
        assert!(attempt.ended_ns.unwrap() >= attempt.begun_ns);
    }
    let (page, _) = ask(&mock, "/mock/ledger", &json!({})).await;
    let lines = page.split_once("\r\n\r\n").unwrap().1.lines();
    let attempts: Vec<Attempt> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(attempts, mock.ledger());
}

#[tokio::test]
async fn the_books_tell_an_open_attempt_from_one_whose_client_left() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::broken(2, [Step::Hang]));
    let mut tcp = TcpStream::connect(mock.address()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\nx-request-id: req-1\r\ncontent-length: 2\r\n\r\n{}";
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("t1 ") {
        let mut bytes = [0; 4_096];
        let length = tcp.read(&mut bytes).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    let open = mock.ledger().remove(0);
    assert_eq!((open.ended, open.ended_ns, open.tokens, open.stream), (Ended::Open, None, 2, None));
    assert_eq!(open.exchange.as_deref(), Some("req-1"));
    drop(tcp);
    mock.cancelled(1).await;
    assert_eq!(mock.ledger()[0].ended, Ended::Cut);
    assert!(mock.ledger()[0].ended_ns.is_some());
}

#[tokio::test]
async fn a_gate_lets_one_token_pass_at_a_time() {
    let mock = MockLlm::start().unwrap();
    let gate = Gate::new();
    mock.next(Script::gated(3, &gate));
    let mut tcp = connect(&mock, CHAT, &streamed(json!({}))).await;
    let mut seen = String::new();
    for token in ["t0 ", "t1 ", "t2 "] {
        assert!(!seen.contains(token));
        gate.open(1);
        while !seen.contains(token) {
            let mut bytes = [0; 4_096];
            let length = tcp.read(&mut bytes).await.unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_before_and_after_the_head() {
    let mock = MockLlm::start().unwrap();
    for script in [Script::hang(), Script::broken(1, [Step::Hang])] {
        let seen = mock.counts();
        mock.next(script);
        let tcp = connect(&mock, CHAT, &streamed(json!({ "user": "gone" }))).await;
        mock.attempts(seen.attempts + 1).await;
        assert_eq!(mock.counts().active, 1);
        drop(tcp);
        mock.cancelled(seen.cut + 1).await;
        assert_eq!(mock.counts().active, 0);
    }
    assert!(mock.cuts().iter().all(|cut| cut.user.as_deref() == Some("gone")));
    let (reply, _) = ask(&mock, "/mock/cuts", &json!({})).await;
    let cuts: Vec<Cut> = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(cuts, mock.cuts());
}

#[tokio::test]
async fn scripts_go_by_path_then_queue_then_model_then_default() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::status(500, "default"));
    mock.for_model("m", Script::status(501, "model"));
    mock.next(Script::status(502, "queue"));
    mock.for_path("/health", Script::status(503, "path"));
    let status = async |path: &str, model: &str| {
        let (reply, _) = ask(&mock, path, &json!({ "model": model })).await;
        reply["HTTP/1.1 ".len()..][..3].to_owned()
    };
    assert_eq!(status("/health", "m").await, "503");
    assert_eq!(status(CHAT, "m").await, "502");
    assert_eq!(status(CHAT, "m").await, "501");
    assert_eq!(status(CHAT, "x").await, "500");
    mock.for_path("/health", None);
    assert_eq!(status("/health", "m").await, "200");
}

#[tokio::test]
async fn a_script_that_cannot_be_meant_is_refused_over_the_wire() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::status(500, "default"));
    let post = async |query: &str, body: &str| {
        let mut tcp = TcpStream::connect(mock.address()).await.unwrap();
        let length = body.len();
        let head =
            format!("POST /mock/script{query} HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: {length}");
        tcp.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut reply = String::new();
        tcp.read_to_string(&mut reply).await.unwrap();
        reply
    };
    for (query, body, told) in [
        ("?modl=x", "answer", "there is no parameter \"modl\", only \"model\""),
        ("?model=x&now=1", "answer", "there is no parameter \"now\", only \"model\""),
        ("?model=", "answer", "the name of the model is missing"),
        ("?model", "answer", "the name of the model is missing"),
        ("?model=x", " \n", "the script is empty; DELETE takes one back"),
        ("", "", "the script is empty; DELETE takes one back"),
    ] {
        let reply = post(query, body).await;
        assert!(reply.starts_with("HTTP/1.1 400") && reply.contains(told), "{query}: {reply}");
    }
    let (reply, _) = ask(&mock, CHAT, &json!({ "model": "x" })).await;
    assert!(reply.starts_with("HTTP/1.1 500"), "nothing was changed: {reply}");
    assert!(post("?model=x", "status 404").await.starts_with("HTTP/1.1 204"));
    let (reply, _) = ask(&mock, CHAT, &json!({ "model": "x" })).await;
    assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_and_a_cut_resets_the_stream() {
    let mock = MockLlm::start().unwrap();
    let tcp = TcpStream::connect(mock.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tasks::spawn("test-connection", connection);
    let mut ask = async |script| {
        mock.next(script);
        let request = Request::post(format!("{}{CHAT}", mock.url())).body(r#"{"stream":true}"#.to_owned()).unwrap();
        sender.send_request(request).await.unwrap().into_body().collect().await
    };
    let error = ask(Script::broken(1, [Step::Cut])).await.unwrap_err();
    assert!(format!("{error:?}").contains("Reset"), "{error:?}");
    assert!(ask(Script::answer(1)).await.unwrap().to_bytes().ends_with(b"[DONE]\n\n"));
    assert_eq!((mock.requests()[1].version, mock.counts().connections_ever), (http::Version::HTTP_2, 1));
}

#[tokio::test]
async fn tls_is_served_with_the_given_configuration() {
    ntonix_runtime::tls::install_provider();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let server =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![pair.cert.der().clone()], key);
    let mock = MockLlm::start_with(Options { tls: Some(Arc::new(server.unwrap())), ..Options::default() }).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(mock.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, tcp).await.unwrap();
    tls.write_all(b"GET /health HTTP/1.1\r\nhost: mock\r\n\r\n").await.unwrap();
    let mut reply = [0; 12];
    tls.read_exact(&mut reply).await.unwrap();
    assert_eq!((&reply, mock.url().split_once(':').unwrap().0), (b"HTTP/1.1 200", "https"));
}

#[tokio::test]
async fn a_mock_that_is_dropped_closes_its_connections() {
    let mock = MockLlm::start().unwrap();
    mock.next(Script::hang());
    let mut tcp = connect(&mock, CHAT, &json!({})).await;
    mock.attempts(1).await;
    let address = mock.address();
    drop(mock);
    assert!(matches!(tcp.read(&mut [0; 10]).await, Ok(0) | Err(_)));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn paced_tokens_are_due_by_the_clock_not_by_the_one_before() {
    let mut clock = play::Clock::default();
    let pace = Pace::Every(Duration::from_millis(20));
    let start = tokio::time::Instant::now();
    for (number, late) in [(0, 15), (1, 15), (2, 0)] {
        clock.wait(&pace, number).await;
        assert_eq!(start.elapsed(), Duration::from_millis(20 * number));
        tokio::time::advance(Duration::from_millis(late)).await;
    }
}
