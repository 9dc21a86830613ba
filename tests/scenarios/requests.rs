//! Requests that are no good: the status, the code, and that the next one on the same connection works.

use http::Method;
use ntonix_config::KeyDigest;
use ntonix_tests::client::{Ask, CHAT, Connection, EMBEDDINGS, MODELS, RawConnection};
use ntonix_tests::mock_llm::MODEL;
use serde_json::json;

use crate::stage::{Stage, assert_fine, assert_refused};

const KEY: &str = "ntx_0000000000000000000000000000000000000000000";
const OTHER: &str = "ntx_1111111111111111111111111111111111111111111";
const EXPIRED: &str = "ntx_2222222222222222222222222222222222222222222";

/// Two tenants, one of which may not ask for the mock's model, and a key that is past its time.
async fn stage_with_keys() -> Stage {
    let digest = |key: &str| KeyDigest::of(key.as_bytes());
    let rest = format!(
        "tenants: [{{ name: research }}, {{ name: guests, models: [\"tiny-*\"] }}]\n\
         keys: [{{ name: alice, tenant: research, digest: \"{}\" }}, {{ name: bob, tenant: guests, digest: \"{}\" }},\n\
         {{ name: old, tenant: research, digest: \"{}\", expires: 2020-01-01T00:00:00Z }}]\n",
        digest(KEY),
        digest(OTHER),
        digest(EXPIRED)
    );
    Stage::with("", "", &rest).await
}

fn nested(depth: usize) -> String {
    // The body itself is the first level.
    let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
    format!("{{\"model\":\"{MODEL}\",\"messages\":{open}{close}}}")
}

#[tokio::test]
async fn a_body_that_is_no_good_is_refused_with_its_reason_and_never_reaches_a_backend() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let bodies = [
        ("", "invalid_json", ""),
        ("hello", "invalid_json", ""),
        ("{\"model\":\"m\"", "invalid_json", ""),
        ("{\"model\":\"m\"}}", "invalid_json", ""),
        ("\u{feff}{}", "invalid_json", ""),
        ("[]", "bad_request", ""),
        ("\"model\"", "bad_request", ""),
        ("null", "bad_request", ""),
        ("{}", "bad_request", "model"),
        ("{\"model\":7}", "bad_request", "model"),
        ("{\"model\":\"\"}", "bad_request", "model"),
        ("{\"model\":\"m\",\"model\":\"n\"}", "bad_request", ""),
        ("{\"model\":\"m\",\"stream\":\"yes\"}", "bad_request", "stream"),
        ("{\"model\":\"m\",\"n\":0}", "bad_request", "n"),
        ("{\"model\":\"m\",\"n\":129}", "bad_request", "n"),
    ];
    for (body, code, param) in bodies {
        let answer = connection.ask(Ask::post(CHAT, body)).await.unwrap();
        println!("{body}: {}", answer.text());
        assert_refused(&answer, 400, code);
        assert_eq!(answer.json()["error"]["param"].as_str().unwrap_or_default(), param, "{body}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(stage.mock.counts().attempts, 0);
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn sixty_four_levels_are_read_and_sixty_five_are_not() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let deep = connection.ask(Ask::post(CHAT, nested(65))).await.unwrap();
    assert!(matches!(deep.code().as_str(), "bad_request" | "invalid_json"), "{}", deep.text());
    assert_refused(&deep, 400, &deep.code());
    let deepest = connection.ask(Ask::post(CHAT, nested(100_000))).await.unwrap();
    assert_refused(&deepest, 400, &deep.code());
    assert_fine(&connection.ask(Ask::post(CHAT, nested(64))).await.unwrap());
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_whether_it_says_its_length_or_not() {
    let stage = Stage::new().await;
    let body = "x".repeat(33 * 1024 * 1024);
    // The connection may be closed: what is left of the body is not read.
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head).await.unwrap();
    let head = raw.read_until("\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(raw.read_until("}}").await.unwrap().contains("\"request_too_large\""));

    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    raw.send(head).await.unwrap();
    let piece = format!("100000\r\n{}\r\n", "x".repeat(0x10_0000));
    for _ in 0..33 {
        // It may be refused before it is all sent.
        if raw.send(&piece).await.is_err() {
            break;
        }
    }
    let head = raw.read_until("\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");

    let mut http2 = Connection::open_http2(stage.worker.address()).await.unwrap();
    assert_refused(&http2.ask(Ask::post(CHAT, body)).await.unwrap(), 413, "request_too_large");
    assert_fine(&http2.ask(Ask::chat()).await.unwrap());
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_body_just_below_the_limit_passes() {
    let stage = Stage::new().await;
    let text = "x".repeat(31 * 1024 * 1024);
    let ask = Ask::chat_with(json!({ "messages": [{ "role": "user", "content": text }] }));
    assert_fine(&stage.connect().await.ask(ask).await.unwrap());
}

