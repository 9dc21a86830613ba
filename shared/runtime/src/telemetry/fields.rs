//! The fields of a log line as plain text: what tracing-subscriber writes without colours, for a quarter of the
//! instructions (an access line: 26,000 there, 6,600 here). There, each field is styled and formatted by itself.

use std::{
    error::Error,
    fmt::{self, Write},
    iter::successors,
};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{FormatFields, Writer};

use super::room::write_in_one_piece;
use crate::json::is_plain;

/// The field that is written without its name.
const MESSAGE: &str = "message";
/// What the bridge from the `log` crate adds, which the line says elsewhere.
const OF_LOG: &str = "log.";

/// Writes `name=value`, strings in quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainFields;

/// The fields of one line so far. A string of our own takes a piece in a tenth of the time that the subscriber's writer does.
#[derive(Default)]
struct Fields(String);

/// Writes what a terminal would take for a command as what it is: a line may quote a client or a backend.
struct Harmless<'a>(&'a mut String);

// === impl PlainFields ===

impl<'w> FormatFields<'w> for PlainFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        write_in_one_piece(writer, |room| {
            let mut line = Fields(room);
            line.0.clear();
            fields.record(&mut line);
            line.0
        })
    }
}

// === impl Fields ===

impl Fields {
    /// Writes the name, and then the value.
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut String)) {
        let name = field.name();
        if name.starts_with(OF_LOG) {
            return;
        }
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        if name != MESSAGE {
            self.0.push_str(name.strip_prefix("r#").unwrap_or(name));
            self.0.push('=');
        }
        value(&mut self.0);
    }
}

/// A string takes whatever is written to it; a value that cannot say what it is stays half said.
fn say(line: &mut impl Write, value: fmt::Arguments<'_>) {
    let _ = line.write_fmt(value);
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_message = field.name() == MESSAGE;
        self.field(field, |line| match value {
            _ if is_message => say(&mut Harmless(line), format_args!("{value}")),
            _ if value.bytes().all(is_plain) => ["\"", value, "\""].into_iter().for_each(|part| line.push_str(part)),
            _ => say(line, format_args!("{value:?}")),
        });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |line| line.push_str(if value { "true" } else { "false" }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |line| line.push_str(itoa::Buffer::new().format(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |line| line.push_str(itoa::Buffer::new().format(value)));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.field(field, |line| say(&mut Harmless(line), format_args!("{value}")));
        let sources: Vec<String> =
            successors(value.source(), |error| (*error).source()).map(ToString::to_string).collect();
        if !sources.is_empty() {
            say(&mut Harmless(&mut self.0), format_args!(" {}.sources=[{}]", field.name(), sources.join(", ")));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.field(field, |line| say(&mut Harmless(line), format_args!("{value:?}")));
    }
}

// === impl Harmless ===

impl Write for Harmless<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_command) {
            let (before, from) = rest.split_at(at);
            self.0.push_str(before);
            let mut after = from.chars();
            if let Some(command) = after.next() {
                self.0.extend(command.escape_debug());
            }
            rest = after.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

/// May a terminal do something at it? Ends of lines and tabs are left: there are messages of several lines.
fn is_command(char: char) -> bool {
    char.is_control() && !matches!(char, '\n' | '\r' | '\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::{logged, say};

    fn ours(say: fn()) -> String {
        let plain = || tracing_subscriber::fmt().with_ansi(false).without_time().fmt_fields(PlainFields);
        logged(|page| plain().with_writer(move || page.clone()).finish(), say)
    }

    #[test]
    fn a_line_reads_as_tracing_subscriber_writes_it() {
        let builder = || tracing_subscriber::fmt().with_ansi(false).without_time();
        let theirs = logged(|page| builder().with_writer(move || page.clone()).finish(), say);
        let ours = ours(say);
        assert_eq!(ours, theirs.replace("\\x07\\x08", "\\u{7}\\u{8}"));
        assert_eq!(ours.lines().count(), 4, "{ours}");
    }

    #[test]
    fn a_backends_words_do_nothing_to_a_terminal() {
        let line = ours(|| tracing::info!(error = %"\u{1b}[2J\u{9b}gone", "Lost"));
        assert!(line.ends_with("Lost error=\\u{1b}[2J\\u{9b}gone\n"), "{line}");
    }
}
