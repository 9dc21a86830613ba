use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(common_name: Option<&str>, dns: &[&str]) -> CertificateParams {
    let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A folder with PEM files and the authority that signed them.
struct Desk {
    folder: tempfile::TempDir,
    ca: Authority,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), ca: authority("desk") };
        desk.write("ca.pem", &desk.ca.pem());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn pair(&self, name: &str, dns: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = leaf(Some(name), dns).signed_by(&key, &self.ca).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
        (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    fn client(&self, identity: Option<&(PathBuf, PathBuf)>) -> Arc<ClientConfig> {
        let identity = identity.map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        client_config(Some(&self.path("ca.pem")), identity, &[b"h2"]).unwrap()
    }
}

/// Both ends of a handshake, in memory: the server's certificate name as the client saw it, and the client's.
fn shake(
    tls: &ServerTls,
    client: Arc<ClientConfig>,
    name: &'static str,
) -> Result<(String, Option<String>), rustls::Error> {
    let mut client = ClientConnection::new(client, ServerName::try_from(name).unwrap())?;
    let mut server = ServerConnection::new(tls.config())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()));
    let shown = client.peer_certificates().and_then(|chain| peer_name(&chain[0])).unwrap();
    Ok((shown, server.peer_certificates().and_then(|chain| peer_name(&chain[0]))))
}

fn seen(tls: &ServerTls, client: Arc<ClientConfig>, name: &'static str) -> String {
    shake(tls, client, name).unwrap().0
}

#[test]
fn files_that_cannot_serve_say_which_and_why() {
    let desk = Desk::new();
    let (certificate, key) = desk.pair("one", &["one.test"]);
    let (_, other_key) = desk.pair("two", &["two.test"]);
    desk.write("empty", "");
    let load = |certificate: &Path, key: &Path| {
        ServerTls::load(&[(certificate.to_owned(), key.to_owned())], None, &[]).unwrap_err()
    };
    assert!(matches!(load(&desk.path("gone"), &key), TlsFault::Read { path, .. } if path == desk.path("gone")));
    assert!(matches!(load(&desk.path("empty"), &key), TlsFault::NoCertificate { .. }));
    assert!(matches!(load(&certificate, &desk.path("empty")), TlsFault::NoKey { .. }));
    assert!(matches!(load(&certificate, &other_key), TlsFault::Pair { .. }));
    assert!(matches!(ServerTls::load(&[], None, &[]), Err(TlsFault::NoPair)));
}

#[test]
fn the_certificate_with_the_asked_name_is_shown_else_the_first() {
    let desk = Desk::new();
    let pairs =
        [desk.pair("first", &["first.test", "shared.test"]), desk.pair("second", &["*.second.test", "shared.test"])];
    let tls = ServerTls::load(&pairs, None, &[b"h2"]).unwrap();
    assert_eq!(seen(&tls, desk.client(None), "first.test"), "first");
    assert_eq!(seen(&tls, desk.client(None), "api.second.test"), "second");
    assert_eq!(seen(&tls, desk.client(None), "shared.test"), "first");
    // The client refuses a certificate for another name, which shows that the first was sent.
    let refused = shake(&tls, desk.client(None), "unknown.test").unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
}

#[test]
fn a_new_pair_is_shown_after_a_reload_and_a_bad_one_is_not() {
    let desk = Desk::new();
    let pair = desk.pair("old", &["a.test"]);
    let tls = ServerTls::load(std::slice::from_ref(&pair), None, &[b"h2"]).unwrap();
    assert!(!tls.reload().unwrap(), "nothing changed");
    let (new_certificate, new_key) = desk.pair("new", &["a.test"]);
    std::fs::copy(&new_certificate, &pair.0).unwrap();
    assert!(tls.reload().is_err(), "the key is still the old one");
    assert_eq!(seen(&tls, desk.client(None), "a.test"), "old");
    std::fs::copy(&new_key, &pair.1).unwrap();
    assert!(tls.reload().unwrap());
    assert_eq!(seen(&tls, desk.client(None), "a.test"), "new");
}

#[tokio::test(start_paused = true)]
async fn following_the_files_reloads_by_itself() {
    let desk = Desk::new();
    let pair = desk.pair("old", &["a.test"]);
    let tls = ServerTls::load(std::slice::from_ref(&pair), None, &[b"h2"]).unwrap();
    let following = crate::tasks::spawn("follow", follow(tls.clone()).unwrap());
    tokio::task::yield_now().await;
    let (certificate, key) = desk.pair("new", &["a.test"]);
    std::fs::copy(certificate, &pair.0).unwrap();
    std::fs::copy(key, &pair.1).unwrap();
    let reloaded = async {
        while seen(&tls, desk.client(None), "a.test") == "old" {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), reloaded).await.unwrap();
    following.abort();
}

#[test]
fn a_client_without_the_right_certificate_is_refused() {
    let desk = Desk::new();
    let server = desk.pair("server", &["a.test"]);
    let worker = desk.pair("worker-7", &[]);
    let tls = ServerTls::load(&[server], Some(&desk.path("ca.pem")), &[b"h2"]).unwrap();
    assert!(shake(&tls, desk.client(None), "a.test").is_err());
    let stranger = Desk::new();
    let strange = stranger.pair("worker-7", &[]);
    assert!(shake(&tls, desk.client(Some(&strange)), "a.test").is_err());
    let (_, name) = shake(&tls, desk.client(Some(&worker)), "a.test").unwrap();
    assert_eq!(name.as_deref(), Some("worker-7"));
}

#[test]
fn an_authority_that_was_taken_away_is_no_longer_trusted() {
    let desk = Desk::new();
    let server = desk.pair("server", &["a.test"]);
    let worker = desk.pair("worker", &[]);
    std::fs::copy(desk.path("ca.pem"), desk.path("clients.pem")).unwrap();
    let tls = ServerTls::load(&[server], Some(&desk.path("clients.pem")), &[b"h2"]).unwrap();
    let client = desk.client(Some(&worker));
    shake(&tls, client.clone(), "a.test").unwrap();
    desk.write("clients.pem", &authority("other").pem());
    assert!(tls.reload().unwrap());
    assert!(shake(&tls, client, "a.test").is_err());
}

#[test]
fn a_peer_is_named_by_its_common_name_then_by_its_alternative_names() {
    let ca = authority("names");
    let name_of =
        |params: CertificateParams| peer_name(params.signed_by(&KeyPair::generate().unwrap(), &ca).unwrap().der());
    assert_eq!(name_of(leaf(Some("alice"), &["dns.test"])).as_deref(), Some("alice"));
    assert_eq!(name_of(leaf(None, &["dns.test", "b.test"])).as_deref(), Some("dns.test"));
    let mut with_uri = leaf(None, &[]);
    with_uri.subject_alt_names = vec![SanType::URI("spiffe://site/worker/7".try_into().unwrap())];
    assert_eq!(name_of(with_uri).as_deref(), Some("spiffe://site/worker/7"));
    assert_eq!(name_of(leaf(None, &[])), None);
    assert_eq!(name_of(leaf(Some("two\nlines"), &[])), None);
}

#[test]
fn a_cut_or_garbled_certificate_has_no_name_and_no_panic() {
    let ca = authority("whole");
    let der = ca.der().to_vec();
    for length in 0..der.len() {
        peer_name(&CertificateDer::from(der[..length].to_vec()));
    }
    for at in 0..der.len() {
        let mut garbled = der.clone();
        garbled[at] ^= 0xff;
        peer_name(&CertificateDer::from(garbled));
    }
}
