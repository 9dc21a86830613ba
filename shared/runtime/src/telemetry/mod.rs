//! What the process tells about itself: log lines on stderr, never in the way of traffic.

mod fields;
mod gaps;
mod json;
mod paused;
mod room;
#[cfg(test)]
pub(crate) mod samples;

use std::{
    fmt,
    io::{self, IsTerminal as _},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use self::fields::PlainFields;
use self::gaps::Gaps;
use self::json::JsonLines;
use self::paused::Paused;
use crate::stamp::{self, Digits};

/// Lines that may wait for a slow stderr; more are dropped and counted.
const LINES_MAX: usize = 16_384;

/// What was dropped of the log, which is one for the whole process.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that stderr refused.
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// When a line is written.
#[derive(Clone, Copy, Debug)]
struct Now;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryFault {
    /// The level is neither a level nor a list of directives.
    #[error("not a log level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// It has a word where a level belongs.
    #[error("{0:?} is none of error, warn, info, debug, trace and off")]
    Word(String),
    /// The process logs already.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Keeps the log alive; dropping it writes out the lines that wait.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct TelemetryGuard(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Log lines of this process that were dropped because stderr was too slow, or took nothing.
pub fn dropped_lines() -> u64 {
    let dropped = DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64);
    dropped + REFUSED.load(Ordering::Relaxed)
}

/// Starts logging to stderr. `level` is `error`, `warn`, `info`, `debug` or `trace`, or directives as in `info,h2=warn`.
///
/// # Errors
/// When the level is none, or the process logs already.
pub fn init(format: LogFormat, level: &str) -> Result<TelemetryGuard, TelemetryFault> {
    let filter = EnvFilter::try_new(level)?;
    // A filter that may let any level pass has no hint.
    let warns = filter.max_level_hint().is_none_or(|most| most >= LevelFilter::WARN);
    let gaps = Gaps::new(dropped_lines, warns.then_some(format));
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(Paused::new(io::stderr(), &REFUSED, gaps));
    let dropped = writer.error_counter();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => builder.json().event_format(JsonLines::new()).finish().try_init()?,
        // Left alone, the builder honours NO_COLOR.
        LogFormat::Text if io::stderr().is_terminal() => builder.with_target(false).finish().try_init()?,
        LogFormat::Text => {
            let builder = builder.fmt_fields(PlainFields).with_timer(Now);
            builder.with_target(false).with_ansi(false).finish().try_init()?;
        }
    }
    // The process logs once: nobody can have set it before.
    let _ = DROPPED.set(dropped);
    Ok(TelemetryGuard(guard))
}

// === impl Now ===

impl FormatTime for Now {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        stamp::write_now(writer, Digits::Microseconds)
    }
}

/// Checks a level without using it.
///
/// # Errors
/// When it is neither a level nor a list of directives.
pub(crate) fn check_level(level: &str) -> Result<String, TelemetryFault> {
    EnvFilter::try_new(level)?;
    // The filter takes a bare word for the name of a module, and logs nothing else then: a level with a typing error.
    let bare = level.split(',').map(str::trim).find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err());
    match bare {
        Some(word) => Err(TelemetryFault::Word(word.to_owned())),
        None => Ok(level.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_refused() {
        assert!(matches!(init(LogFormat::Text, "info,=,x"), Err(TelemetryFault::Level(_))));
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for bad in ["loud", "info,h2", "ntonix_data_plane"] {
            assert!(matches!(check_level(bad), Err(TelemetryFault::Word(_))), "{bad}");
        }
        for good in ["off", "info", "DEBUG", "info,h2=warn", "h2=warn, info"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_log_starts_once() {
        let _guard = init(LogFormat::Json, "info,h2=warn").unwrap();
        assert_eq!(dropped_lines(), 0);
        assert!(matches!(init(LogFormat::Text, "info"), Err(TelemetryFault::Taken(_))));
    }
}
