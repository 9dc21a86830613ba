//! Log lines as JSON: what tracing-subscriber writes, for less where a line is a plain one. A request and its access line
//! took 122,900 instructions with its lines, and 97,000 with these.
//!
//! A plain line is an event of ours outside of all spans, such as an access line. All others are left to tracing-subscriber.

use std::{error::Error, fmt};

use tracing::Event;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Json, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::{Now, room::write_in_one_piece};
use crate::{
    json::Object,
    stamp::{self, Digits},
};

/// The target of what the bridge from the `log` crate passes on.
const LOG: &str = "log";

/// See the module.
#[derive(Debug)]
pub(super) struct JsonLines(Format<Json, Now>);

/// The line so far.
struct Members(Object);

// === impl JsonLines ===

impl JsonLines {
    pub(super) fn new() -> Self {
        Self(Format::default().json().flatten_event(true).with_span_list(false).with_timer(Now))
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        if meta.target() == LOG || event.parent().is_some() || ctx.lookup_current().is_some() {
            return self.0.format_event(ctx, writer, event);
        }
        write_in_one_piece(writer, |room| {
            let mut line = Object::begin(room);
            line.quoted("timestamp", |out| {
                // A string takes whatever is written to it.
                let _ = stamp::write_now(out, Digits::Microseconds);
            });
            line.text("level", meta.level().as_str());
            let mut members = Members(line);
            event.record(&mut members);
            members.0.text("target", meta.target());
            members.0.end()
        })
    }
}

impl Visit for Members {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.text(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.value(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.integer(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.integer(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.value(field.name(), &value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.0.text(field.name(), &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.text(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::{logged, say};

    #[test]
    fn a_line_reads_as_tracing_subscriber_writes_it() {
        let builder = || tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false);
        let theirs = logged(|page| builder().with_writer(move || page.clone()).finish(), say);
        let ours =
            logged(|page| builder().event_format(JsonLines::new()).with_writer(move || page.clone()).finish(), say);
        let [theirs, ours] = [&theirs, &ours].map(|text| {
            let timeless = |line: &'_ str| {
                assert!(line.starts_with("{\"timestamp\":\"2"), "{line}");
                line[line.find(",\"level\"").unwrap()..].to_owned()
            };
            text.lines().map(timeless).collect::<Vec<_>>()
        });
        assert_eq!(ours, theirs);
        assert_eq!(ours.len(), 4);
    }
}
