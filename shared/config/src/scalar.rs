//! Durations, sizes, times and enum values as people write them.

use prost_reflect::EnumDescriptor;
use prost_types::{Duration, Timestamp};

const UNITS: [(&str, i128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads "250ms", "30s", "5m", "1h 30m", "1.5s", also with a minus; the error is a reason.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(duration) = text.parse::<Duration>() {
        return Ok(duration);
    }
    let (sign, amount) = text.strip_prefix('-').map_or((1, text), |amount| (-1, amount));
    humantime::parse_duration(amount)
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .map(|Duration { seconds, nanos }| Duration { seconds: sign * seconds, nanos: sign as i32 * nanos })
        .ok_or_else(|| format!("{text:?} is not a duration such as \"250ms\", \"30s\" or \"5m\""))
}

/// Writes a duration in the largest unit that holds it without a fraction, as in "250ms" or "5m".
pub(crate) fn format_duration(duration: &Duration) -> String {
    let nanos = i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos);
    match UNITS.iter().find(|(_, unit)| nanos != 0 && nanos % unit == 0) {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None => "0s".to_owned(),
    }
}

/// Reads "32MiB", "64KiB", "1GiB" or "100B"; the error is a reason.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unit = SIZES.iter().find(|(name, _)| *name == unit.trim_start());
    unit.and_then(|(_, bytes)| digits.parse::<u64>().ok()?.checked_mul(*bytes))
        .ok_or_else(|| format!("{text:?} is not a size such as \"64KiB\", \"32MiB\" or \"1GiB\""))
}

/// Writes a size in the largest unit that holds it without a fraction; `None` when bytes say it as well.
pub(crate) fn format_size(bytes: u64) -> Option<String> {
    let (name, unit) = SIZES.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))?;
    (*unit > 1).then(|| format!("{}{name}", bytes / unit))
}

/// Reads an RFC 3339 time; the error is a reason.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("{text:?} is not a time such as \"2027-01-01T00:00:00Z\""))
}

/// The values of an enum as they are written: without their prefix, lower case, with dashes. The default that is never
/// written is not among them.
pub(crate) fn enum_words(kind: &EnumDescriptor) -> Vec<(String, i32)> {
    let prefix = kind.default_value().name().trim_end_matches("UNSPECIFIED").to_owned();
    kind.values()
        .filter(|value| value.number() != 0)
        .map(|value| {
            let word = value.name().trim_start_matches(&prefix).to_ascii_lowercase().replace('_', "-");
            (word, value.number())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_size_or_time_is_refused() {
        for bad in ["", "5", "s", "5 parsecs", "--5s", "1e9s", "999999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "MiB", "32MB", "32mib", "-1MiB", "1.5GiB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for bad in ["", "tomorrow", "2027-13-01T00:00:00Z", "2027-01-01T25:00:00Z"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_is_read_in_every_form_and_written_in_one() {
        for (text, written) in [
            ("250ms", "250ms"),
            ("0s", "0s"),
            ("90s", "90s"),
            ("120s", "2m"),
            ("1h 30m", "90m"),
            ("1.5s", "1500ms"),
            ("-5s", "-5s"),
            ("-5m", "-5m"),
            ("24h", "24h"),
            ("1us", "1us"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(format_duration(&duration), written);
            assert_eq!(parse_duration(written), Ok(duration));
        }
    }

    #[test]
    fn a_size_is_written_in_its_largest_whole_unit() {
        for (bytes, written) in [
            (0, None),
            (1023, None),
            (1024, Some("1KiB")),
            (1536, None),
            (32 << 20, Some("32MiB")),
            (3 << 29, Some("1536MiB")),
            (1 << 40, Some("1024GiB")),
        ] {
            assert_eq!(format_size(bytes).as_deref(), written);
            assert!(written.is_none_or(|text| parse_size(text) == Ok(bytes)));
        }
    }

    #[test]
    fn a_time_may_have_an_offset() {
        assert_eq!(parse_time("2027-01-01T02:00:00+02:00"), parse_time("2027-01-01T00:00:00Z"));
    }
}
