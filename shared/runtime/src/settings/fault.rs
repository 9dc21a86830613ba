//! Says in one line what clap found wrong.

use std::error::Error as _;
use std::net::AddrParseError;

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// One line about one fault.
pub(super) fn describe(error: &Error) -> String {
    let flag = flag(error).unwrap_or_default();
    let value = value(error).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => match text(error, ContextKind::SuggestedArg) {
            Some(near) => format!("{flag}: there is no such flag; did you mean {near}?"),
            None if flag.starts_with('-') => format!("{flag}: there is no such flag"),
            None => format!("{flag}: no such argument is expected"),
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("{flag}: the value is missing"),
        ErrorKind::InvalidValue => match text(error, ContextKind::SuggestedValue) {
            Some(near) => format!("{flag}: \"{value}\" is not one of {}; did you mean {near}?", choices(error)),
            None => format!("{flag}: \"{value}\" is not one of {}", choices(error)),
        },
        ErrorKind::ValueValidation => match error.source() {
            Some(reason) => format!("{flag}: \"{value}\": {}", reason_of(reason, &value)),
            None => format!("{flag}: \"{value}\" is not a value for it"),
        },
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            match text(error, ContextKind::SuggestedSubcommand) {
                Some(near) => format!("{word}: there is no such command; did you mean {near}?"),
                None => format!("{word}: there is no such command"),
            }
        }
        ErrorKind::MissingSubcommand => {
            let known = text(error, ContextKind::ValidSubcommand).unwrap_or_default();
            format!("a command is missing; there are {known}")
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{}: must be given", text(error, ContextKind::InvalidArg).unwrap_or_default())
        }
        ErrorKind::ArgumentConflict => match text(error, ContextKind::PriorArg) {
            Some(other) if other.split_whitespace().next() != Some(flag.as_str()) => {
                format!("{flag}: cannot be used together with {other}")
            }
            _ => format!("{flag}: may be given only once"),
        },
        _ => first_line(error),
    }
}

/// What the standard library tells of a value too briefly, in words that help.
fn reason_of(reason: &(dyn std::error::Error + 'static), value: &str) -> String {
    let told = reason.to_string();
    if reason.is::<AddrParseError>() && told.contains("socket") {
        return "not an IP address and a port, as in 127.0.0.1:8000".to_owned();
    }
    let is_negative = value.starts_with('-') && value.parse::<f64>().is_ok();
    if is_negative && reason.is::<std::num::ParseIntError>() { "must not be negative".to_owned() } else { told }
}

/// The flag that the fault is about, without its placeholder.
pub(super) fn flag(error: &Error) -> Option<String> {
    let shown = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(shown) => shown,
        ContextValue::Strings(all) => all.first()?,
        _ => return None,
    };
    shown.split_whitespace().next().map(|flag| flag.trim_end_matches("...").to_owned())
}

/// The value that the fault is about, unless it is missing.
pub(super) fn value(error: &Error) -> Option<String> {
    text(error, ContextKind::InvalidValue).filter(|value| !value.is_empty())
}

fn text(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        _ => None,
    }
}

fn choices(error: &Error) -> String {
    text(error, ContextKind::ValidValue).unwrap_or_default()
}

fn first_line(error: &Error) -> String {
    let shown = error.to_string();
    let line = shown.lines().next().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}
