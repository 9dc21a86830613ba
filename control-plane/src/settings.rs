//! The settings of the process: what a person may say, and what follows from it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use ntonix_runtime::settings::{LogArgs, state_dir};

/// From one heartbeat to the next, on every worker's stream.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a control plane needs to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Where operators are served.
    pub admin: SocketAddr,
    /// TLS for operators.
    pub admin_tls: TlsFiles,
    /// Where workers are served.
    pub sync: SocketAddr,
    /// TLS for workers.
    pub sync_tls: TlsFiles,
    /// Where probes and metrics are served; `None`: nowhere.
    pub ops: Option<SocketAddr>,
    /// Where the store is.
    pub state_dir: PathBuf,
    /// A file that owns the configuration.
    pub config: Option<PathBuf>,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// Revisions that are kept, at least 1.
    pub revisions_kept: u64,
}

/// PEM files of a listener. Relative paths are relative to the working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's certificate, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The authority that callers must have their certificates from.
    pub ca: Option<PathBuf>,
}

/// The control plane of NTONIX: numbered revisions over gRPC, pushed to workers
#[derive(Debug, Parser)]
#[command(name = "ntonix-control-plane", version)]
pub struct ControlPlaneArgs {
    #[command(flatten)]
    doors: DoorArgs,
    /// Address for probes and metrics; port 0 takes a free one
    #[arg(long, env = "NTONIX_OPS", value_name = "ADDRESS", default_value = "127.0.0.1:9070")]
    ops: SocketAddr,
    /// Directory for the revisions and the keys
    #[arg(long, env = "NTONIX_STATE_DIR", value_name = "DIR", default_value_os_t = state_dir())]
    state_dir: PathBuf,
    /// A file that owns the configuration; it is applied again when it is saved, and on SIGHUP
    #[arg(long, env = "NTONIX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long calls may go on after SIGTERM
    #[arg(long, env = "NTONIX_DRAIN", value_name = "DURATION", default_value = "120s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// About logging
    #[command(flatten)]
    pub log: LogArgs,
}

/// The flags about the two gRPC listeners, for every program that has a control plane in it.
#[derive(Clone, Debug, Args)]
pub struct DoorArgs {
    /// Address for operators: gRPC, gRPC-web, health and reflection; port 0 takes a free one
    #[arg(long, env = "NTONIX_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    pub admin: SocketAddr,
    /// Certificate chain that operators are shown, PEM
    #[arg(long, env = "NTONIX_ADMIN_CERT", value_name = "FILE")]
    pub admin_cert: Option<PathBuf>,
    /// Private key of --admin-cert, PEM
    #[arg(long, env = "NTONIX_ADMIN_KEY", value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// Authority of the operators' own certificates, PEM
    #[arg(long, env = "NTONIX_ADMIN_CA", value_name = "FILE")]
    pub admin_ca: Option<PathBuf>,
    /// Address for workers, gRPC; port 0 takes a free one
    #[arg(long, env = "NTONIX_SYNC", value_name = "ADDRESS", default_value = "127.0.0.1:7071")]
    pub sync: SocketAddr,
    /// Certificate chain that workers are shown, PEM
    #[arg(long, env = "NTONIX_SYNC_CERT", value_name = "FILE")]
    pub sync_cert: Option<PathBuf>,
    /// Private key of --sync-cert, PEM
    #[arg(long, env = "NTONIX_SYNC_KEY", value_name = "FILE")]
    pub sync_key: Option<PathBuf>,
    /// Authority of the workers' own certificates, PEM
    #[arg(long, env = "NTONIX_SYNC_CA", value_name = "FILE")]
    pub sync_ca: Option<PathBuf>,
}

// === impl Settings ===

impl Settings {
    /// The defaults around a state directory: both listeners on loopback with ports that the system picks.
    pub fn new(state_dir: PathBuf) -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            admin: loopback,
            admin_tls: TlsFiles::default(),
            sync: loopback,
            sync_tls: TlsFiles::default(),
            ops: None,
            state_dir,
            config: None,
            heartbeat: HEARTBEAT,
            revisions_kept: crate::store::sqlite::REVISIONS_KEPT,
        }
    }

    /// Everything that does not fit together, each naming its flag; empty when all does.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = door_faults("admin", self.admin, &self.admin_tls);
        faults.extend(door_faults("sync", self.sync, &self.sync_tls));
        faults
    }
}