#[tokio::test]
async fn a_model_that_nobody_serves_is_a_404_that_names_it() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for stream in [false, true] {
        let answer = connection.ask(Ask::chat_with(json!({ "model": "gpt-9", "stream": stream }))).await.unwrap();
        assert_refused(&answer, 404, "model_not_found");
        assert_eq!(answer.json()["error"]["param"], "model");
        assert!(answer.text().contains("gpt-9"));
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_model_that_the_tenant_may_not_use_is_a_403() {
    let stage = stage_with_keys().await;
    let mut connection = stage.connect().await;
    assert_refused(&connection.ask(Ask::chat().key(OTHER)).await.unwrap(), 403, "forbidden");
    assert_eq!(stage.mock.counts().attempts, 0);
    assert_fine(&connection.ask(Ask::chat().key(KEY)).await.unwrap());
}

#[tokio::test]
async fn other_media_types_and_compressed_bodies_are_refused() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let ask = Ask::chat().without("content-type");
    let typed = |media_type: &'static str| ask.clone().header("content-type", media_type);
    for media_type in ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "json"] {
        assert_refused(&connection.ask(typed(media_type)).await.unwrap(), 415, "unsupported_media_type");
    }
    for encoding in ["gzip", "br", "identity, gzip"] {
        let compressed = Ask::chat().header("content-encoding", encoding);
        assert_refused(&connection.ask(compressed).await.unwrap(), 415, "unsupported_encoding");
    }
    for media_type in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_fine(&connection.ask(typed(media_type)).await.unwrap());
    }
    assert_fine(&connection.ask(ask).await.unwrap());
}

#[tokio::test]
async fn a_key_that_is_none_is_a_401_and_nothing_else_is_looked_at() {
    let stage = stage_with_keys().await;
    let mut connection = stage.connect().await;
    let long = "x".repeat(32 * 1024);
    let asks = [
        Ask::chat(),
        Ask::chat().key("ntx_nobody"),
        Ask::chat().key(EXPIRED),
        Ask::chat().key(&long),
        Ask::chat().key(""),
        Ask::chat().header("authorization", "Basic YTpi"),
        Ask::chat().header("authorization", b"Bearer \xff\xfe".as_slice()),
        Ask::chat().key(KEY).key(KEY),
        Ask::chat().key(KEY).header("x-api-key", OTHER),
        // Neither the body nor its type are looked at for someone without a key.
        Ask::post(CHAT, "not JSON"),
        Ask::post(EMBEDDINGS, "{}").without("content-type").header("content-type", "text/plain"),
        Ask::get(MODELS),
    ];
    for ask in asks {
        let answer = connection.ask(ask).await.unwrap();
        assert_refused(&answer, 401, "invalid_api_key");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    assert_eq!(stage.mock.counts().attempts, 0);
    for ask in [Ask::chat().key(KEY), Ask::chat().header("x-api-key", KEY)] {
        assert_fine(&connection.ask(ask).await.unwrap());
    }
}

#[tokio::test]
async fn a_key_of_a_megabyte_is_refused_and_the_worker_serves_on() {
    let stage = stage_with_keys().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let long = "x".repeat(1024 * 1024);
    let head = format!("GET {MODELS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {long}\r\n\r\n");
    // Refused before all of it is sent, perhaps.
    let _ = raw.send(head).await;
    let answer = raw.read_to_end().await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let mut http2 = Connection::open_http2(stage.worker.address()).await.unwrap();
    match http2.ask(Ask::get(MODELS).key(&long)).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => println!("{error:#}"),
    }
    assert_fine(&stage.connect().await.ask(Ask::chat().key(KEY)).await.unwrap());
}

