//! Which headers cross the gateway, and what it adds.

use http::HeaderMap;
use ntonix_config::KeyDigest;
use ntonix_tests::client::{Ask, CHAT, Connection, MODELS};
use ntonix_tests::mock_llm::{MockLlm, Script};
use ntonix_tests::worker::TestWorker;

use crate::stage::{Stage, assert_fine, config, connect};

fn seen(mock: &MockLlm) -> HeaderMap {
    mock.requests().into_iter().rfind(|request| request.path == CHAT).unwrap().headers
}

#[tokio::test]
async fn the_clients_credentials_and_what_is_for_one_hop_never_reach_the_backend() {
    let digest = KeyDigest::of(b"ntx_secret");
    let rest = format!("tenants: [{{ name: t }}]\nkeys: [{{ name: k, tenant: t, digest: \"{digest}\" }}]\n");
    let stage = Stage::with("", "", &rest).await;
    let ask = Ask::chat()
        .key("ntx_secret")
        .header("x-api-key", "ntx_secret")
        .header("cookie", "session=1")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "1")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic YTpi")
        .header("accept-encoding", "gzip")
        .header("x-conversation-id", "7")
        .header("openai-organization", "org-1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_fine(&stage.connect().await.ask(ask).await.unwrap());
    let seen = seen(&stage.mock);
    for gone in [
        "authorization",
        "x-api-key",
        "cookie",
        "x-private",
        "te",
        "proxy-authorization",
        "accept-encoding",
        "x-conversation-id",
        "connection",
    ] {
        assert!(!seen.contains_key(gone), "{gone}: {seen:?}");
    }
    assert!(!format!("{seen:?}").contains("ntx_secret"));
    assert_eq!(seen["openai-organization"], "org-1");
    assert!(seen.contains_key("traceparent"));
    assert_eq!(seen["host"], stage.mock.address().to_string());
}

#[tokio::test]
async fn the_backend_is_shown_the_credential_of_its_pool_by_requests_and_checks() {
    let mock = MockLlm::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-pool\n").unwrap();
    let rest = format!("secrets: [{{ name: pool-key, from: {{ file: \"{}\" }} }}]\n", file.display());
    let config = config(&[&mock], "credential: { secret: pool-key }", "", &rest);
    let worker = TestWorker::start(&config).await.unwrap();
    let answer = connect(&worker).await.ask(Ask::chat().key("what-the-client-has")).await.unwrap();
    assert_fine(&answer);
    mock.until(|counts| counts.requests >= 2).await;
    assert!(mock.requests().iter().all(|request| request.headers["authorization"] == "Bearer sk-pool"));
    assert!(!format!("{:?}", answer.headers()).contains("sk-pool"));
}

#[tokio::test]
async fn a_sensible_request_id_is_passed_on_and_any_other_is_made_anew() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let answer = connection.ask(Ask::chat().header("x-request-id", "job-7:a.b_c")).await.unwrap();
    assert_eq!(answer.header("x-request-id"), "job-7:a.b_c");
    assert_eq!(seen(&stage.mock)["x-request-id"], "job-7:a.b_c");
    let long = "x".repeat(129);
    for bad in ["", "two words", "a\"b", &long] {
        let answer = connection.ask(Ask::chat().header("x-request-id", bad.to_owned())).await.unwrap();
        let id = answer.header("x-request-id").to_owned();
        assert!(id.starts_with("req_") && id.len() == 36, "{id}");
        assert_eq!(seen(&stage.mock)["x-request-id"], id);
    }
    let answer = connection.ask(Ask::get(MODELS)).await.unwrap();
    assert!(!answer.header("x-request-id").is_empty());
}

#[tokio::test]
async fn the_chain_of_addresses_grows_by_the_client() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    assert_eq!(seen(&stage.mock)["x-forwarded-for"], "127.0.0.1");
    assert_fine(&connection.ask(Ask::chat().header("x-forwarded-for", "192.0.2.7, 10.0.0.1")).await.unwrap());
    assert_eq!(seen(&stage.mock)["x-forwarded-for"], "192.0.2.7, 10.0.0.1, 127.0.0.1");
}

