//! C7: three times as many clients as a worker takes. Those it takes keep their speed, the others hear so at once, and
//! when the load is gone nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ntonix_runtime::tasks;
use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::mock_llm::{Pace, Script};
use tokio::time::{sleep, timeout};

use crate::stage::{Stage, assert_fine, nothing_is_active};

const PLACES: usize = 30;
const TOKENS: usize = 25;
/// With this pace the processors are idle most of the time: what is measured is who is served, not how fast they are.
const PACE: Duration = Duration::from_millis(40);
/// Five answers of each client.
const MEASURED: Duration = Duration::from_secs(5);
/// A client that was refused comes again after this, sooner than it was told to.
const AGAIN: Duration = Duration::from_millis(200);

/// What a crowd of clients got so far.
#[derive(Default)]
struct Got {
    over: AtomicBool,
    tokens: AtomicUsize,
    answers: AtomicUsize,
    refusals: AtomicUsize,
}

async fn client(address: std::net::SocketAddr, got: Arc<Got>) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    while !got.over.load(Ordering::Relaxed) {
        let mut stream = connection.stream(Ask::streamed_chat()).await?;
        match stream.so_far().status() {
            200 => {
                while let Some(event) = stream.next().await? {
                    got.tokens.fetch_add(usize::from(event.contains("\"content\":\"t")), Ordering::Relaxed);
                }
                anyhow::ensure!(stream.so_far().is_done(), "{}", stream.so_far().text());
                got.answers.fetch_add(1, Ordering::Relaxed);
            }
            503 => {
                anyhow::ensure!(!stream.so_far().header("retry-after").is_empty());
                let refused = stream.rest().await?;
                anyhow::ensure!(refused.text().contains("\"overloaded\""), "{}", refused.text());
                got.refusals.fetch_add(1, Ordering::Relaxed);
                sleep(AGAIN).await;
            }
            other => anyhow::bail!("{other}"),
        }
    }
    Ok(())
}

/// The tokens that so many clients got in a while, once all of them are busy, and how often they were refused.
async fn measure(stage: &Stage, clients: usize) -> (usize, usize) {
    let got = Arc::<Got>::default();
    let clients: Vec<_> =
        (0..clients).map(|_| tasks::spawn("client", client(stage.worker.address(), Arc::clone(&got)))).collect();
    stage.mock.until(|counts| counts.active == PLACES).await;
    let before = got.tokens.load(Ordering::Relaxed);
    // Tokens in a time are what is asked for.
    sleep(MEASURED).await;
    let tokens = got.tokens.load(Ordering::Relaxed) - before;
    got.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert!(got.answers.load(Ordering::Relaxed) >= PLACES);
    (tokens, got.refusals.load(Ordering::Relaxed))
}

#[tokio::test]
async fn three_times_the_load_takes_nothing_from_those_who_are_served_and_leaves_nothing_behind() {
    let stage = Stage::with("", "retries: 0", &format!("limits: {{ streams: {PLACES}, queue: 10 }}")).await;
    stage.mock.always(Script::Answer { tokens: TOKENS as u64, pace: Pace::Every(PACE) });
    let (peak, none) = measure(&stage, PLACES).await;
    let (loaded, refused) = measure(&stage, 3 * PLACES).await;
    println!("{peak} tokens at its limit, {loaded} at three times its limit, {refused} refusals");
    assert_eq!(none, 0, "as many as there are places");
    assert!(refused > PLACES, "{refused}");
    assert!(loaded * 10 >= peak * 9, "{loaded} tokens instead of {peak}");

    let as_before = async {
        nothing_is_active(&stage.worker).await;
        assert_eq!(stage.worker.metric("ntonix_queued_exchanges").await.unwrap(), 0.0);
        stage.mock.always(Script::answer(1));
        assert_fine(&stage.connect().await.ask(Ask::chat()).await.unwrap());
    };
    timeout(Duration::from_secs(5), as_before).await.expect("all is as before within five seconds");
}

/// With a queue that may be waited in, a full one refuses at once: nobody waits for a refusal.
#[tokio::test]
async fn whoever_finds_the_queue_full_is_refused_without_waiting() {
    let stage = Stage::with("", "", "limits: { streams: 1, queue: 1, queue_wait: 20s }").await;
    stage.mock.always(Script::hang());
    let mut held: Vec<_> = Vec::new();
    for active in ["ntonix_active_streams", "ntonix_queued_exchanges"] {
        let mut raw = ntonix_tests::client::RawConnection::open(stage.worker.address()).await.unwrap();
        raw.send(Ask::streamed_chat().wire()).await.unwrap();
        let taken = async || stage.worker.metric(active).await.unwrap() >= 1.0;
        ntonix_tests::wait::eventually(active, taken).await.unwrap();
        held.push(raw);
    }
    let mut connection = stage.connect().await;
    let asked = async {
        for _ in 0..100 {
            crate::stage::assert_refused(&connection.ask(Ask::chat()).await.unwrap(), 503, "overloaded");
        }
    };
    // A hundred in a fraction of the time that one would wait.
    timeout(Duration::from_secs(10), asked).await.expect("at once");
}
