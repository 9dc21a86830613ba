use std::{convert::Infallible, net::SocketAddr, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use futures_util::future::join_all;
use http::Response;
use hyper::{server::conn as server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::coop,
    time::{Instant, timeout},
};

use ntonix_runtime::tasks;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const SECONDS: Duration = Duration::from_secs(20);

fn connector(address: SocketAddr) -> Arc<Connector> {
    connector_with(address, "")
}

fn connector_with(address: SocketAddr, members: &str) -> Arc<Connector> {
    let text = format!("pools:\n  - name: p\n    backends: [{{ name: b, url: 'http://{address}', {members} }}]\n");
    let source = ntonix_config::Source::read(&text, std::path::Path::new("/")).unwrap();
    let config = ntonix_config::validate(&source.draft).unwrap();
    Arc::new(Connector::new(&config.pools[0].backends[0], None, 1).unwrap())
}

async fn get(connector: &Arc<Connector>) -> Result<(), AskError> {
    let mut answer = head(connector).await?;
    while let Some(data) = answer.body.data().await {
        data?;
    }
    Ok(())
}

/// Asks, and leaves the body where it is.
async fn head(connector: &Arc<Connector>) -> Result<Answer, AskError> {
    let request = || {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = connector.uri("/");
        connector.set_host(request.headers_mut());
        request
    };
    ask(connector, SECONDS, IfLost::AskAgain, request).await
}

/// Reads one request on a connection.
async fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
}

/// Answers one request on a connection.
async fn serve_one(stream: &mut TcpStream) {
    read_request(stream).await;
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

#[tokio::test]
async fn an_idle_connection_that_is_too_old_is_not_asked_although_nobody_has_pruned_yet() {
    let backend = ClosingBackend::start().await;
    let connector = connector(backend.address);
    timeout(SECONDS, get(&connector)).await.expect("it hangs").unwrap();
    assert!(connector.idle(Instant::now() + 61 * SECOND).is_none(), "it is older than a minute");
    assert!(connector.idle(Instant::now() + 59 * SECOND).is_some(), "it is not");
}

/// Asks over a connection that served before and breaks `later` than the request was written; the next one answers.
/// Gives how that ends, and how many requests were made.
async fn ask_and_lose(later: Duration) -> (Result<(), AskError>, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = connector(listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let backend = tasks::spawn("backend", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        serve_one(&mut stream).await;
        read_request(&mut stream).await;
        seen.store(2, Ordering::SeqCst);
        // Only this time is not real: a clock that always stands goes on by itself while sockets are waited for.
        tokio::time::pause();
        tokio::time::advance(later).await;
        tokio::time::resume();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        seen.store(3, Ordering::SeqCst);
        serve_one(&mut stream).await;
        let _closed = stream.read_u8().await;
    });
    get(&connector).await.unwrap();
    let asked = timeout(SECONDS, get(&connector)).await.expect("it hangs");
    backend.abort();
    (asked, requests.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_request_that_is_lost_at_once_over_a_connection_that_had_lain_idle_is_asked_again() {
    let (asked, requests) = ask_and_lose(Duration::ZERO).await;
    assert!(asked.is_ok() && requests == 3, "{asked:?} after {requests}");
}

#[tokio::test]
async fn a_request_that_is_lost_later_is_a_lost_one_whatever_connection_it_went_by() {
    let (asked, requests) = ask_and_lose(2 * SECOND).await;
    assert!(matches!(asked, Err(AskError::Lost(_))) && requests == 2, "{asked:?} after {requests}");
}

/// Its connections, as many as there are at a time.
struct Http2Backend {
    connector: Arc<Connector>,
    live: watch::Receiver<usize>,
}

impl Http2Backend {
    /// Serves each connection by `serve`, to its end.
    async fn start<F: Future<Output = ()> + Send>(serve: impl Fn(TcpStream) -> F + Send + Clone + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connector = connector_with(listener.local_addr().unwrap(), "http2: true");
        let (count, live) = watch::channel(0);
        tasks::spawn("backend", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, serve) = (count.clone(), serve.clone());
                count.send_modify(|live| *live += 1);
                tasks::spawn("backend-connection", async move {
                    serve(stream).await;
                    count.send_modify(|live| *live -= 1);
                });
            }
        });
        Self { connector, live }
    }

    /// Waits until it has so many connections.
    async fn until(&mut self, connections: usize) {
        let waited = timeout(SECONDS, self.live.wait_for(|live| *live == connections)).await;
        waited.unwrap_or_else(|_| panic!("not {connections}")).unwrap();
    }
}

/// Answers every request of a connection.
async fn serve_all(stream: TcpStream) {
    let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok")))) });
    let ended = server::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    drop(ended);
}

#[tokio::test]
async fn shared_connections_that_a_burst_has_left_are_dropped_and_one_in_use_is_not() {
    let mut backend = Http2Backend::start(serve_all).await;
    let connector = Arc::clone(&backend.connector);
    let asked = join_all((0..20).map(|_| head(&connector)));
    let mut answers = timeout(SECONDS, asked).await.expect("it hangs");
    let opened = *backend.live.borrow();
    assert!(opened > 2, "{opened}");
    // One stream on one of them goes on.
    let last = answers.pop().unwrap().unwrap();
    drop(answers);
    connector.prune(Instant::now() + 30 * SECOND);
    // Whatever the prune had dropped would be seen by the time of an answer.
    timeout(SECONDS, get(&connector)).await.expect("it hangs").unwrap();
    assert_eq!(*backend.live.borrow(), opened, "idle for less than a minute");
    connector.prune(Instant::now() + 90 * SECOND);
    backend.until(1).await;
    timeout(SECONDS, get(&connector)).await.expect("it hangs").unwrap();
    assert_eq!(*backend.live.borrow(), 1, "the one in use is still shared");
    drop(last);
    connector.prune(Instant::now() + 90 * SECOND);
    backend.until(0).await;
}

/// Allows no stream, and reads to the end.
async fn allow_none(mut stream: TcpStream) {
    // SETTINGS_MAX_CONCURRENT_STREAMS: 0.
    stream.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]).await.unwrap();
    let mut read = [0; 1024];
    while stream.read(&mut read).await.is_ok_and(|length| length > 0) {}
}

#[tokio::test]
async fn a_backend_that_allows_no_streams_does_not_gather_connections() {
    let mut backend = Http2Backend::start(allow_none).await;
    // As long as its client waits. What a backend allows is known when the connection is asked for the next stream, and
    // on a busy machine not by the first one.
    let ask = async || timeout(SECOND / 50, get(&backend.connector)).await.unwrap_err();
    for _ in 0..10 {
        ask().await;
    }
    let gone = async {
        while *backend.live.borrow() > 1 {
            ask().await;
        }
    };
    timeout(SECONDS, gone).await.expect("they stay");
    backend.connector.prune(Instant::now() + 90 * SECOND);
    backend.until(0).await;
}
