use std::{net::SocketAddr, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::coop,
    time::timeout,
};

use ntonix_runtime::tasks;

use super::*;

const SECONDS: Duration = Duration::from_secs(20);

fn connector(address: SocketAddr) -> Arc<Connector> {
    let text = format!("pools:\n  - name: p\n    backends: [{{ name: b, url: 'http://{address}' }}]\n");
    let source = ntonix_config::Source::read(&text, std::path::Path::new("/")).unwrap();
    let config = ntonix_config::validate(&source.draft).unwrap();
    Arc::new(Connector::new(&config.pools[0].backends[0], None, 1).unwrap())
}

async fn get(connector: &Arc<Connector>) -> Result<(), AskError> {
    let request = |version| {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = connector.uri("/", version);
        connector.set_host(request.headers_mut(), version);
        request
    };
    let mut answer = ask(connector, SECONDS, request).await?;
    while let Some(data) = answer.body.data().await {
        data?;
    }
    Ok(())
}

/// Answers one request on a connection.
async fn serve_one(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
}

/// A backend that closes each connection after one answer, without having said so, and counts connections.
async fn closing_backend() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&connections);
    tasks::spawn("backend", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            serve_one(&mut stream).await;
        }
    });
    (address, connections)
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_is_not_asked() {
    let (address, connections) = closing_backend().await;
    let connector = connector(address);
    for _ in 0..3 {
        timeout(SECONDS, get(&connector)).await.expect("it hangs").unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_close_that_shows_only_while_a_request_waits_to_be_sent_does_not_hang_it() {
    let (address, _) = closing_backend().await;
    let connector = connector(address);
    get(&connector).await.unwrap();
    // The close has arrived, but a task without budget sees no socket as ready: the look at the idle connection
    // misses it, and the connection ends under a request that it has taken over and not sent.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asked = async {
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
        get(&connector).await
    };
    timeout(SECONDS, asked).await.expect("it hangs").unwrap();
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_clean_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(listener.local_addr().unwrap());
    let backend = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            serve_one(&mut stream).await;
        }
    };
    let asking = async {
        for _ in 0..3 {
            get(&connector).await.unwrap();
        }
    };
    timeout(SECONDS, async { tokio::join!(backend, asking) }).await.expect("a second connection was waited for");
}
