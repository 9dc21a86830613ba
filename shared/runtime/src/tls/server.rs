//! The server's side: certificates picked by the name that the client asks for, swapped when their files change.

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::{TlsFault, authorities, certificates, private_key, provider, read};
use crate::chain::Chain;
use crate::reload::{FileWatch, hangups};

/// The TLS side of a listener. Cheap to clone; a reload reaches every clone and every configuration handed out.
#[derive(Clone, Debug)]
pub struct ServerTls {
    files: Arc<Files>,
    pairs: Arc<Pairs>,
    clients: Option<Arc<Clients>>,
    config: Arc<ServerConfig>,
    /// Of the content of all files as last loaded.
    fingerprint: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Files {
    pairs: Vec<(PathBuf, PathBuf)>,
    client_ca: Option<PathBuf>,
}

/// What one reading of all files gave.
struct Loaded {
    keys: Vec<Arc<CertifiedKey>>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    fingerprint: u64,
}

// === impl ServerTls ===

impl ServerTls {
    /// Loads pairs of certificate and key files; the first is shown when no certificate has the name asked for. With
    /// `client_ca`, a client must show a certificate from one of its authorities. `alpn`: the protocols, best first.
    ///
    /// # Errors
    /// When there is no pair, or a file cannot be read or used.
    pub fn load(pairs: &[(PathBuf, PathBuf)], client_ca: Option<&Path>, alpn: &[&[u8]]) -> Result<Self, TlsFault> {
        let files = Files { pairs: pairs.to_vec(), client_ca: client_ca.map(Path::to_owned) };
        let loaded = files.load()?;
        let pairs = Arc::new(Pairs(ArcSwap::from_pointee(loaded.keys)));
        let clients = loaded.verifier.map(|verifier| Arc::new(Clients(ArcSwap::from_pointee(verifier))));
        let config = Arc::new(server_config(pairs.clone(), clients.clone(), alpn)?);
        let fingerprint = Arc::new(AtomicU64::new(loaded.fingerprint));
        Ok(Self { files: Arc::new(files), pairs, clients, config, fingerprint })
    }

    /// The configuration for rustls; it follows reloads by itself.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Reads the files again and says whether anything differs. New connections see it, running ones go on.
    ///
    /// # Errors
    /// When a file cannot be read or used; then all stays as it was.
    pub fn reload(&self) -> Result<bool, TlsFault> {
        let loaded = self.files.load()?;
        if self.fingerprint.swap(loaded.fingerprint, Ordering::AcqRel) == loaded.fingerprint {
            return Ok(false);
        }
        self.pairs.0.store(Arc::new(loaded.keys));
        if let (Some(clients), Some(verifier)) = (&self.clients, loaded.verifier) {
            clients.0.store(Arc::new(verifier));
        }
        Ok(true)
    }

    /// All files that it was loaded from.
    pub fn paths(&self) -> Vec<PathBuf> {
        let pairs = self.files.pairs.iter().flat_map(|(certificate, key)| [certificate, key]);
        pairs.chain(&self.files.client_ca).cloned().collect()
    }
}

/// Reloads `tls` whenever one of its files changes, and at once on SIGHUP, for as long as the future is polled. A bad file
/// is logged and the old pair kept. The handler of the signal is in place when this returns.
///
/// # Errors
/// When the system refuses the handler.
pub fn follow(tls: ServerTls) -> io::Result<impl Future<Output = ()> + Send> {
    let mut hangups = hangups()?;
    Ok(async move {
        let mut watch = FileWatch::new(tls.paths());
        loop {
            // Also before the first wait: the files may have changed since they were loaded.
            match tls.reload() {
                Ok(true) => tracing::info!(files = ?tls.paths(), "Certificates loaded anew"),
                Ok(false) => {}
                Err(fault) => tracing::warn!(error = %Chain(&fault), "New certificates refused, the old ones stay"),
            }
            // Each can be dropped while it waits; what changes then is seen by the next look.
            tokio::select! {
                () = watch.changed() => {}
                () = hangups.next() => {}
            }
        }
    })
}

// === impl Files ===

impl Files {
    fn load(&self) -> Result<Loaded, TlsFault> {
        if self.pairs.is_empty() {
            return Err(TlsFault::NoPair);
        }
        let mut hasher = DefaultHasher::new();
        let keys = self.pairs.iter().map(|(cert, key)| load_pair(cert, key, &mut hasher)).collect::<Result<_, _>>()?;
        let verifier = self.client_ca.as_deref().map(|ca| load_verifier(ca, &mut hasher)).transpose()?;
        Ok(Loaded { keys, verifier, fingerprint: hasher.finish() })
    }
}

fn load_pair(certificate: &Path, key: &Path, hasher: &mut DefaultHasher) -> Result<Arc<CertifiedKey>, TlsFault> {
    let (chain_text, key_text) = (read(certificate)?, read(key)?);
    hasher.write(&chain_text);
    hasher.write(&key_text);
    let chain = certificates(certificate, &chain_text)?;
    let secret = private_key(key, &key_text)?;
    CertifiedKey::from_der(chain, secret, &provider()).map(Arc::new).map_err(|source| TlsFault::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source,
    })
}

fn load_verifier(ca: &Path, hasher: &mut DefaultHasher) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let text = read(ca)?;
    hasher.write(&text);
    let roots = authorities(ca, &text)?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| TlsFault::Authority { path: ca.to_owned(), reason: error.to_string() })
}

fn server_config(pairs: Arc<Pairs>, clients: Option<Arc<Clients>>, alpn: &[&[u8]]) -> Result<ServerConfig, TlsFault> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::Provider)?;
    let mut config = match clients {
        None => builder.with_no_client_auth().with_cert_resolver(pairs),
        Some(clients) => {
            let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(pairs);
            // A resumed session is not verified again, and would outlive an authority that was taken away.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The certificates to choose from.
#[derive(Debug)]
struct Pairs(ArcSwap<Vec<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Pairs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pairs = self.0.load();
        let named = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let fitting = named.and_then(|name| pairs.iter().find(|pair| has_name(pair, &name)));
        fitting.or_else(|| pairs.first()).cloned()
    }
}

fn has_name(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Ok(leaf) = pair.end_entity_cert() else { return false };
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

/// Verifies clients by the authorities of the moment.
struct Clients(ArcSwap<Arc<dyn ClientCertVerifier>>);

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A borrowed list cannot come out of the swap; hints are optional (RFC 8446 §4.2.4).
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.load().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().supported_verify_schemes()
    }
}
