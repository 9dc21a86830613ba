//! Answers that are not streamed.

use ntonix_tests::client::{Ask, COMPLETIONS, EMBEDDINGS};
use ntonix_tests::mock_llm::{MockLlm, PROMPT_TOKENS, Script};
use ntonix_tests::worker::TestWorker;
use serde_json::json;

use crate::stage::{Stage, assert_fine, config, connect};

#[tokio::test]
async fn a_chat_comes_back_byte_for_byte() {
    let stage = Stage::new().await;
    let body =
        br#"{ "id":"x","choices":[{"index":0,"message":{"content":"h\u00e4"},"finish_reason":"stop"}],"new":1.0 }"#;
    let headers = vec![("content-type".into(), "application/json".to_owned())];
    stage.mock.next(Script::Reply { status: 200, headers, body: body.as_slice().into() });
    let answer = stage.connect().await.ask(Ask::chat()).await.unwrap();
    assert_fine(&answer);
    assert_eq!(answer.body(), body.as_slice());
    assert_eq!(answer.header("content-length"), body.len().to_string());
}

#[tokio::test]
async fn what_the_client_wrote_reaches_the_backend_byte_for_byte() {
    let stage = Stage::new().await;
    let body = r#"{"model" : "mock-model","messages":[ ], "temperature":0.70,"x":{"b":1,"a":[null]}}"#;
    assert_fine(&stage.connect().await.ask(Ask::post("/v1/chat/completions", body)).await.unwrap());
    let asked = stage.mock.requests().into_iter().find(|request| request.path == "/v1/chat/completions").unwrap();
    assert_eq!(asked.body, body);
}

#[tokio::test]
async fn completions_and_embeddings_work_too() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    let body = json!({ "model": "mock-model", "prompt": "hello", "max_tokens": 3 }).to_string();
    let answer = connection.ask(Ask::post(COMPLETIONS, body)).await.unwrap();
    assert_eq!(answer.json()["choices"][0]["text"], "t0 t1 t2 ");
    let body = json!({ "model": "mock-model", "input": "hello" }).to_string();
    let answer = connection.ask(Ask::post(EMBEDDINGS, body)).await.unwrap();
    assert_eq!(answer.json()["data"][0]["embedding"], json!([0.25, -0.5, 1.0]));
}

#[tokio::test]
async fn usage_is_counted_by_route() {
    let stage = Stage::new().await;
    let answer = stage.connect().await.ask(Ask::chat_with(json!({ "max_tokens": 4 }))).await.unwrap();
    assert_eq!(answer.json()["usage"]["completion_tokens"], 4);
    let page = stage.worker.metrics().await.unwrap();
    let counted = |kind: &str| page.lines().find(|line| line.starts_with("ntonix_tokens") && line.contains(kind));
    assert!(counted("input").unwrap().ends_with(&format!(" {PROMPT_TOKENS}")), "{page}");
    assert!(counted("output").unwrap().ends_with(" 4"), "{page}");
}

#[tokio::test]
async fn many_requests_share_one_connection_on_both_sides() {
    let mock = MockLlm::start().unwrap();
    let config = config(&[&mock], "health: { every: 1h }", "", "");
    let worker = TestWorker::start_with(&config, |traffic| traffic.threads = Some(1)).await.unwrap();
    mock.until(|counts| counts.requests == 1).await;
    let mut connection = connect(&worker).await;
    for _ in 0..20 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    // The health check has one of its own: it runs on another thread, and no connection changes thread.
    assert_eq!(mock.counts().connections_ever, 2);
}
