//! A client that reads slowly: its backend waits, its worker holds little, everybody else runs on.

use ntonix_tests::client::{Ask, Connection, RawConnection};
use ntonix_tests::mock_llm::{MockLlm, Script, Step};
use ntonix_tests::worker::TestWorker;

use crate::stage::{assert_fine, config, connect};

const PIECE: usize = 64 * 1024;
/// More than all buffers of all sockets on the way hold.
const PIECES: usize = 64 * 16;

/// A stream of 64 MiB.
fn large() -> Script {
    let text = "x".repeat(PIECE);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let mut steps = vec![Step::Raw(event.into()); PIECES];
    steps.extend([Step::finish("stop"), Step::Done]);
    Script::Stream(steps)
}

/// One thread, so that the slow and the fast share everything.
async fn worker(mock: &MockLlm) -> TestWorker {
    TestWorker::start_with(&config(&[mock], "", "", ""), |traffic| traffic.threads = Some(1)).await.unwrap()
}

#[tokio::test]
async fn a_slow_reader_stops_its_backend_and_nobody_else() {
    let mock = MockLlm::start().unwrap();
    let worker = worker(&mock).await;
    mock.for_model("mock-model", large());
    let mut slow = RawConnection::open(worker.address()).await.unwrap();
    slow.send(Ask::streamed_chat().wire()).await.unwrap();
    slow.read_until("\r\n\r\n").await.unwrap();

    // Another one reads all of the same in the meantime.
    let transcript = connect(&worker).await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && transcript.bytes().len() > PIECE * PIECES);
    assert_eq!(mock.counts().active, 1, "the backend of the slow one has not come to its end");

    mock.next(Script::answer(1));
    assert_fine(&connect(&worker).await.ask(Ask::chat()).await.unwrap());
    // It goes on where it stopped.
    slow.read_until("data: [DONE]\n\n").await.unwrap();
    mock.until(|counts| counts.active == 0).await;
    assert_eq!(mock.counts().cut, 0);
}

#[tokio::test]
async fn a_stream_of_http2_that_is_not_read_does_not_stop_its_neighbours() {
    let mock = MockLlm::start().unwrap();
    let worker = worker(&mock).await;
    let mut connection = Connection::open_http2(worker.address()).await.unwrap();
    mock.next(large());
    let slow = connection.stream(Ask::streamed_chat()).await.unwrap();
    for _ in 0..5 {
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done());
    }
    assert_eq!(mock.counts().active, 1);
    assert!(slow.rest().await.unwrap().is_done());
}
