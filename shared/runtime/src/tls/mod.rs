//! TLS from PEM files: several certificates by name, client certificates, and re-reading when the files change.

mod client;
mod peer;
mod server;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use client::client_config;
pub use peer::peer_name;
pub use server::{ServerTls, follow};

/// Why certificates, keys or authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{} is not PEM: {source}", path.display())]
    NotPem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The file has no certificate.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// The file has no private key.
    #[error("{} holds no private key", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate and the key are not a pair, or one of them is of a kind that is not supported.
    #[error("{} and {} do not fit together: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// A certificate cannot serve as an authority.
    #[error("{} holds no usable authority: {reason}", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A server was asked to start without a certificate.
    #[error("a TLS listener needs at least one certificate")]
    NoPair,
    /// The system has no trusted roots.
    #[error("the system has no trusted root certificates; name an authority")]
    NoSystemRoots,
    /// The crypto provider does not offer the protocol versions.
    #[error("TLS is not available: {0}")]
    Provider(rustls::Error),
}

/// Makes aws-lc-rs the provider of the process. Calling it again changes nothing.
pub fn install_provider() {
    // The error says that a provider is there already, which is what is asked for.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|source| TlsFault::Read { path: path.to_owned(), source })
}

/// The certificates in PEM text, the leaf first.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsFault::NotPem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsFault::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

/// The first private key in PEM text.
fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFault> {
    PrivateKeyDer::from_pem_slice(text).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsFault::NoKey { path: path.to_owned() },
        source => TlsFault::NotPem { path: path.to_owned(), source },
    })
}

/// The authorities in a PEM file.
fn authorities(path: &Path, text: &[u8]) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots
            .add(certificate)
            .map_err(|error| TlsFault::Authority { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}
