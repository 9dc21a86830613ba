//! TLS on both sides: protocols by ALPN, certificates by name and read again, authorities that are believed or not.

use std::fs;
use std::net::SocketAddr;

use ntonix_tests::certs::{Authority, Pair};
use ntonix_tests::client::{Ask, Connection, RawConnection};
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{self, MODEL, MockLlm};
use ntonix_tests::wait::eventually;
use ntonix_tests::worker::TestWorker;

use crate::stage::{assert_fine, assert_refused, config, connect};

/// A worker that shows these certificates.
async fn worker(mock: &MockLlm, pairs: &[&Pair]) -> TestWorker {
    TestWorker::start_with(&config(&[mock], "", "", ""), |traffic| {
        traffic.tls_cert = pairs.iter().map(|pair| pair.certificate.clone()).collect();
        traffic.tls_key = pairs.iter().map(|pair| pair.key.clone()).collect();
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn clients_speak_what_both_sides_agree_on() {
    let (mock, authority) = (MockLlm::start().unwrap(), Authority::new().unwrap());
    let worker = worker(&mock, &[&authority.sign("gateway", &["gateway.test"]).unwrap()]).await;
    let protocols: [(&[&[u8]], http::Version); 3] = [
        (&[b"h2", b"http/1.1"], http::Version::HTTP_2),
        (&[b"http/1.1"], http::Version::HTTP_11),
        (&[], http::Version::HTTP_11),
    ];
    for (offered, version) in protocols {
        let tls = authority.client(offered).unwrap();
        let mut connection = Connection::open_tls(worker.tls_address().unwrap(), tls, "gateway.test").await.unwrap();
        let answer = connection.ask(Ask::chat()).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (200, version));
        let transcript = connection.transcript(Ask::streamed_chat()).await.unwrap();
        assert!(transcript.is_done());
    }
}

async fn shown(authority: &Authority, address: SocketAddr, name: &str) -> Vec<u8> {
    let tls = authority.client(&[b"http/1.1"]).unwrap();
    let mut connection = Connection::open_tls(address, tls, name).await.unwrap();
    assert_fine(&connection.ask(Ask::chat()).await.unwrap());
    connection.certificate().unwrap().to_vec()
}

#[tokio::test]
async fn each_name_has_its_certificate() {
    let (mock, authority) = (MockLlm::start().unwrap(), Authority::new().unwrap());
    let pairs = ["one", "two"].map(|name| authority.sign(name, &[&format!("{name}.test")]).unwrap());
    let worker = worker(&mock, &[&pairs[0], &pairs[1]]).await;
    for (name, pair) in ["one.test", "two.test"].iter().zip(&pairs) {
        assert_eq!(shown(&authority, worker.tls_address().unwrap(), name).await, pair.der().unwrap());
    }
}

#[tokio::test]
async fn a_certificate_is_read_again_when_it_changes_and_a_bad_one_is_not_taken() {
    let (mock, authority) = (MockLlm::start().unwrap(), Authority::new().unwrap());
    let pair = authority.sign("gateway", &["gateway.test"]).unwrap();
    let flags = [("--tls-cert", &pair.certificate), ("--tls-key", &pair.key)];
    let flags = flags.map(|(flag, path)| format!("{flag}={}", path.display()));
    let gateway = Gateway::start(&config(&[&mock], "", "", ""), &[flags[0].as_str(), flags[1].as_str()]).await.unwrap();
    let address = gateway.process().address("Worker serves", "listen_tls").await.unwrap();
    let first = pair.der().unwrap();
    assert_eq!(shown(&authority, address, "gateway.test").await, first);

    fs::write(&pair.certificate, "no certificate").unwrap();
    gateway.process().logged("New certificates refused, the old ones stay").await.unwrap();
    assert_eq!(shown(&authority, address, "gateway.test").await, first);

    let tls = authority.client(&[b"http/1.1"]).unwrap();
    let mut old = Connection::open_tls(address, tls, "gateway.test").await.unwrap();
    let second = authority.sign("gateway", &["gateway.test"]).unwrap().der().unwrap();
    let changed = async || shown(&authority, address, "gateway.test").await == second;
    eventually("the new certificate is shown", changed).await.unwrap();
    // A connection that is open stays.
    assert_fine(&old.ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_cut_and_so_is_what_is_no_tls() {
    let (mock, authority) = (MockLlm::start().unwrap(), Authority::new().unwrap());
    let worker = worker(&mock, &[&authority.sign("gateway", &["gateway.test"]).unwrap()]).await;
    let address = worker.tls_address().unwrap();
    let mut silent = RawConnection::open(address).await.unwrap();
    let mut plain = RawConnection::open(address).await.unwrap();
    plain.send(Ask::chat().wire()).await.unwrap();
    let answer = plain.read_to_end().await.unwrap();
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    assert_eq!(silent.read_to_end().await.unwrap(), "");
    assert_eq!(mock.counts().attempts, 0);
}

/// A mock that speaks TLS, and a worker that believes this authority (none: those of the system).
async fn secure_backend(signed_by: &Authority, believed: Option<&Authority>, more: &str) -> (MockLlm, TestWorker) {
    let pair = signed_by.sign("backend", &["127.0.0.1"]).unwrap();
    let options = mock_llm::Options { tls: Some(pair.server().unwrap()), ..mock_llm::Options::default() };
    let mock = MockLlm::start_with(options).unwrap();
    let ca = believed.map(|authority| format!("ca: {{ file: \"{}\" }},", authority.file().display()));
    let config = format!(
        "pools: [{{ name: p, backends: [{{ name: b, url: \"{}\", {} {more} }}] }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: p }}], retries: 0 }}]\n",
        mock.url(),
        ca.unwrap_or_default()
    );
    let worker = TestWorker::start(&config).await.unwrap();
    (mock, worker)
}

#[tokio::test]
async fn a_backend_is_asked_over_tls_by_either_version() {
    let authority = Authority::new().unwrap();
    for (more, version) in [("", http::Version::HTTP_11), ("http2: true", http::Version::HTTP_2)] {
        let (mock, worker) = secure_backend(&authority, Some(&authority), more).await;
        let mut connection = connect(&worker).await;
        assert_fine(&connection.ask(Ask::chat()).await.unwrap());
        assert!(connection.transcript(Ask::streamed_chat()).await.unwrap().is_done());
        assert!(mock.requests().iter().all(|request| request.version == version));
    }
}

#[tokio::test]
async fn a_backend_whose_authority_is_not_believed_is_told_as_such() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    for believed in [Some(&other), None] {
        let (mock, worker) = secure_backend(&authority, believed, "").await;
        let answer = connect(&worker).await.ask(Ask::streamed_chat()).await.unwrap();
        assert_refused(&answer, 502, "upstream_tls");
        assert_eq!(mock.counts().attempts, 0);
    }
}

#[tokio::test]
async fn a_backend_is_asked_over_http2_without_tls_too() {
    let mock = MockLlm::start().unwrap();
    let config = format!(
        "pools: [{{ name: p, backends: [{{ name: b, url: \"{}\", http2: true }}] }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: p }}] }}]\n",
        mock.url()
    );
    let worker = TestWorker::start(&config).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut connection = connect(&worker).await;
        let stream = connection.stream(Ask::streamed_chat()).await.unwrap();
        connections.push((connection, stream));
    }
    for (_connection, stream) in connections {
        assert!(stream.rest().await.unwrap().is_done());
    }
    assert!(mock.requests().iter().all(|request| request.version == http::Version::HTTP_2));
}