/// A listener that others than this machine reach must know them by their certificates.
fn door_faults(flag: &str, address: SocketAddr, tls: &TlsFiles) -> Vec<String> {
    let mut faults = Vec::new();
    let has = (tls.cert.is_some(), tls.key.is_some(), tls.ca.is_some());
    match has {
        (true, false, _) => faults.push(format!("--{flag}-cert: needs --{flag}-key beside it")),
        (false, true, _) => faults.push(format!("--{flag}-key: needs --{flag}-cert beside it")),
        (false, false, true) => faults.push(format!("--{flag}-ca: needs --{flag}-cert and --{flag}-key beside it")),
        _ => {}
    }
    if faults.is_empty() && !address.ip().is_loopback() && has != (true, true, true) {
        faults.push(format!(
            "--{flag}: {address} is not on loopback, so --{flag}-cert, --{flag}-key and --{flag}-ca must be given"
        ));
    }
    faults
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Certificate and key, when the listener is to speak TLS.
    pub fn pair(&self) -> Option<(PathBuf, PathBuf)> {
        self.cert.clone().zip(self.key.clone())
    }
}

// === impl ControlPlaneArgs ===

impl ControlPlaneArgs {
    /// What the flags mean; [`Settings::faults`] says whether it fits together.
    pub fn settings(&self) -> Settings {
        let mut settings = self.doors.settings(self.state_dir.clone());
        settings.ops = Some(self.ops);
        settings.config.clone_from(&self.config);
        settings
    }
}

// === impl DoorArgs ===

impl DoorArgs {
    /// Settings with these listeners, and defaults for the rest.
    pub fn settings(&self, state_dir: PathBuf) -> Settings {
        let files = |cert: &Option<PathBuf>, key: &Option<PathBuf>, ca: &Option<PathBuf>| TlsFiles {
            cert: cert.clone(),
            key: key.clone(),
            ca: ca.clone(),
        };
        Settings {
            admin: self.admin,
            admin_tls: files(&self.admin_cert, &self.admin_key, &self.admin_ca),
            sync: self.sync,
            sync_tls: files(&self.sync_cert, &self.sync_key, &self.sync_ca),
            ..Settings::new(state_dir)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(args: &str) -> Vec<String> {
        let args = std::iter::once("ntonix-control-plane").chain(args.split_whitespace());
        ControlPlaneArgs::try_parse_from(args).unwrap().settings().faults()
    }

    #[test]
    fn an_address_that_others_reach_needs_mutual_tls() {
        let told = faults("--admin 0.0.0.0:7070 --sync [::]:7071 --sync-cert c --sync-key k");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("--admin: 0.0.0.0:7070 is not on loopback"), "{told:?}");
        assert!(told[1].starts_with("--sync: [::]:7071 is not on loopback"), "{told:?}");
        assert!(faults("--admin 0.0.0.0:7070 --admin-cert c --admin-key k --admin-ca a").is_empty());
    }

    #[test]
    fn half_a_pair_is_a_fault_even_on_loopback() {
        assert_eq!(faults("--admin-cert c --sync-key k").len(), 2);
        assert_eq!(faults("--sync-ca a"), ["--sync-ca: needs --sync-cert and --sync-key beside it"]);
        assert!(faults("--admin-cert c --admin-key k").is_empty());
    }

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let args = ControlPlaneArgs::try_parse_from(["ntonix-control-plane", "--state-dir", "/x"]).unwrap();
        let settings = args.settings();
        assert_eq!(settings.admin, "127.0.0.1:7070".parse().unwrap());
        assert_eq!(settings.sync, "127.0.0.1:7071".parse().unwrap());
        assert_eq!(settings.ops, Some("127.0.0.1:9070".parse().unwrap()));
        assert_eq!(args.drain, Duration::from_secs(120));
    }
}