#[tokio::test]
async fn without_keys_a_configuration_serves_whoever_comes_over_loopback() {
    let stage = Stage::new().await;
    // SDKs always send some key.
    assert_fine(&stage.connect().await.ask(Ask::chat().key("anything")).await.unwrap());
}

#[tokio::test]
async fn paths_that_are_not_there_and_methods_that_are_not_taken_say_so() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for path in ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/metrics", "/v1/responses", "/v1/messages"] {
        let answer = connection.ask(Ask::get(path)).await.unwrap();
        assert_refused(&answer, 404, "not_found");
    }
    let answer = connection.ask(Ask::post("/v1/responses", "{}")).await.unwrap();
    assert_refused(&answer, 404, "not_found");
    assert!(answer.text().contains("/v1/responses is not served by this gateway yet"), "{}", answer.text());

    for (method, path) in [(Method::GET, CHAT), (Method::PUT, CHAT), (Method::DELETE, CHAT), (Method::POST, MODELS)] {
        let answer = connection.ask(Ask::new(method, path)).await.unwrap();
        assert_refused(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), if path == CHAT { "POST" } else { "GET, HEAD" });
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn head_has_the_headers_and_no_body() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for (path, status) in [(MODELS, 200), ("/v1/models/mock-model", 200), ("/v1/models/none", 404), (CHAT, 405)] {
        let answer = connection.ask(Ask::new(Method::HEAD, path)).await.unwrap();
        assert_eq!((answer.status(), answer.body().len()), (status, 0), "{path}");
        assert!(answer.header("content-length").parse::<u64>().unwrap() > 0);
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn what_is_not_http_gets_a_400_or_nothing_and_the_worker_serves_on() {
    let stage = Stage::new().await;
    let requests = [
        "hello\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "GET / HTTP/9.9\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
    ];
    for request in requests {
        let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(request).await.unwrap();
        raw.finish().await.unwrap();
        let answer = raw.read_to_end().await.unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
    }
    assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_body_whose_length_is_said_in_two_ways_is_refused() {
    let stage = Stage::new().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    // RFC 9112 §6.3: both headers together may be an attempt at smuggling a second request.
    let smuggled = "0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
    raw.send([head, smuggled].concat()).await.unwrap();
    raw.finish().await.unwrap();
    let answer = raw.read_to_end().await.unwrap();
    assert!(!answer.contains("\"object\":\"list\""), "the smuggled request was answered: {answer}");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let stage = Stage::new().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    raw.send(request("/v1/models") + &request("/none") + &request("/v1/models/mock-model")).await.unwrap();
    for (status, body) in [("200", "]}"), ("404", "}}"), ("200", "}")] {
        let head = raw.read_until("\r\n\r\n").await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        raw.read_until(body).await.unwrap();
    }
}

/// Item 39.
#[tokio::test]
async fn an_http10_client_gets_bytes_up_to_the_end_of_the_connection() {
    let stage = Stage::new().await;
    let mut raw = RawConnection::open(stage.worker.address()).await.unwrap();
    let body = json!({ "model": MODEL, "stream": true, "max_tokens": 2 }).to_string();
    let head =
        format!("POST {CHAT} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    raw.send(head + &body).await.unwrap();
    let answer = raw.read_to_end().await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(body.starts_with("data: ") && body.ends_with("data: [DONE]\n\n"), "{body}");
}
