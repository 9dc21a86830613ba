//! Says on stderr that a run goes on, and how far it has come.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::field::{Field, Sum};

/// How often somebody at a terminal is told, and how often a log is.
const TERMINAL: Duration = Duration::from_secs(10);
const LOG: Duration = Duration::from_secs(30);

/// Writes a line each time a period is over, until the round is.
pub(crate) async fn tell(field: &Field, lasts: Duration, round: u8, mut is_over: watch::Receiver<bool>) {
    let begun = Instant::now();
    let period = if std::io::stderr().is_terminal() { TERMINAL } else { LOG };
    let mut periods = tokio::time::interval_at(begun + period, period);
    loop {
        tokio::select! {
            // The sender lives as long as the round; losing a tick to it is meant.
            _ = is_over.wait_for(|over| *over) => return,
            _ = periods.tick() => {}
        }
        // There is no other place to tell it when stderr is closed.
        let _ = writeln!(std::io::stderr(), "{}", line(round, begun.elapsed(), lasts, &field.sum()));
    }
}

/// Says something that is worth knowing, and no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn line(round: u8, elapsed: Duration, lasts: Duration, sum: &Sum) -> String {
    let Sum { streams, struck, broken } = sum;
    let (elapsed, lasts) = (elapsed.as_secs(), lasts.as_secs());
    format!(
        "round {round}, {elapsed} s of {lasts}: {streams} streams, {struck} faults struck, {broken} promises broken so far"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_the_run_has_come() {
        let sum = Sum { streams: 1_200, struck: 90, broken: 0 };
        assert_eq!(
            line(1, Duration::from_millis(30_020), Duration::from_secs(120), &sum),
            "round 1, 30 s of 120: 1200 streams, 90 faults struck, 0 promises broken so far"
        );
    }
}
