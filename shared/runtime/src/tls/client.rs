//! The client's side: whom it trusts and what it shows.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::{TlsFault, authorities, certificates, private_key, provider, read};

/// A client that trusts the authorities in the file `ca` (`None`: the system's roots) and shows the certificate and key
/// of `identity`, offering the protocols `alpn` in that order.
///
/// # Errors
/// When a file cannot be read or used, or the system has no roots.
pub fn client_config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsFault> {
    let roots = match ca {
        Some(path) => authorities(path, &read(path)?)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::Provider)?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, &read(certificate)?)?;
            let secret = private_key(key, &read(key)?)?;
            builder.with_client_auth_cert(chain, secret).map_err(|source| TlsFault::Pair {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                source,
            })?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    // Single files that cannot be read or parsed are the system's own matter, as long as some roots are left.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsFault::NoSystemRoots) } else { Ok(roots) }
}
