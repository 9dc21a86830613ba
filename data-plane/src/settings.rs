//! What a worker is told when it starts: flag, else environment, else default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};
use http::HeaderValue;
use ntonix_runtime::{
    handover,
    lines::Destination,
    listen,
    settings::{LogArgs, state_dir},
};
use tonic::transport::Uri;

/// How client traffic is taken; `ntonix` takes these flags too.
#[derive(Clone, Debug, Args)]
pub struct TrafficArgs {
    /// Address for clients, HTTP/1.1 and h2c; port 0 takes a free one
    #[arg(long, env = "NTONIX_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address for clients over TLS, HTTP/1.1 and HTTP/2; served when there is a --tls-cert
    #[arg(long, env = "NTONIX_LISTEN_TLS", value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub listen_tls: SocketAddr,
    /// Certificate chain for clients, PEM; repeat it with --tls-key for further names. Read again when it changes
    #[arg(long, env = "NTONIX_TLS_CERT", value_name = "FILE", value_delimiter = ',')]
    pub tls_cert: Vec<PathBuf>,
    /// Private key of the certificate at the same place, PEM
    #[arg(long, env = "NTONIX_TLS_KEY", value_name = "FILE", value_delimiter = ',')]
    pub tls_key: Vec<PathBuf>,
    /// Threads that serve, 1 to 256; default: one for each core on Linux, elsewhere one
    #[arg(long, env = "NTONIX_THREADS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// The worker's name; default: the host's name and the port of --listen
    #[arg(long, env = "NTONIX_NAME", value_name = "NAME", value_parser = worker_name)]
    pub name: Option<String>,
    /// Serve a configuration without keys on other addresses than loopback too
    #[arg(long, env = "NTONIX_ALLOW_ANONYMOUS")]
    pub allow_anonymous: bool,
    /// Pages that may call from a browser, as in https://chat.example.com; repeatable
    #[arg(long, env = "NTONIX_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub allow_origin: Vec<HeaderValue>,
    /// File that gets one JSON line for each exchange, opened again on SIGHUP; - is standard output
    #[arg(long, env = "NTONIX_USAGE_LOG", value_name = "FILE")]
    pub usage_log: Option<Destination>,
    /// How long a client may read nothing while there is something to read, or not be heard at all; then its stream ends
    #[arg(long, env = "NTONIX_CLIENT_STALL", value_name = "DURATION", default_value = "60s", value_parser = some_time)]
    pub client_stall: Duration,
}

/// A data-plane worker of NTONIX: takes client traffic, picks a backend, relays the stream.
///
/// Its configuration comes from a control plane (--control-plane) or from a file (--config).
#[derive(Clone, Debug, Parser)]
#[command(name = "ntonix-data-plane", version)]
pub struct DataPlaneArgs {
    /// How client traffic is taken
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Where the configuration comes from
    #[command(flatten)]
    pub origin: OriginArgs,
    /// Address for probes and metrics; port 0 takes a free one
    #[arg(long, env = "NTONIX_OPS", value_name = "ADDRESS", default_value = "127.0.0.1:9080")]
    pub ops: SocketAddr,
    /// Directory for the last good configuration
    #[arg(long, env = "NTONIX_STATE_DIR", value_name = "DIR", default_value_os_t = state_dir())]
    pub state_dir: PathBuf,
    /// How long running streams may take to finish after SIGTERM
    #[arg(long, env = "NTONIX_DRAIN", value_name = "DURATION", default_value = "120s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// How log lines look
    #[command(flatten)]
    pub log: LogArgs,
    /// Take the sockets over from the process that started this one; set by that process
    #[arg(long, env = handover::VARIABLE, hide = true)]
    pub take_over: bool,
}

/// Where the configuration comes from: exactly one of the two.
#[derive(Clone, Debug, Args)]
pub struct OriginArgs {
    /// Serve from this file alone; it is applied again when it is saved, and on SIGHUP
    #[arg(long, env = "NTONIX_CONFIG", value_name = "FILE", conflicts_with = "control_plane")]
    pub config: Option<PathBuf>,
    /// The control plane to follow, as in http://127.0.0.1:7071 or https://ntonix.example.com:7071
    #[arg(long, env = "NTONIX_CONTROL_PLANE", value_name = "URL", value_parser = control_plane)]
    pub control_plane: Option<Uri>,
    /// Certificate to show to the control plane, PEM
    #[arg(long, env = "NTONIX_SYNC_CERT", value_name = "FILE", requires = "sync_key")]
    pub sync_cert: Option<PathBuf>,
    /// Private key of --sync-cert, PEM
    #[arg(long, env = "NTONIX_SYNC_KEY", value_name = "FILE", requires = "sync_cert")]
    pub sync_key: Option<PathBuf>,
    /// Authority of the control plane's certificate, PEM; default: the system's roots
    #[arg(long, env = "NTONIX_SYNC_CA", value_name = "FILE")]
    pub sync_ca: Option<PathBuf>,
}

