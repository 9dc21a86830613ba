//! Items 72 and 73: on one socket a stream that may not send stops only its own backend, and a fast one starves nobody.

use std::time::Duration;

use ntonix_tests::mock_llm::{MODEL, MockLlm, Pace, Script};
use ntonix_tests::worker::TestWorker;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::time::Instant;

use super::raw_socket::{FIN, RawSocket, TEXT, frame};
use crate::stage::config;

const SLOW: usize = 20;
const TOKENS: u64 = 100;
const PACE: Duration = Duration::from_millis(20);
/// Mock, worker and client share noisy processors, and what the fast one has in the sockets' buffers comes first. A slow
/// stream that is starved waits for as long as the fast one runs, which is without end.
const NOISE: Duration = Duration::from_secs(2);

fn create(id: &str, model: &str) -> Vec<u8> {
    let body = json!({ "model": model, "stream": true, "messages": [] });
    let create = json!({ "t": "create", "id": id, "op": "chat.completions", "body": body });
    frame(FIN | TEXT, create.to_string().as_bytes())
}

/// A client whose system takes little ahead: what lies there delays what comes behind it, and is not the gateway's.
async fn open(worker: &TestWorker) -> RawSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    RawSocket::on(socket.connect(worker.address()).await.unwrap()).await
}

/// The time between two deltas of a slow stream that 99 of 100 keep to, while `fast` streams run beside them.
async fn p99_gap(worker: &TestWorker, fast: usize) -> Duration {
    let mut socket = open(worker).await;
    for index in 0..fast {
        socket.send(&create(&format!("fast-{index}"), "fast")).await;
    }
    for index in 0..SLOW {
        socket.send(&create(&format!("slow-{index}"), MODEL)).await;
    }
    let (mut gaps, mut last, mut done, mut fast_deltas) = (Vec::new(), vec![None; SLOW], 0, 0);
    while done < SLOW {
        let (_, payload) = socket.next().await.unwrap();
        let Ok(frame) = serde_json::from_slice::<Value>(&payload) else { continue };
        let Some(id) = frame["id"].as_str() else { continue };
        let Some(slow) = id.strip_prefix("slow-") else {
            let runs = frame["t"] == "open" || frame["t"] == "delta";
            assert!(runs, "the fast one runs as long as the slow ones do: {frame}");
            fast_deltas += 1;
            continue;
        };
        let last: &mut Option<Instant> = &mut last[slow.parse::<usize>().unwrap()];
        match frame["t"].as_str().unwrap() {
            "delta" => {
                let now = Instant::now();
                gaps.extend(last.replace(now).map(|before| now - before));
            }
            "done" => done += 1,
            _ => {}
        }
    }
    assert!(fast_deltas >= fast * 1000, "the fast one was fast: {fast_deltas}");
    gaps.sort_unstable();
    gaps[gaps.len() * 99 / 100]
}

#[tokio::test]
async fn one_fast_stream_does_not_delay_twenty_slow_ones_on_its_socket() {
    let mock = MockLlm::start().unwrap();
    let config = config(&[&mock], "", "retries: 0", "").replace(&format!("model: {MODEL}"), "model: \"*\"");
    // Behind a glob a model is there when a backend has said so.
    mock.list_models(&[MODEL, "fast"]);
    let worker = TestWorker::start(&config).await.unwrap();
    mock.always(Script::Answer { tokens: TOKENS, pace: Pace::Every(PACE) });
    mock.for_model("fast", Script::answer(u64::from(u32::MAX)));
    let alone = p99_gap(&worker, 0).await;
    let beside = p99_gap(&worker, 1).await;
    assert!(beside < 2 * alone + NOISE, "{beside:?} instead of {alone:?}");
}
