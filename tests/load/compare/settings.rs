//! What `ntonix-load compare` is told.

use std::path::PathBuf;
use std::time::Duration;

use crate::compare::peers::Kind;

/// What is compared, how long, and where the result goes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Settings {
    /// Cases to run, separated by commas, "*" for any characters, as in fast,paced-400 or '*-tls' [default: all]
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Who is measured; the others are not started
    #[arg(long, value_enum, value_name = "PEERS", value_delimiter = ',',
        default_values = ["direct", "nginx", "haproxy", "ntonix"])]
    pub(crate) peers: Vec<Kind>,
    /// How often each case is measured with each peer; medians are told
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long requests are begun in one measurement; held streams last as long as opening them all needs, and so much more
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// File for the result with every single run in it, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Exit with 1 when a goal is missed, or was not measured
    #[arg(long)]
    pub(crate) goals: bool,
    /// Say which cases there are, and run none
    #[arg(long)]
    pub(crate) list: bool,
}

const AFTER_HELP: &str = "\
Every measurement starts its own two backends and its own peer, and warms them up. Peers take turns within a case, rounds \
within a run: A B C A B C. The driver and the backends share the machine with the peer, so that CPU per unit of the peer's \
processes is the steadiest column; a machine with other work spoils the others.

Needs mock-llm, ntonix-data-plane and ntonix-control-plane beside this program (tests/compare builds all as they are \
shipped), and nginx, HAProxy and, where instructions are counted, valgrind from Debian, which root gets installed.

The exit code is 1 when a token was wrong, a request failed, or with --goals a goal was missed.

Examples:
  ntonix-load compare --json result.json
  ntonix-load compare --only fast,paced-400 --peers nginx,ntonix --rounds 5
  ntonix-load compare --only '*-tls' --duration 10s";
