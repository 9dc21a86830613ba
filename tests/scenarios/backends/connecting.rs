//! B1, B2, B3, B20: backends that cannot be reached, or leave before their first word. B2 with every packet dropped, where
//! that can be done, is in `vanished`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use ntonix_tests::certs::Authority;
use ntonix_tests::client::Ask;
use ntonix_tests::mock_llm::{self, MODEL, MockLlm, Script};
use ntonix_tests::worker::TestWorker;
use socket2::{Domain, Socket, Type};

use super::books::{Books, Left};
use super::{ONCE, PATIENT, row, stage};
use crate::stage::{assert_fine, assert_refused, attempts, backend_is, config, connect};

/// A pool of backends by their URLs, asked in turns, the first one first.
fn pool(urls: &[&str], more: &str, route: &str) -> String {
    let backends: Vec<_> =
        urls.iter().enumerate().map(|(index, url)| format!("{{ name: gpu-{index}, url: \"{url}\" {more} }}")).collect();
    format!(
        "pools: [{{ name: llama, backends: [{}], {PATIENT}, balance: weighted-round-robin, health: {{ every: 1h }} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], {route} }}]\n",
        backends.join(", ")
    )
}

/// The URL of a port where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A port whose connections are never taken: the system drops the SYN of whoever comes, as a firewall would.
struct BlackHole {
    address: SocketAddr,
    _held: (Socket, Vec<Socket>),
}

impl BlackHole {
    fn open() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // The queue has room for one; those that come then wait for ever.
        let fill = (0..8).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            socket
        });
        let held = fill.collect();
        Self { address, _held: (listener, held) }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[tokio::test]
