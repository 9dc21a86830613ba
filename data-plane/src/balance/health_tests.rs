use std::{cell::Cell as Flag, path::Path, time::SystemTime};

use ntonix_runtime::tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::live::{Origin, OriginSource};

thread_local! {
    /// The next check of this thread panics.
    static PANICS: Flag<bool> = const { Flag::new(false) };
}

pub(super) fn panic_when_told() {
    assert!(!PANICS.replace(false), "on purpose");
}

fn live(cell: &Cell, text: &str) -> Arc<Live> {
    let source = ntonix_config::Source::read(text, Path::new("/")).unwrap();
    let config = ntonix_config::validate(&source.draft).unwrap();
    let origin = Origin { snapshot: None, source: OriginSource::File, taken: SystemTime::now() };
    cell.swap(cell.prepare(&config, origin).unwrap())
}

fn pool(text: &str) -> Arc<Pool> {
    Arc::clone(live(&Cell::new(Metrics::new(), 1), text).pools().next().unwrap())
}

fn config(address: std::net::SocketAddr, health: &str) -> String {
    format!("pools:\n  - name: p\n    backends: [{{ name: b, url: 'http://{address}' }}]\n    health: {{ {health} }}\n")
}

/// Answers every connection with this status; each is one check.
async fn answering(status: u16) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks::spawn("backend", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let mut head = [0; 1024];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[test]
fn a_backend_changes_its_state_after_so_many_results_in_a_row() {
    const NONE: [bool; 0] = [];
    let address = "127.0.0.1:1".parse().unwrap();
    let settings = pool(&config(address, "healthy_after: 2, unhealthy_after: 3")).health.clone();
    let mut streak = Streak { healthy: true, against: 0 };
    let mut note =
        |results: &[bool]| -> Vec<_> { results.iter().filter_map(|&well| streak.note(well, &settings)).collect() };
    assert_eq!(note(&[false, false, true, false, false]), NONE);
    assert_eq!(note(&[false]), [false]);
    assert_eq!(note(&[true, false, true]), NONE);
    assert_eq!(note(&[true]), [true]);
}

/// O12: without the checks after it nobody would learn that a backend has fallen ill.
#[tokio::test]
async fn a_panic_ends_one_check_and_not_those_after_it() {
    let metrics = Metrics::new();
    let cell = Arc::new(Cell::new(metrics.clone(), 1));
    let live = live(&cell, &config(answering(500).await, "every: 1s, timeout: 1s, unhealthy_after: 1"));
    let backend = Arc::clone(&live.pools().next().unwrap().backends[0]);
    let (changes, changed) = watch::channel(0);
    PANICS.set(true);
    let following = tasks::spawn("health", follow(cell, changed, metrics.clone()));
    let ejected = timeout(Duration::from_secs(30), async {
        while backend.load.condition() == Condition::Healthy {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ejected.await.expect("the check after the panic");
    assert_eq!(metrics.panics.get(), 1);
    drop(changes);
    following.await.unwrap();
}

/// O5: a process that stood still finds its timers over, whatever its backends did.
#[tokio::test(start_paused = true)]
async fn a_check_that_this_worker_slept_through_says_nothing_of_the_backend() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let pool = pool(&config(listener.local_addr().unwrap(), "timeout: 1s"));
    let ask = |within| ask(&pool, &pool.backends[0], "/health", within);
    let (late, _) = tokio::join!(ask(Duration::from_secs(1)), async {
        tokio::time::advance(Duration::from_secs(3)).await;
    });
    assert!(matches!(late, Err(Failed::Worker(_))), "{late:?}");
    let silent = ask(Duration::from_secs(1)).await;
    assert!(matches!(silent, Err(Failed::Backend(_))), "{silent:?}");
}

/// O2: no descriptor is left.
#[test]
fn a_check_without_a_socket_says_nothing_of_the_backend() {
    let exhausted = ConnectError::Exhausted(std::io::Error::from_raw_os_error(24));
    assert!(matches!(Failed::from(AskError::from(exhausted)), Failed::Worker(_)));
}
