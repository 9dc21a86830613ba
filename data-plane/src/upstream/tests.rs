use std::{net::SocketAddr, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
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
    let mut answer = ask(connector, SECONDS, IfLost::AskAgain, request).await?;
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

/// A backend that answers once on each connection and closes it when it is told to, without having said so.
struct ClosingBackend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    close: Arc<Notify>,
    closed: Arc<Notify>,
}

impl ClosingBackend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Self { address, connections: Arc::default(), close: Arc::default(), closed: Arc::default() };
        let (connections, close) = (Arc::clone(&backend.connections), Arc::clone(&backend.close));
        let closed = Arc::clone(&backend.closed);
        tasks::spawn("backend", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                serve_one(&mut stream).await;
                close.notified().await;
                drop(stream);
                closed.notify_one();
            }
        });
        backend
    }

    /// Closes the connection; the reactor of this thread has seen it afterwards.
    async fn close(&self) {
        self.close.notify_one();
        self.closed.notified().await;
        // What the reactor does after the close, it does having seen the close.
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_near, _far) = tokio::join!(TcpStream::connect(other.local_addr().unwrap()), other.accept());
    }
}

#[tokio::test]
async fn an_idle_connection_that_the_backend_closed_is_not_asked() {
    let backend = ClosingBackend::start().await;
    let connector = connector(backend.address);
    for _ in 0..3 {
        timeout(SECONDS, get(&connector)).await.expect("it hangs").unwrap();
        backend.close().await;
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_close_that_shows_only_while_a_request_waits_to_be_sent_does_not_hang_it() {
    let backend = ClosingBackend::start().await;
    let connector = connector(backend.address);
    get(&connector).await.unwrap();
    backend.close().await;
    // A task without budget sees no socket as ready: the look at the idle connection misses the close, and the
    // connection ends under a request that it has taken over and not sent.
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
