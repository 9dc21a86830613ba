//! The gRPC channel to the control plane, over plain TCP or mutual TLS.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use ntonix_runtime::tls::{self, TlsFault};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::settings::SyncTls;

/// How long connecting may take, TLS included.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a peer that is gone without a word.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// A file of the TLS side is no good.
    #[error("cannot use the TLS files")]
    Tls(#[from] TlsFault),
    /// The URL names no host that TLS could verify.
    #[error("the control plane's URL has no host name for TLS")]
    Host,
    /// Nobody answers, or not as a control plane.
    #[error("cannot reach the control plane")]
    Connect(#[from] tonic::transport::Error),
}

/// Connects. The files are read anew each time, so that renewed certificates are used.
pub(crate) async fn connect(url: &Uri, files: &SyncTls) -> Result<Channel, LinkError> {
    if url.scheme_str() != Some("https") {
        return Ok(endpoint(url.clone()).connect().await?);
    }
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| LinkError::Host)?;
    let identity = files.identity.as_ref().map(|(cert, key): &(PathBuf, PathBuf)| (cert.as_path(), key.as_path()));
    let config = tls::client_config(files.ca.as_deref(), identity, &[b"h2"])?;
    let address = (host.to_owned(), url.port_u16().unwrap_or(443));
    let connector = tower::service_fn(move |_: Uri| handshake(address.clone(), name.clone(), Arc::clone(&config)));
    // TLS is ours, so the endpoint is told of a plain address, or it would refuse, and speaks as if to the real one.
    let plain = Uri::builder().scheme("http").authority(url.host().unwrap_or_default()).path_and_query("/").build();
    let endpoint = endpoint(plain.map_err(|_| LinkError::Host)?).origin(url.clone());
    Ok(endpoint.connect_with_connector(connector).await?)
}

fn endpoint(url: Uri) -> Endpoint {
    Endpoint::from(url)
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
}

async fn handshake(
    address: (String, u16),
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ntonix_runtime::tls::ServerTls;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An authority and a certificate of it for localhost, in PEM files of a folder.
    fn certificates(folder: &std::path::Path) -> SyncTls {
        let mut authority = CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let file = |name: &str, text: String| {
            fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let identity = (file("leaf.pem", leaf.pem()), file("leaf.key", key.serialize_pem()));
        SyncTls { identity: Some(identity), ca: Some(file("ca.pem", authority.pem())) }
    }

    #[tokio::test]
    async fn an_https_control_plane_is_reached_with_certificates_on_both_sides() {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let files = certificates(folder.path());
        let pair = files.identity.clone().unwrap();
        let server = ServerTls::load(&[pair], files.ca.as_deref(), &[b"h2"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let shaken = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(server.config()).accept(stream).await.unwrap()
        };
        let (connected, stream) = tokio::join!(connect(&url, &files), shaken);
        connected.unwrap();
        assert!(stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty()));
    }
}
