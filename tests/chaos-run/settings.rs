//! What a run is told on its command line.

use std::path::PathBuf;
use std::time::Duration;

/// Within this time every kind of fault strikes, whatever the seed; a test of the schedule holds it to that.
pub(crate) const ALL_STRUCK: Duration = Duration::from_secs(120);

/// Runs mixed streams through two workers while faults strike from one seeded schedule, and compares all books.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "ntonix-chaos",
    version,
    after_help = "tests/chaos builds what this needs and runs it. Its own flag --release, anywhere among the others, builds and \
        runs everything with optimizations."
)]
pub(crate) struct Settings {
    /// Where chance begins; default: another one each time. With it and --streams, faults and streams are the same again
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// How long faults strike, in minutes, from 0.05 to 1440. From 2 on a run also fails when something that it should
    /// exercise never happened
    #[arg(long, value_name = "MINUTES", default_value = "2", value_parser = minutes)]
    pub(crate) minutes: Duration,
    /// Streams under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u16).range(6..=2000))]
    pub(crate) streams: u16,
    /// How often the same is done; with 2, the second time may leave at most 5 % more resident memory than the first
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub(crate) rounds: u8,
    /// Also write the result there, as JSON; the file is made, or emptied, before the run
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Only print the schedule of the seed
    #[arg(long)]
    pub(crate) schedule: bool,
}

// === impl Settings ===

impl Settings {
    /// Whether there is time enough for every kind of fault to strike.
    pub(crate) fn must_exercise_all(&self) -> bool {
        self.minutes >= ALL_STRUCK
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "a number of minutes, as in 2 or 0.5".to_owned())?;
    if (0.05..=1440.0).contains(&minutes) {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("0.05 to 1440 minutes".to_owned())
    }
}
