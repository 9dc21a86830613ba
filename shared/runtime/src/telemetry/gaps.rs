//! What the log says of lines that are missing in it. They are written at once, and not logged: the queue for log lines may
//! be full again, and that is why lines are missing.

use std::fmt::Write as _;

use super::LogFormat;
use crate::{
    json::Object,
    stamp::{self, Digits},
};

const MESSAGE: &str = "Log lines were lost";
const TARGET: &str = "ntonix_runtime::telemetry";

/// How many lines are missing, and how many were told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gaps {
    /// Lines that were lost so far.
    so_far: fn() -> u64,
    /// How the line looks; `None` when the level leaves no warnings.
    format: Option<LogFormat>,
    told: u64,
}

// === impl Gaps ===

impl Gaps {
    pub(super) fn new(so_far: fn() -> u64, format: Option<LogFormat>) -> Self {
        Self { so_far, format, told: 0 }
    }

    /// A line about those that nobody was told of, if there are any. `write` says whether it was written; if not, the next
    /// one tells of them, too.
    pub(super) fn tell(&mut self, write: impl FnOnce(&str) -> bool) {
        let (so_far, Some(format)) = ((self.so_far)(), self.format) else { return };
        if so_far > self.told && write(&line(format, so_far - self.told)) {
            self.told = so_far;
        }
    }
}

/// The line as the log has it, without colours.
fn line(format: LogFormat, lost: u64) -> String {
    let mut now = String::new();
    // A string takes whatever is written to it.
    let _ = stamp::write_now(&mut now, Digits::Microseconds);
    match format {
        LogFormat::Text => {
            let _ = writeln!(now, "  WARN {MESSAGE} lost={lost}");
            now
        }
        LogFormat::Json => {
            let mut line = Object::begin(String::new());
            line.text("timestamp", &now).text("level", "WARN").text("message", MESSAGE);
            line.integer("lost", lost).text("target", TARGET);
            line.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::telemetry::{JsonLines, Now, PlainFields, samples::logged};

    fn timeless(line: &str, stamped: usize) -> &str {
        assert!(line[stamped..].starts_with("2"), "{line}");
        &line[stamped + "2026-11-22T19:15:29.561421Z".len()..]
    }

    #[test]
    fn the_line_reads_as_one_that_was_logged() {
        let say = || tracing::warn!(target: TARGET, lost = 7, "{MESSAGE}");
        let json = || tracing_subscriber::fmt().json().event_format(JsonLines::new());
        let logged_json = logged(|page| json().with_writer(move || page.clone()).finish(), say);
        let start = "{\"timestamp\":\"".len();
        assert_eq!(timeless(&line(LogFormat::Json, 7), start), timeless(&logged_json, start));
        let text = || tracing_subscriber::fmt().fmt_fields(PlainFields).with_timer(Now).with_target(false);
        let logged_text = logged(|page| text().with_ansi(false).with_writer(move || page.clone()).finish(), say);
        assert_eq!(timeless(&line(LogFormat::Text, 7), 0), timeless(&logged_text, 0));
    }

    #[test]
    fn each_line_is_told_of_once_and_again_when_nobody_was_told() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let mut gaps = Gaps::new(|| LOST.load(Ordering::Relaxed), Some(LogFormat::Text));
        let mut told = Vec::new();
        for (lost, is_written) in [(0, true), (3, true), (0, true), (2, false), (1, true), (0, true)] {
            LOST.fetch_add(lost, Ordering::Relaxed);
            gaps.tell(|line| {
                told.push(line.trim_end().rsplit_once("=").unwrap().1.to_owned());
                is_written
            });
        }
        assert_eq!(told, ["3", "2", "3"]);
        let mut silent = Gaps::new(|| 1, None);
        silent.tell(|line| unreachable!("the level leaves no warnings: {line}"));
    }
}
