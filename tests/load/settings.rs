//! What the driver is told on its command line.

use std::path::PathBuf;
use std::time::Duration;

use ntonix_tests::mock_llm;

/// Drives load through a gateway to mock backends, checks every token, reports throughput, latency, CPU and memory.
#[derive(Debug, clap::Parser)]
#[command(name = "ntonix-load", version)]
pub(crate) struct Settings {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Requests that are not streamed, one after the other on each connection
    Unary(Load),
    /// Streams with a pause between tokens, as people see them
    Paced(Load),
    /// Streams without pauses
    Fast(Load),
    /// Streams that are all open at once and say nothing for --duration
    Held(Load),
    /// Streams on ntonix.v1 WebSockets
    Ws(Load),
    /// Streams that the client leaves after their first token
    Cancel(Load),
    /// Prints the results of several runs (--json) side by side; the first is what the others are measured by
    Compare {
        /// Files with one result each
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// What a run does; see [`Command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Unary,
    Paced,
    Fast,
    Held,
    Ws,
    Cancel,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Where the gateway is; http only
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// Streams at once; for unary requests, connections
    #[arg(long, visible_alias = "connections", value_name = "COUNT", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) streams: u32,
    /// WebSockets that the streams are spread over
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) sockets: u32,
    /// Tokens of each answer [default: 10 for unary, 2 for held, else 200]
    #[arg(long, value_name = "COUNT")]
    pub(crate) tokens: Option<u64>,
    /// Pause between tokens [default: 20ms for paced and cancel, --duration for held, else none]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) pause: Option<Duration>,
    /// No request starts later than this after the first
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// No more requests than this [default: unbounded; as many as streams for held; 1000 for cancel]
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Process whose CPU and memory are told; repeatable, the sum counts
    #[arg(long, value_name = "PID")]
    pub(crate) watch_pid: Vec<u32>,
    /// Key to send as a bearer
    #[arg(long, value_name = "KEY", env = "NTONIX_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// Model to ask for
    #[arg(long, value_name = "NAME", default_value = mock_llm::MODEL)]
    pub(crate) model: String,
    /// Where the mock is, to ask it when it saw the cuts; needed by cancel, repeatable
    #[arg(long, value_name = "URL")]
    pub(crate) mock: Vec<String>,
    /// Name of this run in a comparison
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) label: String,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

// === impl Mode ===

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Paced => "paced",
            Self::Fast => "fast",
            Self::Held => "held",
            Self::Ws => "ws",
            Self::Cancel => "cancel",
        }
    }
}
