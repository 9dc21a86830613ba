//! Log lines as JSON: what tracing-subscriber writes, for a third of the instructions where a line is a plain one.
//!
//! A plain line is an event of ours outside of all spans, such as an access line. All others are left to tracing-subscriber.

use std::{cell::Cell, error::Error, fmt};

use tracing::Event;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Json, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::{
    Now,
    fields::{KEPT_MOST, is_plain},
};
use crate::stamp::{self, Digits};

/// The target of what the bridge from the `log` crate passes on.
const LOG: &str = "log";

thread_local! {
    /// What the last line was written in.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// See the module.
#[derive(Debug)]
pub(super) struct JsonLines(Format<Json, Now>);

/// The line so far, `{` to the last field.
struct Members<'a>(&'a mut String);

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
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        if meta.target() == LOG || event.parent().is_some() || ctx.lookup_current().is_some() {
            return self.0.format_event(ctx, writer, event);
        }
        // Taken, not borrowed: what is written may log a line itself.
        let mut line = LINE.take();
        line.clear();
        line.push_str("{\"timestamp\":\"");
        stamp::write_now(&mut line, Digits::Microseconds)?;
        line.push_str("\",\"level\":\"");
        line.push_str(meta.level().as_str());
        line.push('"');
        event.record(&mut Members(&mut line));
        Members(&mut line).text("target", meta.target());
        line.push_str("}\n");
        let written = writer.write_str(&line);
        line.shrink_to(KEPT_MOST);
        LINE.set(line);
        written
    }
}

// === impl Members ===

impl Members<'_> {
    fn name(&mut self, name: &str) {
        for part in [",\"", name, "\":"] {
            self.0.push_str(part);
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        if text.bytes().all(is_plain) {
            for part in ["\"", text, "\""] {
                self.0.push_str(part);
            }
        } else {
            self.0.push_str(&serde_json::Value::from(text).to_string());
        }
    }
}

impl Visit for Members<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field.name());
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field.name());
        self.0.push_str(itoa::Buffer::new().format(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field.name());
        self.0.push_str(itoa::Buffer::new().format(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field.name());
        // What is no number is null.
        self.0.push_str(&serde_json::Value::from(value).to_string());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.text(field.name(), &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fields::tests::Page;

    /// What `say` logs, as tracing-subscriber writes it and as it is written here, without the time.
    fn both(say: fn()) -> [Vec<String>; 2] {
        let (theirs, ours) = (Page::default(), Page::default());
        let builder = || tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false);
        let (to_theirs, to_ours) = (theirs.clone(), ours.clone());
        tracing::subscriber::with_default(builder().with_writer(move || to_theirs.clone()).finish(), say);
        let plain = builder().event_format(JsonLines::new()).with_writer(move || to_ours.clone()).finish();
        tracing::subscriber::with_default(plain, say);
        [theirs, ours].map(|page| {
            let text = page.text();
            let timeless = |line: &str| {
                let at = line.find(",\"level\"").unwrap();
                assert_eq!(&line[..15], "{\"timestamp\":\"2", "{line}");
                line[at..].to_owned()
            };
            text.lines().map(timeless).collect()
        })
    }

    #[test]
    fn a_line_reads_as_tracing_subscriber_writes_it() {
        let [theirs, ours] = both(|| {
            let nothing: Option<u64> = None;
            let inner = std::io::Error::other("inner");
            let error: &(dyn Error + 'static) = &inner;
            tracing::info!(
                text = "plain",
                odd = "a \"quoted\" \\ line\nof ünïcode \u{1b}[31m",
                empty = "",
                shown = %"as it \"is\"",
                debug = ?Some(1),
                tokens.r#in = 7_u64,
                below = -7_i64,
                part = 2.5,
                whole = 3.0,
                none = f64::NAN,
                stream = true,
                nothing,
                "Said {}",
                "something"
            );
            tracing::warn!(error, "Broke");
            tracing::info_span!("connection", client = 7).in_scope(|| tracing::error!("Inside"));
        });
        assert_eq!(ours, theirs);
        assert_eq!(ours.len(), 3);
    }
}
