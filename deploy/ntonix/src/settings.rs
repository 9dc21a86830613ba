//! What `ntonix` is told when it starts: the flags of both planes, and where the configuration comes from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use ntonix_config::BackendUrl;
use ntonix_control_plane::DoorArgs;
use ntonix_data_plane::TrafficArgs;
use ntonix_runtime::settings::{LogArgs, state_dir};

/// NTONIX in one process: control plane, one worker and, unless told otherwise, a demo backend.
///
/// Without --config and --backend it serves the configuration that it had before, or a demo when there is none.
#[derive(Debug, Parser)]
#[command(name = "ntonix", version, args_conflicts_with_subcommands = true)]
pub(crate) struct NtonixArgs {
    /// Run something else
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// How client traffic is taken
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// Where operators and further workers are served
    #[command(flatten)]
    pub(crate) doors: DoorArgs,
    /// Serve from this file; it is applied again when it is saved, and on SIGHUP
    #[arg(long, env = "NTONIX_CONFIG", value_name = "FILE", conflicts_with = "backend")]
    pub(crate) config: Option<PathBuf>,
    /// An LLM server to put the gateway in front of, as in http://127.0.0.1:8000; repeatable. It is asked for its models
    #[arg(long, env = "NTONIX_BACKEND", value_name = "URL", value_delimiter = ',', value_parser = backend)]
    pub(crate) backend: Vec<String>,
    /// Address for probes and metrics of both planes; port 0 takes a free one
    #[arg(long, env = "NTONIX_OPS", value_name = "ADDRESS", default_value = "127.0.0.1:9080")]
    pub(crate) ops: SocketAddr,
    /// Directory for the revisions and the last good configuration
    #[arg(long, env = "NTONIX_STATE_DIR", value_name = "DIR", default_value_os_t = state_dir())]
    pub(crate) state_dir: PathBuf,
    /// How long running streams may take to finish after SIGTERM
    #[arg(long, env = "NTONIX_DRAIN", value_name = "DURATION", default_value = "120s", value_parser = humantime::parse_duration)]
    pub(crate) drain: Duration,
    /// How log lines look
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// What else there is.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the demo backends of deploy/examples and nothing else, to try the planes apart
    DemoBackends {
        /// Addresses, one for each backend
        #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_values = ["127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:8103"])]
        listen: Vec<SocketAddr>,
    },
}

// === impl NtonixArgs ===

impl NtonixArgs {
    /// The settings of the control plane.
    pub(crate) fn control_plane(&self) -> ntonix_control_plane::Settings {
        let mut settings = self.doors.settings(self.state_dir.clone());
        settings.config.clone_from(&self.config);
        settings
    }

    /// What is wrong when the flags are put together.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = self.traffic.faults();
        faults.extend(self.control_plane().faults());
        faults
    }
}

fn backend(url: &str) -> Result<String, String> {
    BackendUrl::try_from(url).map_err(|fault| fault.to_string())?;
    // The base URL as client libraries want it: every request would ask for /v1/v1.
    if url.trim_end_matches('/').ends_with("/v1") {
        return Err("leave out /v1 at the end, it is appended".to_owned());
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_url_of_a_client_library_is_no_backend() {
        for url in ["http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/"] {
            assert!(backend(url).unwrap_err().contains("leave out /v1"), "{url}");
        }
        for url in ["http://127.0.0.1:8000", "http://127.0.0.1:8000/llama"] {
            assert_eq!(backend(url).unwrap(), url);
        }
    }
}
