//! The time of day as logs and records say it. Writing a date takes some thousand instructions, and thousands of lines have
//! the same one: it is written once for each second.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

thread_local! {
    /// The second that was asked for last, since 1970, and its text as in "2026-11-22T19:15:29".
    static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// How much of a second is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digits {
    /// As in "29.561Z".
    Milliseconds,
    /// As in "29.561421Z".
    Microseconds,
}

/// Writes what time it is now, in UTC, as RFC 3339 has it: "2026-11-22T19:15:29.561Z".
///
/// # Errors
/// Those of `out`.
pub fn write_now(out: &mut impl Write, digits: Digits) -> fmt::Result {
    write(out, SystemTime::now(), digits)
}

fn write(out: &mut impl Write, time: SystemTime, digits: Digits) -> fmt::Result {
    // A clock that says it is before 1970 is not set.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *second = since.as_secs();
            *text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(*second)).to_string();
            // The fraction goes before it.
            text.truncate(text.len() - "Z".len());
        }
        out.write_str(text)
    })?;
    let (mut fraction, length) = match digits {
        Digits::Milliseconds => (since.subsec_millis(), 3),
        Digits::Microseconds => (since.subsec_micros(), 6),
    };
    let mut text = *b".000000";
    for digit in text[1..=length].iter_mut().rev() {
        *digit += (fraction % 10) as u8;
        fraction /= 10;
    }
    out.write_str(str::from_utf8(&text[..=length]).unwrap_or_default())?;
    out.write_char('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ns: u64, digits: Digits) -> String {
        let mut text = String::new();
        write(&mut text, UNIX_EPOCH + Duration::from_nanos(ns), digits).unwrap();
        text
    }

    #[test]
    fn a_time_reads_as_humantime_writes_it() {
        const SECOND: u64 = 1_000_000_000;
        // Within a second, over the end of one, of a year and of February, and back.
        let times = [0, 1, 999_999, 7_007_007, SECOND - 1, SECOND, 1_772_323_199 * SECOND + 999_999_999];
        for ns in times.into_iter().chain([1_798_761_599 * SECOND + 120_000, 1_798_761_600 * SECOND, 5]) {
            let time = UNIX_EPOCH + Duration::from_nanos(ns);
            assert_eq!(text(ns, Digits::Milliseconds), humantime::format_rfc3339_millis(time).to_string());
            assert_eq!(text(ns, Digits::Microseconds), humantime::format_rfc3339_micros(time).to_string());
        }
    }
}
