//! Another backend is asked until the first event has left, and never after it.

use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{ErrorForm, MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;

use crate::stage::{assert_fine, assert_refused, attempts, config, connect};

const PATIENT: &str = "breaker: { failures: 1000 }, balance: weighted-round-robin";

/// Two backends that are asked in turns, the first one first.
async fn two(route: &str) -> (MockLlm, MockLlm, TestWorker) {
    let (first, second) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let worker = TestWorker::start(&config(&[&first, &second], PATIENT, route, "")).await.unwrap();
    (first, second, worker)
}

#[tokio::test]
async fn whatever_fails_before_the_first_event_is_asked_of_another_backend() {
    let failures = [
        Script::no_reply(),
        Script::garbage(),
        Script::html(),
        Script::status(500, "broken"),
        Script::retry_after(429, 60),
        Script::status(503, "loading"),
        Script::broken(0, [Step::Cut]),
        Script::broken(0, [Step::Error(ErrorForm::OpenAi)]),
        Script::wrong_length(100, "{"),
    ];
    for failure in failures {
        println!("{failure:?}");
        let (first, second, worker) = two("").await;
        for mock in [&first, &second] {
            mock.always(failure.clone());
        }
        let mut connection = connect(&worker).await;
        // Whichever is asked first fails, and the other one answers.
        for (bad, good) in [(&first, &second), (&second, &first)] {
            bad.always(failure.clone());
            good.always(Script::answer(3));
            for _ in 0..2 {
                let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
                assert_eq!(transcript.content(), "t0 t1 t2 ", "{failure:?}");
                assert!(transcript.is_done());
                assert_fine(&connection.ask(Ask::chat()).await.unwrap());
            }
            assert!(bad.counts().attempts > 0, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn after_the_first_event_nobody_else_is_asked() {
    let (first, second, worker) = two("retries: 5").await;
    for mock in [&first, &second] {
        mock.always(Script::broken(1, [Step::Cut]));
    }
    let transcript = connect(&worker).await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!((transcript.content().as_str(), transcript.code().as_str()), ("t0 ", "upstream_reset"));
    assert_eq!(attempts(&[&first, &second]).iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn what_the_client_did_wrong_is_asked_once() {
    let (first, second, worker) = two("retries: 5").await;
    let mut connection = connect(&worker).await;
    for (round, status) in [400, 404, 409, 422].into_iter().enumerate() {
        for mock in [&first, &second] {
            mock.always(Script::status(status, "no"));
        }
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert_eq!((answer.status(), answer.header("x-should-retry")), (status, ""));
        assert_eq!(attempts(&[&first, &second]).iter().sum::<usize>(), round + 1);
    }
}

#[tokio::test]
async fn the_attempts_are_bounded_and_the_client_is_told_not_to_try_again() {
    let (first, second, worker) = two("retries: 2").await;
    let mut connection = connect(&worker).await;
    let mut made = 0;
    // One that has answered would only answer the same once more; a lost connection may have been bad luck.
    for (failure, status, code, attempts_made) in [
        (Script::broken(0, [Step::Cut]), 502, "upstream_reset", 3),
        (Script::status(503, "loading"), 503, "mock", 2),
        (Script::garbage(), 502, "upstream_protocol", 2),
    ] {
        for mock in [&first, &second] {
            mock.always(failure.clone());
        }
        let answer = connection.ask(Ask::streamed_chat()).await.unwrap();
        assert_eq!((answer.status(), answer.code().as_str()), (status, code));
        assert_eq!(answer.header("x-should-retry"), "false");
        made += attempts_made;
        assert_eq!(attempts(&[&first, &second]).iter().sum::<usize>(), made);
    }
}

#[tokio::test]
async fn the_only_backend_is_asked_again_when_its_connection_was_lost() {
    let mock = MockLlm::start().unwrap();
    let worker = TestWorker::start(&config(&[&mock], "", "retries: 1", "")).await.unwrap();
    mock.next(Script::no_reply());
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
    assert_eq!(mock.counts().attempts, 2);
}

#[tokio::test]
async fn without_retries_one_attempt_is_all() {
    let (first, second, worker) = two("retries: 0").await;
    for mock in [&first, &second] {
        mock.always(Script::status(500, "broken"));
    }
    let answer = connect(&worker).await.ask(Ask::chat()).await.unwrap();
    assert_eq!((answer.status(), answer.header("x-should-retry")), (500, ""));
    assert_eq!(attempts(&[&first, &second]).iter().sum::<usize>(), 1);
}

#[tokio::test]
async fn the_time_to_the_first_token_is_for_all_attempts_together() {
    let (first, second, worker) = two("retries: 5, deadlines: { first_token: 300ms }").await;
    for mock in [&first, &second] {
        mock.always(Script::hang());
    }
    assert_refused(&connect(&worker).await.ask(Ask::chat()).await.unwrap(), 504, "upstream_timeout");
    assert_eq!(attempts(&[&first, &second]).iter().sum::<usize>(), 1);
}
