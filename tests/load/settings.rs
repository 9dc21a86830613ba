//! What the driver is told on its command line.

use std::path::PathBuf;
use std::time::Duration;

use ntonix_tests::mock_llm;

use crate::compare;

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
    /// Streams without pauses on ntonix.v1 WebSockets: fast --over ws
    Ws(Load),
    /// Requests that the client leaves, and how long until the backend sees it
    Cancel {
        #[command(flatten)]
        departure: Departure,
        #[command(flatten)]
        load: Load,
    },
    /// NTONIX beside nginx, HAProxy and a direct connection, in turns, case by case
    Compare(compare::Settings),
    /// How cost grows with streams, routes, keys, backends, the question and the events of a read
    Grow(compare::grow::Settings),
    /// Draws what grow found out earlier
    Plot(compare::grow::PlotSettings),
}

/// What a command comes down to.
#[derive(Debug)]
pub(crate) enum Work {
    /// One run against whatever is at --url.
    Drive(Mode, Departure, Box<Load>),
    /// Many runs against programs that it starts.
    Compare(compare::Settings),
    /// The same, point by point.
    Grow(compare::grow::Settings),
    /// No run.
    Plot(compare::grow::PlotSettings),
}

/// How clients leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Departure {
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
    /// HTTP/1.1, a connection for each of --streams; for each request, when clients leave
    #[default]
    Http1,
    /// HTTP/2 on --sockets connections; a connection for each of --streams, when clients leave
    Http2,
    /// ntonix.v1 on --sockets WebSockets; a WebSocket for each of --streams, when clients leave
    Ws,
}

/// What a run does; see [`Command`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Unary,
    Paced,
    Fast,
    Held,
    Cancel,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Where the gateway is, http or https; repeatable, then connections take them in turn
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: Vec<String>,
    /// Authorities to believe behind https, PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// How clients speak; one that leaves over http2 or ws leaves a stream and keeps its connection
    #[arg(long, value_enum, value_name = "TRANSPORT", default_value_t)]
    pub(crate) over: Over,
    /// Streams at once; for unary requests, connections
    #[arg(long, visible_alias = "connections", value_name = "COUNT", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) streams: u32,
    /// Connections of HTTP/2 or WebSockets that the streams are spread over
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) sockets: u32,
    /// Tokens of each answer [default: 10 for unary, 2 for held, else 200]
    #[arg(long, value_name = "COUNT")]
    pub(crate) tokens: Option<u64>,
    /// Pause between tokens [default: 20ms for paced and cancel, --duration for held, else none]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) pause: Option<Duration>,
    /// Tokens that the mock writes at once [default: whatever it has, when there is no pause]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) together: Option<u64>,
    /// Size of the question in each request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5)]
    pub(crate) prompt: usize,
    /// Leave an answer when it has so many tokens; it is complete then
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) leave_after: Option<u64>,
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
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

// === impl Load ===

impl Load {
    /// What every run starts from that is not made from a command line.
    pub(crate) fn new(url: Vec<String>, duration: Duration) -> Self {
        Self {
            url,
            ca: None,
            over: Over::Http1,
            streams: 1,
            sockets: 1,
            tokens: None,
            pause: None,
            together: None,
            prompt: 5,
            leave_after: None,
            duration,
            count: None,
            watch_pid: Vec::new(),
            key: None,
            model: mock_llm::MODEL.to_owned(),
            mock: Vec::new(),
            json: false,
        }
    }
}

// === impl Command ===

impl Command {
    /// What is to be done.
    pub(crate) fn work(self) -> Work {
        let (mode, departure, load) = match self {
            Self::Compare(settings) => return Work::Compare(settings),
            Self::Grow(settings) => return Work::Grow(settings),
            Self::Plot(settings) => return Work::Plot(settings),
            Self::Cancel { departure, load } => (Mode::Cancel, departure, load),
            Self::Unary(load) => (Mode::Unary, Departure::default(), load),
            Self::Paced(load) => (Mode::Paced, Departure::default(), load),
            Self::Fast(load) => (Mode::Fast, Departure::default(), load),
            Self::Held(load) => (Mode::Held, Departure::default(), load),
            Self::Ws(load) => (Mode::Fast, Departure::default(), Load { over: Over::Ws, ..load }),
        };
        Work::Drive(mode, departure, Box::new(load))
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
            Self::Cancel => "cancel",
        }
    }
}
