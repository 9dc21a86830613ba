//! Reaches servers: the control plane over gRPC, and for `chat` a gateway over a plain connection.

mod arrive;
mod wire;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use http::Uri;
use hyper_util::rt::TokioIo;
use ntonix_proto::admin::v1::{
    config_service_client::ConfigServiceClient, key_service_client::KeyServiceClient,
    worker_service_client::WorkerServiceClient,
};
use ntonix_runtime::tls;
use rustls::{Error as TlsError, InvalidMessage, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use self::{
    arrive::{START_WITHIN, arrive},
    wire::{HINTS, SPEAKS_NO_TLS, Unheard, note_what_is_wanted, with_hint},
};

pub(crate) use self::wire::Wire;

/// TCP and TLS, together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What every client of HTTP/2 says first (RFC 9113 §3.4), with settings that change nothing: the server answers with its
/// own.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// From a request to the head of its answer; a stream may last longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A configuration with ten thousand routes has some megabytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Where the control plane is, and who we are.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ServerArgs {
    /// Where the control plane takes operators
    #[arg(long, global = true, env = "NTONIX_SERVER", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    #[arg(value_parser = parse_url)]
    pub(crate) server: Uri,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// Whom we trust and who we are, for https.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct TlsArgs {
    /// Trust the authorities in this PEM file for https, instead of the system's
    #[arg(long, global = true, env = "NTONIX_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate (PEM) to the server; its name becomes the author of a revision
    #[arg(long, global = true, env = "NTONIX_CERT", value_name = "FILE", requires = "key_file")]
    cert: Option<PathBuf>,
    /// The private key (PEM) of --cert
    #[arg(long, global = true, env = "NTONIX_KEY_FILE", value_name = "FILE", requires = "cert")]
    key_file: Option<PathBuf>,
}

/// Reads an http or https URL.
pub(crate) fn parse_url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "not a URL".to_owned())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err("must begin with http:// or https:// and name a host".to_owned()),
    }
}

/// Connects to the host of a URL; over TLS for https, offering `alpn`.
///
/// # Errors
///
/// What failed, with the URL.
pub(crate) async fn dial(uri: &Uri, args: &TlsArgs, alpn: &[&[u8]]) -> anyhow::Result<Box<dyn Wire>> {
    dial_within(START_WITHIN, uri, args, alpn).await
}

/// The same; a program of this machine may take `start` until it listens, at most [`CONNECT_TIMEOUT`].
async fn dial_within(start: Duration, uri: &Uri, args: &TlsArgs, alpn: &[&[u8]]) -> anyhow::Result<Box<dyn Wire>> {
    let dialing = async {
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = arrive(host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), start).await?;
        stream.set_nodelay(true)?;
        if is_tls {
            secured(stream, host, args, alpn).await
        } else {
            Ok(Box::new(Unheard::plain(stream)) as Box<dyn Wire>)
        }
    };
    match timeout(CONNECT_TIMEOUT, dialing).await {
        Ok(dialed) => dialed.with_context(|| format!("{uri} cannot be reached")),
        Err(_) => bail!("{uri} cannot be reached: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
    }
}

async fn secured(stream: TcpStream, host: &str, args: &TlsArgs, alpn: &[&[u8]]) -> anyhow::Result<Box<dyn Wire>> {
    let identity = args.cert.as_deref().zip(args.key_file.as_deref());
    let mut config = Arc::unwrap_or_clone(tls::client_config(args.ca.as_deref(), identity, alpn)?);
    let name = ServerName::try_from(host.to_owned())?;
    if identity.is_some() {
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        return Ok(Box::new(connected.map_err(not_tls)?));
    }
    let wanted = note_what_is_wanted(&mut config);
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(Box::new(wanted.watch(connected.map_err(|error| wanted.explain(not_tls(error)))?)))
}

/// A hint for what answers a handshake with something that is not even TLS.
fn not_tls(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)) => with_hint(&error, SPEAKS_NO_TLS),
        _ => error,
    }
}

/// Finds out at once, and in clear words, whether anybody is there who lets us in and speaks as we do. The channel would
/// only say that its connection broke.
async fn probe(args: &ServerArgs) -> anyhow::Result<()> {
    let mut wire = dial(&args.server, &args.tls, &[b"h2"]).await?;
    let greeting = async {
        wire.write_all(GREETING).await?;
        wire.flush().await?;
        wire.read(&mut [0]).await
    };
    match timeout(CONNECT_TIMEOUT, greeting).await {
        Ok(Err(error)) => Err(error).with_context(|| format!("{} cannot be reached", args.server)),
        // Whoever is slow, or says something else, is asked all the same.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Why the control plane is not to be reached, and what to look at.
fn advise(error: &anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    // Somebody is there, but is not believed.
    if text.contains("invalid peer certificate") {
        return anyhow!("{text}; --ca (NTONIX_CA) says whom to trust");
    }
    if HINTS.iter().any(|hint| text.ends_with(hint)) {
        return anyhow!("{text}");
    }
    anyhow!("{text}; is the control plane running there? (--server, NTONIX_SERVER)")
}

/// The control plane.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    channel: Channel,
}

// === impl Server ===

impl Server {
    /// Connects; a connection that breaks later is made anew by the next call.
    ///
    /// # Errors
    ///
    /// When it is not to be reached.
    pub(crate) async fn connect(args: &ServerArgs) -> anyhow::Result<Self> {
        probe(args).await.map_err(|error| advise(&error))?;
        let (args, url) = (args.clone(), args.server.clone());
        // TLS is ours, so the channel is told of a plain address and speaks as if to the real one.
        let plain = format!("http://{}", url.authority().map_or("localhost", |authority| authority.as_str()));
        let endpoint = Endpoint::from_shared(plain)?.origin(url).timeout(ANSWER_TIMEOUT);
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let args = args.clone();
            async move { dial(&args.server, &args.tls, &[b"h2"]).await.map(TokioIo::new) }
        }));
        Ok(Self { channel })
    }

    /// The configuration service.
    pub(crate) fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The key service.
    pub(crate) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    /// The worker service.
    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone())
    }
}