#[tokio::test]
async fn what_a_backend_says_of_itself_stays_behind_and_rate_limits_pass() {
    let stage = Stage::new().await;
    let headers = [
        ("set-cookie", "a=b"),
        ("server", "uvicorn"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("access-control-allow-origin", "*"),
        ("x-request-id", "the-backends"),
        ("x-ratelimit-remaining-requests", "9"),
        ("openai-processing-ms", "12"),
    ];
    let add = |script: Script| headers.iter().fold(script, |script, (name, value)| script.header(*name, value));
    let body = r#"{"choices":[{"finish_reason":"stop"}]}"#;
    let json = vec![("content-type".into(), "application/json".to_owned())];
    stage.mock.next(add(Script::Reply { status: 200, headers: json, body: body.into() }));
    stage.mock.next(add(Script::broken(1, [ntonix_tests::mock_llm::Step::finish("stop")])));
    let mut connection = stage.connect().await;
    let unary = connection.ask(Ask::chat()).await.unwrap();
    let streamed = connection.ask(Ask::streamed_chat()).await.unwrap();
    for answer in [unary, streamed] {
        assert_fine(&answer);
        for gone in ["set-cookie", "server", "x-hop", "keep-alive", "access-control-allow-origin"] {
            assert_eq!(answer.header(gone), "", "{gone}");
        }
        assert_ne!(answer.header("x-request-id"), "the-backends");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), "9");
        assert_eq!(answer.header("openai-processing-ms"), "12");
    }
}

#[tokio::test]
async fn a_page_that_is_allowed_may_read_answers_and_others_may_not() {
    let mock = MockLlm::start().unwrap();
    let worker = TestWorker::start_with(&config(&[&mock], "", "", ""), |traffic| {
        traffic.allow_origin = vec!["https://chat.example.com".parse().unwrap()];
    })
    .await
    .unwrap();
    let mut connection = connect(&worker).await;
    let preflight = |origin: &str| {
        Ask::new(http::Method::OPTIONS, CHAT)
            .header("origin", origin.to_owned())
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization, content-type")
    };
    let answer = connection.ask(preflight("https://chat.example.com")).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://chat.example.com");
    assert_eq!(answer.header("access-control-allow-headers"), "authorization, content-type");
    assert!(answer.header("access-control-allow-methods").contains("POST"));

    let ask = |origin: &str| Ask::streamed_chat().header("origin", origin.to_owned());
    let transcript = connection.transcript(ask("https://chat.example.com")).await.unwrap();
    assert_eq!(transcript.header("access-control-allow-origin"), "https://chat.example.com");
    assert!(transcript.header("access-control-expose-headers").contains("x-request-id"));

    for other in ["https://evil.example.com", "null", "https://chat.example.com.evil.org"] {
        let answer = connection.ask(preflight(other)).await.unwrap();
        assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (405, ""));
        let transcript = connection.transcript(ask(other)).await.unwrap();
        assert_eq!((transcript.status(), transcript.header("access-control-allow-origin")), (200, ""));
    }
}

#[tokio::test]
async fn http2_clients_get_the_same_treatment() {
    let stage = Stage::new().await;
    let mut connection = Connection::open_http2(stage.worker.address()).await.unwrap();
    let ask = Ask::chat().key("secret").header("te", "trailers").header("x-request-id", "two");
    let answer = connection.ask(ask).await.unwrap();
    assert_eq!((answer.status(), answer.header("x-request-id")), (200, "two"));
    let seen = seen(&stage.mock);
    assert!(!seen.contains_key("authorization") && !seen.contains_key("te"), "{seen:?}");
    assert_eq!(seen["host"], stage.mock.address().to_string());
}
