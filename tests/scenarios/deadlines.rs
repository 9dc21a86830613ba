//! Nothing lasts for ever: the first token, the next one, and the whole.

use std::time::Duration;

use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{Pace, Script, Step};

use crate::stage::{Stage, assert_fine, assert_refused};

#[tokio::test]
async fn no_first_token_in_time_is_a_504_and_the_backend_is_cut() {
    let stage = Stage::with("breaker: { failures: 1000 }", "deadlines: { first_token: 300ms }", "").await;
    let mut connection = stage.connect().await;
    let hangs = [
        Script::hang(),
        Script::broken(0, [Step::Hang]),
        Script::broken(0, [Step::Raw(": hm\n\n".into()), Step::Hang]),
    ];
    let mut cut = 0;
    for hang in hangs {
        for (ask, media_type) in [(Ask::chat(), "application/json"), (Ask::streamed_chat(), "text/event-stream")] {
            stage.mock.next(hang.clone().header("content-type", media_type));
            assert_refused(&connection.ask(ask).await.unwrap(), 504, "upstream_timeout");
            cut += 1;
            stage.mock.cancelled(cut).await;
        }
    }
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn silence_between_tokens_is_an_error_inside_the_stream() {
    let stage = Stage::with("", "deadlines: { idle: 300ms }", "").await;
    stage.mock.next(Script::broken(2, [Step::Hang]));
    let mut connection = stage.connect().await;
    let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!((transcript.content().as_str(), transcript.code().as_str()), ("t0 t1 ", "upstream_timeout"));
    stage.mock.cancelled(1).await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn comments_of_a_backend_are_no_sign_of_life() {
    let stage = Stage::with("", "deadlines: { idle: 500ms }", "").await;
    let comments = (0..1000).flat_map(|_| [Step::Raw(":\n\n".into()), Step::Pause(Duration::from_millis(50))]);
    stage.mock.next(Script::broken(1, comments));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.code(), "upstream_timeout");
    stage.mock.cancelled(1).await;
}

#[tokio::test]
async fn a_stream_that_goes_on_is_ended_by_its_total_deadline() {
    let stage = Stage::with("", "deadlines: { total: 700ms }", "").await;
    stage.mock.next(Script::Answer { tokens: 100_000, pace: Pace::Every(Duration::from_millis(20)) });
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.code(), "deadline_exceeded");
    assert!(transcript.content().starts_with("t0 t1 "));
    stage.mock.cancelled(1).await;
}

#[tokio::test]
async fn a_total_deadline_below_that_of_the_first_token_is_what_ends_the_wait() {
    let stage = Stage::with("", "deadlines: { total: 300ms }", "").await;
    let mut connection = stage.connect().await;
    for ask in [Ask::chat(), Ask::streamed_chat()] {
        stage.mock.next(Script::hang());
        assert_refused(&connection.ask(ask).await.unwrap(), 504, "deadline_exceeded");
    }
    stage.mock.cancelled(2).await;
}

#[tokio::test]
async fn a_stream_that_is_slow_but_alive_runs_on() {
    let stage = Stage::with("", "deadlines: { first_token: 2s, idle: 2s }, heartbeat: 0s", "").await;
    stage.mock.next(Script::Answer { tokens: 30, pace: Pace::Every(Duration::from_millis(100)) });
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done(), "{}", transcript.text());
    assert!(transcript.content().ends_with("t29 "));
}
