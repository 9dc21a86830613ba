//! Usage of streams: asked for behind the client's back and taken out again, or passed on when the client asked.

use ntonix_tests::client::{Ask, CHAT};
use ntonix_tests::mock_llm::{PROMPT_TOKENS, Script, Step};
use serde_json::{Value, json};

use crate::stage::{Stage, nothing_is_active};

async fn counted(stage: &Stage) -> (f64, f64) {
    nothing_is_active(&stage.worker).await;
    let page = stage.worker.metrics().await.unwrap();
    let value = |kind: &str| {
        let line = page.lines().find(|line| line.starts_with("ntonix_tokens_total") && line.contains(kind)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    (value("\"input\""), value("\"output\""))
}

fn asked(stage: &Stage) -> Vec<Value> {
    let calls = stage.mock.requests().into_iter().filter(|request| request.path == CHAT);
    calls.map(|call| serde_json::from_slice(&call.body).unwrap()).collect()
}

#[tokio::test]
async fn a_client_that_did_not_ask_sees_none_and_it_is_counted_all_the_same() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for options in [json!({}), json!({ "stream_options": {} }), json!({ "stream_options": { "include_usage": false } })]
    {
        let mut members = json!({ "stream": true, "max_tokens": 3 });
        members.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let transcript = connection.transcript(Ask::chat_with(members)).await.unwrap();
        assert!(transcript.is_done() && !transcript.text().contains("usage"), "{}", transcript.text());
    }
    assert!(asked(&stage).iter().all(|body| body["stream_options"]["include_usage"] == true));
    assert_eq!(counted(&stage).await, (3.0 * PROMPT_TOKENS as f64, 9.0));
}

#[tokio::test]
async fn a_client_that_asked_gets_it_once_before_the_end() {
    let stage = Stage::new().await;
    let members = json!({ "stream": true, "max_tokens": 3, "stream_options": { "include_usage": true } });
    let transcript = stage.connect().await.transcript(Ask::chat_with(members)).await.unwrap();
    let with_usage: Vec<_> = transcript.events().iter().filter(|event| event.contains("\"usage\":{")).collect();
    assert_eq!(with_usage.len(), 1);
    let chunk: Value = serde_json::from_str(with_usage[0]).unwrap();
    assert_eq!((&chunk["choices"], &chunk["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
    assert_eq!(transcript.events()[transcript.events().len() - 2], *with_usage[0]);
    assert!(transcript.is_done());
    assert_eq!(counted(&stage).await, (PROMPT_TOKENS as f64, 3.0));
}

#[tokio::test]
async fn a_null_usage_in_every_chunk_is_taken_out_too() {
    let stage = Stage::new().await;
    let pieces = [
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
    ];
    stage.mock.next(Script::raw(pieces));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && !transcript.text().contains("usage"), "{}", transcript.text());
    assert_eq!(transcript.content(), "a");
    assert_eq!(counted(&stage).await, (1.0, 2.0));
}

#[tokio::test]
async fn usage_beside_the_last_content_keeps_the_content() {
    let stage = Stage::new().await;
    let piece = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}],\
                 \"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    stage.mock.next(Script::raw([piece]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.content(), "a");
    assert!(transcript.is_done());
    assert_eq!(counted(&stage).await, (1.0, 2.0));
}

#[tokio::test]
async fn what_was_reported_before_a_break_is_counted() {
    let stage = Stage::new().await;
    let report = Step::event(r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}"#);
    stage.mock.next(Script::broken(2, [report, Step::Cut]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.code(), "upstream_reset");
    assert_eq!(counted(&stage).await, (4.0, 2.0));
}
