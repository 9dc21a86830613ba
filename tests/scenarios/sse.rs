//! Streams: every event at once, byte for byte, with the end that the backend forgot.

use ntonix_tests::client::{Ask, COMPLETIONS, Connection};
use ntonix_tests::mock_llm::{Gate, Script, Step};
use serde_json::json;

use crate::stage::Stage;

/// Item 37: nothing waits for the next event.
#[tokio::test]
async fn each_token_leaves_as_soon_as_it_is_there() {
    let stage = Stage::new().await;
    let gate = Gate::new();
    stage.mock.next(Script::gated(3, &gate));
    let mut stream = stage.connect().await.stream(Ask::streamed_chat()).await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().contains("assistant"));
    for token in ["t0 ", "t1 ", "t2 "] {
        gate.open(1);
        assert!(stream.next().await.unwrap().unwrap().contains(token));
    }
    let transcript = stream.rest().await.unwrap();
    assert_eq!(transcript.content(), "t0 t1 t2 ");
    assert!(transcript.is_done() && !transcript.is_cut());
}

/// Item 38, the headers.
#[tokio::test]
async fn the_head_forbids_proxies_to_store_or_gather() {
    let stage = Stage::new().await;
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.status(), 200);
    assert_eq!(transcript.header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(transcript.header("cache-control"), "no-cache, no-transform");
    assert_eq!(transcript.header("x-accel-buffering"), "no");
    assert!(!transcript.header("x-request-id").is_empty());
}

/// Item 38, identity.
#[tokio::test]
async fn a_client_that_would_take_gzip_gets_plain_events() {
    let stage = Stage::new().await;
    let ask = Ask::streamed_chat().header("accept-encoding", "gzip, br");
    let transcript = stage.connect().await.transcript(ask).await.unwrap();
    assert!(transcript.is_done());
    assert_eq!(transcript.header("content-encoding"), "");
}

/// Tool calls of two indexes, members that nobody knows, characters of four bytes: what the backend writes is what the
/// client reads.
const STRANGE: &str = concat!(
    r#"data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f"}}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{\"x\""}}]}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{"content":"🦀 ü","reasoning_content":"hm"}}],"obfuscation":"x","timings":{}}"#,
    "\n\n",
    r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    "\n\ndata: [DONE]\n\n",
);

/// Items 32 and 41.
#[tokio::test]
async fn the_bytes_of_a_stream_do_not_change_however_they_are_split() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for size in [1, 7, 64, STRANGE.len()] {
        stage.mock.next(Script::raw(STRANGE.as_bytes().chunks(size)));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert_eq!(transcript.text(), STRANGE, "in pieces of {size} bytes");
    }
}

/// Items 31 and 33.
#[tokio::test]
async fn other_line_ends_multiple_lines_and_missing_spaces_are_read_right() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for line_end in ["\n", "\r\n", "\r"] {
        let text = [
            "\u{feff}",
            "data:{\"choices\":[{\"index\":0,\"delta\":",
            "data:{\"content\":\"t0 \"}}]}",
            "",
            "id: 7\0",
            "retry: soon",
            r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            "",
            "data:[DONE]",
            "",
            "",
        ];
        let text = text[0].to_owned() + &text[1..].join(line_end);
        stage.mock.next(Script::raw(text.as_bytes().chunks(1)));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done(), "{line_end:?}: {}", transcript.text());
        assert_eq!(transcript.content(), "t0 ", "{line_end:?}");
    }
}

/// Item 36.
#[tokio::test]
async fn comments_of_the_backend_do_not_pass() {
    let stage = Stage::new().await;
    let pieces = [": ping\n\n", ":\n\n", "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"stop\"}]}\n\n", ":\n\n"];
    stage.mock.next(Script::raw(pieces));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.text(), format!("{}data: [DONE]\n\n", pieces[2]));
}

/// Item 8: the form of transformers.
#[tokio::test]
async fn a_finished_stream_without_done_gets_one() {
    let stage = Stage::new().await;
    stage.mock.next(Script::broken(2, [Step::finish("length")]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.content(), "t0 t1 ");
    assert!(transcript.is_done() && !transcript.is_cut(), "{}", transcript.text());
}

#[tokio::test]
async fn what_breaks_after_the_finish_takes_nothing_away() {
    let stage = Stage::new().await;
    stage.mock.next(Script::broken(2, [Step::finish("stop"), Step::Cut]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && !transcript.is_cut(), "{}", transcript.text());
}

#[tokio::test]
async fn after_done_the_client_need_not_wait_for_the_backend() {
    let stage = Stage::new().await;
    stage.mock.next(Script::broken(1, [Step::finish("stop"), Step::Done, Step::Hang]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done());
}

#[tokio::test]
async fn every_finish_reason_passes() {
    let stage = Stage::new().await;
    let mut connection = stage.connect().await;
    for reason in ["stop", "length", "tool_calls", "content_filter", "function_call"] {
        stage.mock.next(Script::broken(1, [Step::Finish(reason.into()), Step::Done]));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done() && transcript.text().contains(&format!("\"finish_reason\":\"{reason}\"")));
    }
}

#[tokio::test]
async fn several_choices_stay_interleaved_and_all_must_finish() {
    let stage = Stage::new().await;
    let ask = Ask::chat_with(json!({ "stream": true, "n": 2, "max_tokens": 2 }));
    let transcript = stage.connect().await.transcript(ask.clone()).await.unwrap();
    assert!(transcript.is_done());
    assert_eq!(transcript.text().matches("\"index\":1").count(), 4, "role, two tokens, finish");

    let finished_one = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    stage.mock.next(Script::raw([format!("{finished_one}\n\n")]));
    let transcript = stage.connect().await.transcript(ask).await.unwrap();
    assert_eq!(transcript.code(), "upstream_reset", "{}", transcript.text());
}

#[tokio::test]
async fn completions_stream_too() {
    let stage = Stage::new().await;
    let body = json!({ "model": "mock-model", "prompt": "hello", "stream": true }).to_string();
    let transcript = stage.connect().await.transcript(Ask::post(COMPLETIONS, body)).await.unwrap();
    assert_eq!(transcript.content(), "t0 t1 t2 t3 t4 ");
    assert!(transcript.is_done());
}

/// Item 34; its other half is `backends::streams::b16_item_34_…`.
#[tokio::test]
async fn an_event_of_two_mebibytes_passes() {
    let stage = Stage::new().await;
    let text = "x".repeat(2 * 1024 * 1024);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let finish = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    stage.mock.next(Script::raw([event.as_str(), finish]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.bytes().len(), event.len() + finish.len());
}

/// Item 40.
#[tokio::test]
async fn http2_gives_the_same_bytes_as_http1() {
    let stage = Stage::new().await;
    let one = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    let mut connection = Connection::open_http2(stage.worker.address()).await.unwrap();
    let two = connection.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(one.is_done() && one.bytes() == two.bytes());
}
