//! O14: nobody reads the log.

use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{MockLlm, Script};
use ntonix_tests::wait::eventually;

use crate::stage::{assert_fine, config};

/// More lines than the pipe and the queue before it hold come of this many requests, by far.
const REQUESTS: usize = 2_000;

#[tokio::test]
async fn a_log_that_nobody_reads_loses_lines_counts_them_delays_nobody_and_tells_the_next_reader() {
    let mock = MockLlm::start().unwrap();
    mock.always(Script::answer(1));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &["--log-level=trace"]).await.unwrap();
    gateway.process().stop_reading_log();
    // The library that speaks HTTP/2 traces every frame.
    let mut connection = Connection::open_http2(gateway.address()).await.unwrap();
    let dropped = "ntonix_log_lines_dropped_total";
    let mut asked = 0;
    while gateway.metric(dropped).await.unwrap() == 0.0 {
        assert!(asked < REQUESTS, "no line was dropped after {asked} requests");
        for _ in 0..20 {
            assert_fine(&connection.ask(Ask::chat()).await.unwrap());
            asked += 1;
        }
    }
    // From here on each line is one too many; whoever waited for it would wait for ever.
    let before = gateway.metric(dropped).await.unwrap();
    for _ in 0..50 {
        assert!(connection.transcript(Ask::streamed_chat()).await.unwrap().is_done());
    }
    assert!(gateway.metric(dropped).await.unwrap() > before);
    gateway.process().read_log_again();
    eventually("the log says that they were lost", async || told_lost(&gateway.process().log()) > before)
        .await
        .unwrap();
}

/// How many lines the log says that it has lost.
fn told_lost(log: &str) -> f64 {
    let told = log.lines().filter(|line| line.contains("\"Log lines were lost\""));
    let told = told.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    told.map(|line| line["lost"].as_f64().unwrap()).sum()
}
