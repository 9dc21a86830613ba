//! Servers that are not there, and those that want something else than they get.

use ntonix_proto::admin::v1::WorkerServiceListRequest;
use ntonix_runtime::{tasks, tls::ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::complaint::explain;

/// A server's certificate by an authority, and that authority.
struct Files(TempDir);

/// Whether a server wants to see a certificate.
enum Wants {
    Nothing,
    Certificate,
}

// === impl Files ===

impl Files {
    fn new() -> Self {
        tls::install_provider();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("ca", authority.pem()), ("cert", leaf.pem()), ("key", key.serialize_pem())] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A server over TLS that shakes hands and then closes. Returns its port.
    async fn serve(&self, wants: Wants) -> u16 {
        let client_ca = matches!(wants, Wants::Certificate).then(|| self.path("ca"));
        let pair = (self.path("cert"), self.path("key"));
        let acceptor = TlsAcceptor::from(ServerTls::load(&[pair], client_ca.as_deref(), &[b"h2"]).unwrap().config());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks::spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    // Whoever is let in is heard, but not answered.
                    let _ = stream.read(&mut [0; 1024]).await;
                }
            }
        });
        port
    }
}

/// How `ntonixctl workers` ends against this URL.
async fn told(url: &str, ca: Option<PathBuf>) -> String {
    let args = ServerArgs { server: parse_url(url).unwrap(), tls: TlsArgs { ca, ..TlsArgs::default() } };
    let server = match Server::connect(&args).await {
        Ok(server) => server,
        Err(error) => return format!("{error:#}"),
    };
    explain(&server.workers().list(WorkerServiceListRequest::default()).await.unwrap_err(), None).to_string()
}

#[test]
fn what_is_no_url_is_refused() {
    for bad in ["", "localhost", "localhost:7070", "ftp://x", "http://", "http:///x"] {
        assert!(parse_url(bad).is_err(), "{bad}");
    }
    assert!(parse_url("http://[::1]:7070").is_ok());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    // Bound and dropped, so that nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = parse_url(&format!("http://{address}")).unwrap();
    let error = dial_within(Duration::ZERO, &url, &TlsArgs::default(), &[]).await.err().unwrap();
    assert!(format!("{error:#}").starts_with(&format!("http://{address}/ cannot be reached: ")), "{error:#}");
}

#[tokio::test]
async fn plain_http_to_a_door_of_tls_gets_a_hint() {
    let port = Files::new().serve(Wants::Nothing).await;
    let told = told(&format!("http://127.0.0.1:{port}"), None).await;
    assert!(told.starts_with(&format!("http://127.0.0.1:{port}/ cannot be reached: ")), "{told}");
    assert!(told.ends_with("; it seems to speak TLS: use https://"), "{told}");
}

/// What is told of a door of TLS by whoever shows no certificate.
async fn told_without_certificate(wants: Wants) -> String {
    let files = Files::new();
    let port = files.serve(wants).await;
    told(&format!("https://localhost:{port}"), Some(files.path("ca"))).await
}

#[tokio::test]
async fn no_certificate_where_one_is_wanted_gets_a_hint() {
    let told = told_without_certificate(Wants::Certificate).await;
    assert!(told.ends_with("; it may want a client certificate: --cert and --key-file"), "{told}");
}

#[tokio::test]
async fn who_closes_and_wants_no_certificate_gets_no_hint() {
    let told = told_without_certificate(Wants::Nothing).await;
    assert!(told.ends_with("; is the control plane running there? (--server, NTONIX_SERVER)"), "{told}");
    assert!(!told.contains("; it "), "{told}");
}

#[tokio::test]
async fn https_to_a_door_without_tls_gets_a_hint() {
    let files = Files::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks::spawn("server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Kept until the client has left.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let told = told(&format!("https://localhost:{port}"), Some(files.path("ca"))).await;
    assert!(told.ends_with("; it seems not to speak TLS: use http://"), "{told}");
}