async fn b1_a_backend_that_refuses_connections_is_a_502_and_costs_no_request_when_there_is_another() {
    let (gone, good) = (nobody(), MockLlm::start().unwrap());
    let alone = TestWorker::start(&pool(&[&gone], "", ONCE)).await.unwrap();
    for (round, ask) in [Ask::chat(), Ask::streamed_chat()].into_iter().enumerate() {
        let books = Books::after(&alone, round).await;
        let answer = connect(&alone).await.ask(ask).await.unwrap();
        assert_refused(&answer, 502, "upstream_connect");
        assert_eq!(answer.json()["error"]["retryable"], true);
        let record = books.gained(Left { outcome: "upstream_connect", attempts: 1, failures: 1 }).await;
        assert_eq!((&record["prompt_tokens"], &record["completion_tokens"]), (&0.into(), &0.into()));
    }
    let both = TestWorker::start(&pool(&[&gone, &good.url()], "", "retries: 1")).await.unwrap();
    let mut connection = connect(&both).await;
    let books = Books::after(&both, 0).await;
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    books.gained(Left { outcome: "completed", attempts: 2, failures: 1 }).await;
    for _ in 0..9 {
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
    assert_eq!(good.counts().attempts, 10);
}

#[tokio::test]
async fn b1_every_backend_down_is_a_503_that_says_when_to_come_again() {
    let (first, second) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let config = config(&[&first, &second], "health: { every: 100ms, unhealthy_after: 1 }", ONCE, "");
    for mock in [&first, &second] {
        mock.for_path("/health", Script::status(503, "warming up"));
    }
    let worker = TestWorker::start(&config).await.unwrap();
    for backend in ["gpu-0", "gpu-1"] {
        backend_is(&worker, backend, "unhealthy").await;
    }
    let books = Books::after(&worker, 0).await;
    let answer = connect(&worker).await.ask(Ask::chat()).await.unwrap();
    assert_refused(&answer, 503, "no_healthy_backend");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    books.gained(Left { outcome: "no_healthy_backend", attempts: 0, failures: 0 }).await;
}

#[tokio::test]
async fn b2_a_backend_that_never_takes_a_connection_is_given_up_after_the_connect_timeout() {
    let (hole, good) = (BlackHole::open(), MockLlm::start().unwrap());
    let deadline = "deadlines: { connect: 300ms }";
    let alone = TestWorker::start(&pool(&[&hole.url()], "", &format!("{ONCE}, {deadline}"))).await.unwrap();
    let books = Books::after(&alone, 0).await;
    assert_refused(&connect(&alone).await.ask(Ask::streamed_chat()).await.unwrap(), 502, "upstream_connect");
    let record = books.gained(Left { outcome: "upstream_connect", attempts: 1, failures: 1 }).await;
    // It waited: a port where nobody listens would have been refused at once.
    assert!(record["total_ms"].as_f64().unwrap() >= 300.0, "{record:#}");

    let urls = [hole.url(), good.url()];
    let both = pool(&[&urls[0], &urls[1]], "", &format!("retries: 1, {deadline}"));
    let both = TestWorker::start(&both).await.unwrap();
    let books = Books::after(&both, 0).await;
    assert!(connect(&both).await.transcript(Ask::streamed_chat()).await.unwrap().is_done());
    books.gained(Left { outcome: "completed", attempts: 2, failures: 1 }).await;
}

#[tokio::test]
async fn b3_a_backend_that_dies_before_the_first_event_is_asked_once_and_the_status_is_still_ours() {
    let stage = stage().await;
    let mut connection = stage.connect().await;
    let asks = [Ask::chat(), Ask::streamed_chat()].into_iter();
    for (round, (ask, name)) in asks.flat_map(|ask| ["B01", "B03"].map(|name| (ask.clone(), name))).enumerate() {
        println!("{name}");
        let books = Books::after(&stage.worker, 2 * round).await;
        let (seen, head) = (stage.mock.counts().attempts, "application/json");
        let is_stream = round >= 2;
        stage.mock.next(if is_stream { row(name) } else { row(name).header("content-type", head) });
        assert_refused(&connection.ask(ask).await.unwrap(), 502, "upstream_reset");
        let record = books.gained(Left { outcome: "upstream_reset", attempts: 1, failures: 1 }).await;
        assert_eq!((&record["generated"], &record["status"]), (&0.into(), &502.into()));
        assert_eq!(stage.mock.counts().attempts, seen + 1);
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    }
}

#[tokio::test]
async fn b3_with_another_backend_the_client_sees_one_clean_stream() {
    // Item 10: cut before any event.
    let (first, second) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let worker = TestWorker::start(&pool(&[&first.url(), &second.url()], "", "retries: 1")).await.unwrap();
    first.always(row("B03"));
    let books = Books::after(&worker, 0).await;
    let transcript = connect(&worker).await.transcript(Ask::streamed_chat()).await.unwrap();
    assert!(transcript.is_done() && !transcript.is_cut());
    assert_eq!(transcript.content(), "t0 t1 t2 t3 t4 ");
    assert_eq!(transcript.text().matches("\"role\"").count(), 1);
    books.gained(Left { outcome: "completed", attempts: 2, failures: 1 }).await;
    assert_eq!(attempts(&[&first, &second]), [1, 1]);
}

/// A worker that believes `authority` and asks one backend over TLS.
async fn over_tls(authority: &Authority, url: &str, deadline: &str) -> TestWorker {
    let more = format!(", ca: {{ file: \"{}\" }}", authority.file().display());
    TestWorker::start(&pool(&[url], &more, &format!("{ONCE}, {deadline}"))).await.unwrap()
}

#[tokio::test]
async fn b20_a_certificate_that_is_no_good_is_a_502_without_details() {
    let (ours, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let pairs = [
        ("expired", ours.sign_expired("expired", &["127.0.0.1"]).unwrap()),
        ("wrong name", ours.sign("wrong", &["elsewhere.test"]).unwrap()),
        ("unknown authority", other.sign("unknown", &["127.0.0.1"]).unwrap()),
    ];
    for (name, pair) in pairs {
        println!("{name}");
        let options = mock_llm::Options { tls: Some(pair.server().unwrap()), ..mock_llm::Options::default() };
        let mock = MockLlm::start_with(options).unwrap();
        let worker = over_tls(&ours, &mock.url(), "").await;
        let books = Books::after(&worker, 0).await;
        let answer = connect(&worker).await.ask(Ask::streamed_chat()).await.unwrap();
        assert_refused(&answer, 502, "upstream_tls");
        for detail in ["xpired", "ertificate", "issuer", &mock.address().to_string()] {
            assert!(!answer.text().contains(detail), "{}", answer.text());
        }
        books.gained(Left { outcome: "upstream_tls", attempts: 1, failures: 1 }).await;
        assert_eq!(mock.counts().attempts, 0);
    }
}

#[tokio::test]
async fn b20_a_handshake_that_stalls_is_a_connection_that_never_came() {
    // Accepted by the system, read by nobody.
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    let worker = over_tls(&Authority::new().unwrap(), &url, "deadlines: { connect: 300ms }").await;
    let books = Books::after(&worker, 0).await;
    assert_refused(&connect(&worker).await.ask(Ask::chat()).await.unwrap(), 502, "upstream_connect");
    books.gained(Left { outcome: "upstream_connect", attempts: 1, failures: 1 }).await;
    let (stalled, _): (TcpStream, _) = listener.accept().unwrap();
    drop(stalled);
}
