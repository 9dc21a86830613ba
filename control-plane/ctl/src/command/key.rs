//! `ntonixctl key`: makes, lists and revokes keys.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use ntonix_config::{KeyDigest, key_from_entropy};
use ntonix_proto::admin::v1::{KeyServiceCreateRequest, KeyServiceListRequest, KeyServiceRevokeRequest, ManagedKey};
use prost_types::Timestamp;

use crate::{
    complaint::explain,
    connect::{Server, ServerArgs},
    render::{or_dash, table, time},
};

/// Make, list and revoke keys that live beside the configuration
///
/// An apply never deletes them, and a rollback never revives a revoked one.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
    New(New),
}

/// Make a key for a tenant and print it, this one time
///
/// Only its digest is kept. The key alone goes to standard output, what is said about it to standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl key create alice --tenant research --expires 90d
  NTONIX_KEY=$(ntonixctl key create bob --tenant research)")]
pub(crate) struct Create {
    /// 1 to 63 of a-z, 0-9 and "-"; a name is never used again
    name: String,
    /// Whose limits and models it has
    #[arg(long, short, value_name = "NAME")]
    tenant: String,
    /// Refuse it from then on: a time such as 2027-01-01T00:00:00Z, or a span such as 90d
    #[arg(long, value_name = "WHEN", value_parser = expiry)]
    expires: Option<Timestamp>,
}

/// Show the keys, revoked ones too; never a secret
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only those of this tenant
    #[arg(long, short, value_name = "NAME", default_value = "", hide_default_value = true)]
    tenant: String,
}

/// Revoke a key for good; connected workers refuse it within a second
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// Its name
    name: String,
}

/// Make a key and its digest without a server, for the `keys` of a file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  ntonixctl key new --offline
    secret: ntx_…            for the client
    digest: sha256:…         for the file, as in { name: alice, tenant: research, digest: \"sha256:…\" }")]
pub(crate) struct New {
    /// No server learns of it; to make a key on one, use `key create`
    #[arg(long, required = true)]
    offline: bool,
}

/// Reads a time, or a span from now.
fn expiry(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let span: Duration =
        humantime::parse_duration(text).map_err(|_| "not a time and not a span such as 90d".to_owned())?;
    SystemTime::now().checked_add(span).map(Timestamp::from).ok_or_else(|| "too far away".to_owned())
}

// === impl Command ===

impl Command {
    pub(super) async fn run(&self, server: &ServerArgs, out: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Self::Create(args) => args.run(&Server::connect(server).await?, out).await,
            Self::List(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Revoke(args) => args.run(&Server::connect(server).await?, out).await,
            // The one flag of it is there to be written, so that nobody takes it for `create`.
            Self::New(New { offline: _ }) => new(out),
        }
    }
}

// === impl Create ===

impl Create {
    async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let request =
            KeyServiceCreateRequest { name: self.name.clone(), tenant: self.tenant.clone(), expires: self.expires };
        let created = server.keys().create(request).await.map_err(|status| explain(&status, None))?.into_inner();
        // The key may go into a file or a variable: what is said must be right when it does not stand below.
        writeln!(
            io::stderr(),
            "key {} of tenant {} is made; it goes to standard output, this one time",
            self.name,
            self.tenant
        )?;
        Ok(writeln!(out, "{}", created.secret)?)
    }
}

// === impl List ===

impl List {
    async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut request = KeyServiceListRequest { tenant: self.tenant.clone(), ..KeyServiceListRequest::default() };
        let mut rows = Vec::new();
        loop {
            let page = server.keys().list(request.clone()).await.map_err(|status| explain(&status, None))?.into_inner();
            rows.extend(page.keys.iter().map(row));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        Ok(write!(out, "{}", table(["NAME", "TENANT", "CREATED", "AUTHOR", "EXPIRES", "REVOKED"], &rows))?)
    }
}

fn row(key: &ManagedKey) -> [String; 6] {
    let author = or_dash(&key.author);
    [key.name.clone(), key.tenant.clone(), time(key.created), author, time(key.expires), time(key.revoked)]
}

// === impl Revoke ===

impl Revoke {
    async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let request = KeyServiceRevokeRequest { name: self.name.clone() };
        let revoked = server.keys().revoke(request).await.map_err(|status| explain(&status, None))?;
        let key = revoked.into_inner().key.context("the control plane sent an empty answer")?;
        Ok(writeln!(out, "key {} of tenant {} is revoked since {}", key.name, key.tenant, time(key.revoked))?)
    }
}

fn new(out: &mut dyn Write) -> anyhow::Result<()> {
    let mut entropy = [0; 32];
    aws_lc_rs::rand::fill(&mut entropy).map_err(|_| anyhow!("the system gives no randomness"))?;
    let secret = key_from_entropy(&entropy);
    Ok(writeln!(out, "secret: {secret}\ndigest: {}", KeyDigest::of(secret.as_bytes()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in ["", "never", "5", "-1d", "2027-13-01T00:00:00Z"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
        assert_eq!(expiry("2027-01-01T00:00:00Z").unwrap().seconds, 1_798_761_600);
        assert!(expiry("90d").unwrap().seconds > Timestamp::from(SystemTime::now()).seconds);
    }

    #[test]
    fn a_new_key_comes_with_its_own_digest() {
        let mut out = Vec::new();
        new(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(": ")).collect();
        assert_eq!((lines[0].0, lines[1].0), ("secret", "digest"));
        assert!(lines[0].1.starts_with("ntx_") && lines[0].1.len() == 47);
        assert_eq!(KeyDigest::parse(lines[1].1), Some(KeyDigest::of(lines[0].1.as_bytes())));
    }

    #[test]
    fn a_revoked_key_says_since_when() {
        let revoked = Some(Timestamp { seconds: 0, nanos: 0 });
        let key = ManagedKey { name: "a".to_owned(), tenant: "t".to_owned(), revoked, ..ManagedKey::default() };
        assert_eq!(row(&key), ["a", "t", "-", "-", "-", "1970-01-01T00:00:00Z"]);
    }
}