/// What a worker is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How client traffic is taken.
    pub traffic: TrafficArgs,
    /// Where the configuration comes from.
    pub origin: ConfigOrigin,
    /// Address for probes and metrics; `None`: the caller serves them.
    pub ops: Option<SocketAddr>,
    /// Directory for the last good configuration.
    pub state_dir: PathBuf,
}

/// Where a worker's configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigOrigin {
    /// A file that it reads itself.
    File(PathBuf),
    /// A control plane.
    ControlPlane {
        /// Where it is.
        url: Uri,
        /// What to show to it and whom to believe.
        tls: SyncTls,
    },
}

/// The files of mutual TLS towards the control plane.
#[derive(Clone, Debug, Default)]
pub struct SyncTls {
    /// Certificate and key to show.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whom to believe; `None`: the system's roots.
    pub ca: Option<PathBuf>,
}

// === impl DataPlaneArgs ===

impl DataPlaneArgs {
    /// The settings that these flags make.
    ///
    /// # Errors
    /// Every fault that only shows when flags are put together.
    pub fn settings(self) -> Result<Settings, Vec<String>> {
        let mut faults = self.traffic.faults();
        let tls = SyncTls { identity: self.origin.sync_cert.zip(self.origin.sync_key), ca: self.origin.sync_ca };
        let origin = match (self.origin.config, self.origin.control_plane) {
            (Some(file), _) => ConfigOrigin::File(file),
            (None, Some(url)) => ConfigOrigin::ControlPlane { url, tls },
            (None, None) => {
                faults.push("one of --config and --control-plane is needed".to_owned());
                return Err(faults);
            }
        };
        if let ConfigOrigin::ControlPlane { url, tls } = &origin
            && url.scheme_str() == Some("http")
            && (tls.identity.is_some() || tls.ca.is_some())
        {
            faults.push("--sync-cert, --sync-key and --sync-ca need an https:// --control-plane".to_owned());
        }
        if faults.is_empty() {
            Ok(Settings { traffic: self.traffic, origin, ops: Some(self.ops), state_dir: self.state_dir })
        } else {
            Err(faults)
        }
    }
}

// === impl TrafficArgs ===

impl TrafficArgs {
    /// What is wrong when the flags are put together.
    pub fn faults(&self) -> Vec<String> {
        let (certs, keys) = (self.tls_cert.len(), self.tls_key.len());
        if certs == keys {
            return Vec::new();
        }
        vec![format!("each --tls-cert needs a --tls-key at the same place: there are {certs} and {keys}")]
    }

    /// Threads that serve.
    pub fn thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        // Where the system does not spread connections over the threads' sockets, further threads would have nothing to do.
        let default = || if listen::SPREADS { cores() } else { 1 };
        self.threads.map_or_else(default, usize::from)
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("nobody reads in no time at all; a minute is 60s".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn worker_name(name: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.len() {
        1..=63 if name.bytes().all(fits) => Ok(name.to_owned()),
        _ => Err("a name is 1 to 63 of letters, digits, \"-\", \"_\" and \".\"".to_owned()),
    }
}

fn origin(origin: &str) -> Result<HeaderValue, String> {
    let wrong = || "an origin looks like https://chat.example.com or http://localhost:3000".to_owned();
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")).ok_or_else(wrong)?;
    if rest.is_empty() || rest.contains('/') {
        return Err(wrong());
    }
    HeaderValue::from_str(origin).map_err(|_| wrong())
}

fn control_plane(url: &str) -> Result<Uri, String> {
    let wrong = || "the control plane's URL looks like http://127.0.0.1:7071 or https://host:7071".to_owned();
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if known { Ok(uri) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_its_key_is_a_fault() {
        let args = [
            "ntonix-data-plane",
            "--config",
            "x.yaml",
            "--tls-cert",
            "a.pem",
            "--tls-cert",
            "b.pem",
            "--tls-key",
            "a.key",
        ];
        let faults = DataPlaneArgs::try_parse_from(args).unwrap().settings().unwrap_err();
        assert_eq!(faults, ["each --tls-cert needs a --tls-key at the same place: there are 2 and 1"]);
    }

    #[test]
    fn file_and_control_plane_exclude_each_other_and_one_is_needed() {
        let neither = DataPlaneArgs::try_parse_from(["ntonix-data-plane"]).unwrap().settings().unwrap_err();
        assert_eq!(neither, ["one of --config and --control-plane is needed"]);
        let both = ["ntonix-data-plane", "--config", "x.yaml", "--control-plane", "http://127.0.0.1:7071"];
        assert!(DataPlaneArgs::try_parse_from(both).is_err());
    }
}
