//! Mutual TLS on both doors.

use ntonix_proto::sync::v1::sync_service_client::SyncServiceClient;
use ntonix_proto::sync::v1::{Hello, SyncRequest, sync_request};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key, as PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self, name: &str) -> ClientTlsConfig {
        let (certificate, key) = self.sign(name);
        self.stranger().identity(Identity::from_pem(certificate, key))
    }

    /// Trusts the server, but shows nothing.
    fn stranger(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.0.pem())).domain_name("localhost")
    }
}

async fn start(authority: &Authority) -> Running {
    ntonix_runtime::tls::install_provider();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (certificate, key) = authority.sign("control plane");
    for (name, text) in [("cert", certificate), ("key", key), ("ca", authority.0.pem())] {
        std::fs::write(path(name), text).unwrap();
    }
    let files = TlsFiles { cert: Some(path("cert")), key: Some(path("key")), ca: Some(path("ca")) };
    let state = path("state");
    Running::start_in(directory, |settings| {
        settings.admin = "0.0.0.0:0".parse().unwrap();
        settings.sync = "0.0.0.0:0".parse().unwrap();
        (settings.admin_tls, settings.sync_tls, settings.state_dir) = (files.clone(), files, state);
    })
    .await
}

async fn connect(port: u16, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap().connect().await
}

#[tokio::test]
async fn the_name_in_the_certificate_is_the_author() {
    let authority = Authority::new();
    let running = start(&authority).await;
    let channel = connect(running.plane.addresses().admin.port(), authority.client("alice")).await.unwrap();
    let reply = ConfigServiceClient::new(channel).apply(asks(draft(&["a"]))).await.unwrap().into_inner();
    assert_eq!(reply.revision.unwrap().author, "alice");
}

#[tokio::test]
async fn who_has_no_certificate_of_the_authority_does_not_get_in() {
    let authority = Authority::new();
    let running = start(&authority).await;
    let addresses = running.plane.addresses();
    let strange = Authority::new();
    let (certificate, key) = strange.sign("alice");
    let foreign = authority.stranger().identity(Identity::from_pem(certificate, key));
    for port in [addresses.admin.port(), addresses.sync.port()] {
        for tls in [authority.stranger(), foreign.clone()] {
            // With TLS 1.3 the client learns of it with the first reply.
            if let Ok(channel) = connect(port, tls).await {
                let refused = ConfigServiceClient::new(channel).apply(asks(draft(&["a"]))).await;
                assert!(refused.is_err());
            }
        }
    }
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{}", addresses.admin.port())).unwrap();
    if let Ok(channel) = plain.connect().await {
        assert!(ConfigServiceClient::new(channel).apply(asks(draft(&["a"]))).await.is_err());
    }
    assert_eq!(running.plane.revision(), 0);
}

#[tokio::test]
async fn a_worker_is_called_by_its_certificate() {
    let authority = Authority::new();
    let running = start(&authority).await;
    let channel = connect(running.plane.addresses().sync.port(), authority.client("worker-7")).await.unwrap();
    let hello = Hello { name: "somebody else".to_owned(), ..Hello::default() };
    let request = SyncRequest { frame: Some(sync_request::Frame::Hello(hello)) };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut stream = SyncServiceClient::new(channel).sync(requests).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    assert!(running.plane.shared.fleet.find("worker-7", None).is_some());
    assert!(running.plane.shared.fleet.find("somebody else", None).is_none());
}
