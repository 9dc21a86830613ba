//! Signs of life while a backend is silent, and the head that leaves before the first token.

use ntonix_runtime::tasks;
use ntonix_tests::client::{Ask, EventStream};
use ntonix_tests::mock_llm::{Gate, MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;

use crate::stage::{Stage, config, connect};

/// One line end only: with two, clients that saw an `id` would dispatch an empty event.
const HEARTBEAT: &str = ":\n";

#[tokio::test]
async fn a_silent_stream_has_heartbeats_between_its_events() {
    let stage = Stage::with("", "heartbeat: 1s", "").await;
    let gate = Gate::new();
    stage.mock.next(Script::broken(1, [Step::Gate(gate.clone()), Step::finish("stop"), Step::Done]));
    let mut stream = stage.connect().await.stream(Ask::streamed_chat()).await.unwrap();
    stream.until(|so_far| so_far.text().matches("\n:\n").count() >= 1).await.unwrap();
    gate.open(1);
    let transcript = stream.rest().await.unwrap();
    assert!(transcript.is_done() && transcript.content() == "t0 ");
    let text = transcript.text();
    assert!(text.contains("\n\n:\n") && !text.contains(":\n\n:") && !text.contains("\n:\n\n"), "{text}");
}

#[tokio::test]
async fn heartbeats_can_be_switched_off() {
    let stage = Stage::with("", "heartbeat: 0s, deadlines: { idle: 1500ms }", "").await;
    stage.mock.next(Script::broken(1, [Step::Hang]));
    let transcript = stage.connect().await.transcript(Ask::streamed_chat()).await.unwrap();
    assert_eq!(transcript.code(), "upstream_timeout");
    assert!(!transcript.text().contains("\n:\n"), "{}", transcript.text());
}

/// The only test that must wait for the ten seconds after which the head of a stream leaves without a first token. All
/// that can come of it runs side by side: a good stream, a backend that fails then, and another that is asked then.
#[tokio::test]
async fn after_ten_seconds_without_a_token_the_head_leaves_and_errors_come_inside() {
    let (first, second) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let gate = Gate::new();
    let behind_gate = |steps: &[Step]| Script::Stream([&[Step::Gate(gate.clone())], steps].concat());
    let whole = [Step::Role, Step::Tokens { count: 2, pace: ntonix_tests::mock_llm::Pace::Fast }, Step::finish("stop")];
    let pool = "balance: weighted-round-robin, breaker: { failures: 1000 }";
    let one = TestWorker::start(&config(&[&first], pool, "heartbeat: 1s, retries: 0", "")).await.unwrap();
    let both = TestWorker::start(&config(&[&first, &second], pool, "heartbeat: 1s", "")).await.unwrap();

    for script in [behind_gate(&whole), behind_gate(&[Step::Cut])] {
        first.next(script);
    }
    let begin = async |worker: &TestWorker| connect(worker).await.stream(Ask::streamed_chat()).await.unwrap();
    let good = tasks::spawn("test", {
        let mut connection = connect(&one).await;
        async move { connection.stream(Ask::streamed_chat()).await.unwrap() }
    });
    first.attempts(1).await;
    let bad = tasks::spawn("test", {
        let mut connection = connect(&one).await;
        async move { connection.stream(Ask::streamed_chat()).await.unwrap() }
    });
    first.attempts(2).await;
    // Whichever of the two is asked first fails, and the other one answers.
    first.next(behind_gate(&[Step::Cut]));
    second.next(Script::answer(2));
    let moved = begin(&both).await;
    let (good, bad) = (good.await.unwrap(), bad.await.unwrap());
    let mut waiting = [good, bad, moved];
    for stream in &mut waiting {
        assert_eq!(stream.so_far().status(), 200);
        stream.until(|so_far| so_far.text().starts_with(HEARTBEAT)).await.unwrap();
    }
    gate.open_for_good();
    let [good, bad, moved] = waiting.map(EventStream::rest);
    let (good, bad, moved) = tokio::try_join!(good, bad, moved).unwrap();
    for transcript in [good, moved] {
        assert_eq!(transcript.content(), "t0 t1 ");
        assert!(transcript.is_done());
    }
    assert_eq!((bad.content().as_str(), bad.code().as_str()), ("", "upstream_reset"));
    assert!(!bad.text().contains("[DONE]"));
}
