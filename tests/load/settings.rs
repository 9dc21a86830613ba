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
    /// Requests that the client leaves, and how long until the backend sees it
    Cancel {
        #[command(flatten)]
        departure: Departure,
        #[command(flatten)]
        load: Load,
    },
    /// Prints the results of several runs (--json) side by side; the first is what the others are measured by
    Compare {
        /// Files with one result each
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// How clients leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Departure {
    /// How the client speaks; over http2 and ws it leaves one stream and keeps its connection
    #[arg(long, value_enum, value_name = "TRANSPORT", default_value_t)]
    pub(crate) over: Over,
    /// Leave while the backend has not said anything yet, instead of after the first token
    #[arg(long)]
    pub(crate) waiting: bool,
    /// Ask for an answer in one piece; it is left while it is waited for
    #[arg(long)]
    pub(crate) whole: bool,
}

/// How a client speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    /// HTTP/1.1, a connection for each request
    #[default]
    Http1,
    /// HTTP/2, a connection for each of --streams
    Http2,
    /// ntonix.v1, a WebSocket for each of --streams
    Ws,
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
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
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

// === impl Command ===

impl Command {
    /// What is to be run; the files to compare when nothing is.
    pub(crate) fn run(self) -> Result<(Mode, Departure, Load), Vec<PathBuf>> {
        let (mode, load) = match self {
            Self::Compare { files } => return Err(files),
            Self::Cancel { departure, load } => return Ok((Mode::Cancel, departure, load)),
            Self::Unary(load) => (Mode::Unary, load),
            Self::Paced(load) => (Mode::Paced, load),
            Self::Fast(load) => (Mode::Fast, load),
            Self::Held(load) => (Mode::Held, load),
            Self::Ws(load) => (Mode::Ws, load),
        };
        Ok((mode, Departure::default(), load))
    }
}

// === impl Departure ===

impl Departure {
    /// Does the client leave before it has got anything?
    pub(crate) fn is_early(self) -> bool {
        self.waiting || self.whole
    }
}

// === impl Over ===

impl Over {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Ws => "ws",
        }
    }
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
