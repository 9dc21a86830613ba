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
    let endpoint = Endpoint::from(url.clone())
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    if url.scheme_str() != Some("https") {
        return Ok(endpoint.connect().await?);
    }
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| LinkError::Host)?;
    let identity = files.identity.as_ref().map(|(cert, key): &(PathBuf, PathBuf)| (cert.as_path(), key.as_path()));
    let config = tls::client_config(files.ca.as_deref(), identity, &[b"h2"])?;
    let address = (host.to_owned(), url.port_u16().unwrap_or(443));
    let connector = tower::service_fn(move |_: Uri| handshake(address.clone(), name.clone(), Arc::clone(&config)));
    Ok(endpoint.connect_with_connector(connector).await?)
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
