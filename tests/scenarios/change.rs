//! Changes under load: of the configuration and of certificates. Whoever streams does not notice.

use std::sync::Arc;
use std::time::Duration;

use ntonix_config::Source;
use ntonix_proto::admin::v1::ConfigServiceApplyRequest;
use ntonix_proto::admin::v1::config_service_client::ConfigServiceClient;
use ntonix_tests::certs::Authority;
use ntonix_tests::client::Connection;
use ntonix_tests::cluster::Cluster;
use ntonix_tests::gateway::Gateway;
use ntonix_tests::mock_llm::{MODEL, MockLlm, Pace, Script};
use ntonix_tests::wait::eventually;
use rustix::process::Signal;

use crate::crowd::{Crowd, Door};
use crate::stage::config;

const PUSHES: u32 = 1000;
const ROTATIONS: usize = 100;
const CLIENTS: usize = 12;

fn paced() -> Script {
    Script::Answer { tokens: 20, pace: Pace::Every(Duration::from_millis(5)) }
}

/// The configuration of this revision: backends come and go, weights, limits and deadlines change.
fn draft(number: u32, mocks: &[MockLlm; 2]) -> ConfigServiceApplyRequest {
    let backend = |index: usize| {
        let weight = 1 + number % 7;
        format!("{{ name: gpu-{index}, url: \"{}\", weight: {weight} }}", mocks[index].url())
    };
    let backends = match number % 3 {
        0 => backend(0),
        1 => backend(1),
        _ => format!("{}, {}", backend(0), backend(1)),
    };
    let balance = if number.is_multiple_of(2) { "least-loaded" } else { "weighted-round-robin" };
    let text = format!(
        "pools: [{{ name: llama, backends: [{backends}], balance: {balance} }}]\n\
         routes: [{{ model: {MODEL}, targets: [{{ pool: llama }}], retries: {} }}]\n\
         limits: {{ streams: {} }}\n",
        number % 3,
        1000 + number
    );
    let source = Source::read(&text, std::path::Path::new("/")).unwrap();
    ConfigServiceApplyRequest { config: Some(source.draft), ..ConfigServiceApplyRequest::default() }
}

#[tokio::test]
async fn a_thousand_pushes_fail_no_request_and_cut_no_stream() {
    let mocks = [MockLlm::start().unwrap(), MockLlm::start().unwrap()];
    mocks.iter().for_each(|mock| mock.always(paced()));
    let cluster = Cluster::start().await.unwrap();
    let worker = cluster.worker("w1").await.unwrap();
    let mut admin = ConfigServiceClient::new(cluster.channel().unwrap());
    admin.apply(draft(0, &mocks)).await.unwrap();
    worker.runs(1).await.unwrap();

    let crowd = Crowd::gather(&Door::Plain(worker.address()), CLIENTS);
    for number in 1..PUSHES {
        let applied = admin.apply(draft(number, &mocks)).await.unwrap().into_inner();
        assert_eq!(applied.revision.unwrap().number, u64::from(number) + 1);
        if number.is_multiple_of(100) {
            // Not only before and after: everyone is served while the pushes go on.
            crowd.served(1).await;
        }
    }
    worker.runs(u64::from(PUSHES)).await.unwrap();
    crowd.served(1).await;
    crowd.leave().await.unwrap();
    assert_eq!(mocks.iter().map(|mock| mock.counts().cut).sum::<usize>(), 0);
    assert_eq!(worker.metric("ntonix_config_refused_total").await.unwrap(), 0.0);
    assert_eq!(worker.metric("ntonix_panics_total").await.unwrap(), 0.0);
}

#[tokio::test]
async fn a_hundred_rotations_of_the_certificate_fail_no_handshake_and_cut_no_stream() {
    let mock = MockLlm::start().unwrap();
    mock.always(paced());
    let authority = Authority::new().unwrap();
    let pair = authority.sign("gateway", &["localhost"]).unwrap();
    let flags = [format!("--tls-cert={}", pair.certificate.display()), format!("--tls-key={}", pair.key.display())];
    let gateway = Gateway::start(&config(&[&mock], "", "retries: 0", ""), &[&flags[0], &flags[1]]).await.unwrap();
    let address = gateway.process().address("Worker serves", "listen_tls").await.unwrap();
    let client = |protocol: &[u8]| authority.client(&[protocol]).unwrap();
    let protocols = [client(b"http/1.1"), client(b"h2")];
    let shown = async || {
        let connection = Connection::open_tls(address, Arc::clone(&protocols[0]), "localhost").await.unwrap();
        connection.certificate().unwrap().to_vec()
    };

    let crowd = Crowd::gather(&Door::Secure(address, protocols.clone()), CLIENTS);
    let mut last = shown().await;
    for _ in 0..ROTATIONS {
        // Certificate and key are two files: a reading in between finds a pair that does not fit, and keeps the old one.
        authority.sign("gateway", &["localhost"]).unwrap();
        gateway.process().signal(Signal::HUP).unwrap();
        eventually("new connections see the new certificate", async || shown().await != last).await.unwrap();
        last = shown().await;
    }
    crowd.served(1).await;
    crowd.leave().await.unwrap();
    assert_eq!(mock.counts().cut, 0);
}
