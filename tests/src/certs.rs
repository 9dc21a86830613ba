//! A certificate authority for one test, and the files that it signs.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use ntonix_runtime::tls::{self, ServerTls};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, KeyPair};
use tempfile::TempDir;

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// An authority with a folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

// === impl Authority ===

impl Authority {
    /// A new authority that nobody knows.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        tls::install_provider();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ca.pem"), issuer.pem())?;
        Ok(Self { folder, issuer })
    }

    /// The file of its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Signs a new certificate for these names or addresses and writes it to the files of `stem`, over those that are
    /// there. It is good for a server and for a client; `stem` is its common name.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn sign(&self, stem: &str, names: &[&str]) -> anyhow::Result<Pair> {
        self.sign_until(stem, names, 4096)
    }

    /// The same, but it was good only until long ago.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn sign_expired(&self, stem: &str, names: &[&str]) -> anyhow::Result<Pair> {
        self.sign_until(stem, names, 2001)
    }

    fn sign_until(&self, stem: &str, names: &[&str], year: i32) -> anyhow::Result<Pair> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, stem);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let pair = Pair {
            certificate: self.folder.path().join(format!("{stem}.pem")),
            key: self.folder.path().join(format!("{stem}.key")),
        };
        fs::write(&pair.certificate, certificate.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// What a client needs that believes this authority and offers these protocols.
    ///
    /// # Errors
    /// When the files are gone.
    pub fn client(&self, protocols: &[&[u8]]) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        Ok(tls::client_config(Some(&self.file()), None, protocols)?)
    }
}

// === impl Pair ===

impl Pair {
    /// What a server needs that shows this certificate and speaks HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the files are gone.
    pub fn server(&self) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        let pairs = [(self.certificate.clone(), self.key.clone())];
        Ok(ServerTls::load(&pairs, None, &[b"h2", b"http/1.1"])?.config())
    }

    /// The bytes of the certificate, as a client sees them.
    ///
    /// # Errors
    /// When the file is gone or no certificate.
    pub fn der(&self) -> anyhow::Result<Vec<u8>> {
        use rustls::pki_types::pem::PemObject as _;
        Ok(rustls::pki_types::CertificateDer::from_pem_file(&self.certificate)?.to_vec())
    }
}
