//! What grows, from where to where, and under which load.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compare::config::{REAL, Size};
use crate::compare::peers::Kind;
use crate::report::Report;
use crate::settings::{Load, Mode};

/// Tokens per second of all streams together, so that only their number grows.
const RATE: u32 = 20_000;
/// Tokens of each of these streams: the request that opens it is 1/50 of what is measured.
const TOKENS: u64 = 50;
const CONNECTIONS: u32 = 64;
/// Connections with questions of up to 4 MB: enough for both cores.
const ASKING: u32 = 4;

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Axis {
    /// Streams that are open at once
    Streams,
    /// Routes in the configuration
    Routes,
    /// Keys in the configuration
    Keys,
    /// Backends of the pool
    Backends,
    /// Bytes of the question
    Prompt,
    /// Tokens that the backend writes at once
    Events,
}

/// What is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    CpuPerRequest,
    CpuPerToken,
    MemoryPerStream,
}

// === impl Axis ===

impl Axis {
    pub(crate) const ALL: [Self; 6] =
        [Self::Streams, Self::Routes, Self::Keys, Self::Backends, Self::Prompt, Self::Events];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Routes => "routes",
            Self::Keys => "keys",
            Self::Backends => "backends",
            Self::Prompt => "prompt",
            Self::Events => "events",
        }
    }

    /// What stands under the axis of a plot.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Streams => "streams open at once, 20,000 tokens per second in all",
            Self::Routes => "routes",
            Self::Keys => "keys",
            Self::Backends => "backends of the pool",
            Self::Prompt => "bytes of the question",
            Self::Events => "tokens that the backend writes at once",
        }
    }

    pub(crate) fn points(self) -> &'static [u32] {
        match self {
            Self::Streams => &[100, 300, 1_000, 3_000, 9_500],
            Self::Routes => &[10, 100, 1_000, 10_000],
            Self::Keys => &[10, 100, 1_000, 10_000, 100_000],
            Self::Backends => &[2, 10, 100, 1_000],
            Self::Prompt => &[1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22],
            Self::Events => &[1, 2, 5, 10, 20, 50, 100],
        }
    }

    /// Whom it means anything to: the configurations of the others have no such thing.
    pub(crate) fn peers(self) -> &'static [Kind] {
        match self {
            Self::Routes | Self::Keys | Self::Backends => &[Kind::Ntonix],
            Self::Streams | Self::Prompt | Self::Events => &[Kind::Nginx, Kind::Haproxy, Kind::Ntonix],
        }
    }

    pub(crate) fn figures(self) -> &'static [Figure] {
        match self {
            Self::Streams => &[Figure::CpuPerToken, Figure::MemoryPerStream],
            Self::Routes | Self::Keys | Self::Backends | Self::Prompt => &[Figure::CpuPerRequest],
            Self::Events => &[Figure::CpuPerToken],
        }
    }

    /// The configuration of NTONIX at this point.
    pub(crate) fn size(self, at: u32) -> Size {
        match self {
            Self::Routes => Size { routes: at, ..REAL },
            Self::Keys => Size { keys: at, ..REAL },
            Self::Backends => Size { backends: at, ..REAL },
            Self::Streams | Self::Prompt | Self::Events => REAL,
        }
    }

    pub(crate) fn load(self, at: u32, urls: Vec<String>, duration: Duration) -> (Mode, Load) {
        let load = Load { streams: CONNECTIONS, ..Load::new(urls, duration) };
        match self {
            Self::Streams => {
                let pause = Duration::from_secs(1) * at / RATE;
                (Mode::Paced, Load { streams: at, tokens: Some(TOKENS), pause: Some(pause), ..load })
            }
            Self::Routes | Self::Keys | Self::Backends => (Mode::Unary, load),
            Self::Prompt => (Mode::Unary, Load { streams: ASKING, prompt: at as usize, ..load }),
            Self::Events => (Mode::Fast, Load { together: Some(at.into()), ..load }),
        }
    }

    /// Before it, so that code, pools and keys are there; memory that is to be measured must not be.
    pub(crate) fn warm_up(self, at: u32, urls: Vec<String>, duration: Duration) -> (Mode, Load) {
        match self {
            Self::Streams => {
                let few = Load { tokens: Some(TOKENS), count: Some(10), ..Load::new(urls, duration) };
                (Mode::Fast, few)
            }
            _ => self.load(at, urls, duration / 10),
        }
    }

    /// Streams that had to be open at once and were not; some begin while others end.
    pub(crate) fn missing(self, at: u32, report: &Report) -> u64 {
        let wanted = if self == Self::Streams { u64::from(at) * 9 / 10 } else { 0 };
        wanted.saturating_sub(report.open_most)
    }
}

// === impl Figure ===

impl Figure {
    /// For the name of a file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CpuPerRequest | Self::CpuPerToken => "cpu",
            Self::MemoryPerStream => "memory",
        }
    }

    /// What stands beside the axis of a plot.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::CpuPerRequest => "µs of CPU per request",
            Self::CpuPerToken => "µs of CPU per token",
            Self::MemoryPerStream => "KiB per stream",
        }
    }

    pub(crate) fn of(self, report: &Report) -> Option<f64> {
        match self {
            Self::CpuPerRequest => report.cpu_us_per_request,
            Self::CpuPerToken => report.cpu_us_per_token,
            Self::MemoryPerStream => report.kib_per_stream,
        }
    }
}
