//! What came of a run: a table for people, JSON for machines, several runs side by side.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::process::Usage;
use crate::settings::{Mode, Over};
use crate::tally::{Times, Wrong};

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) mode: String,
    pub(crate) url: String,
    pub(crate) streams: u32,
    pub(crate) sockets: Option<u32>,
    pub(crate) tokens_per_answer: u64,
    pub(crate) pause_ms: f64,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) complete: u64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) tokens: u64,
    /// Answers that had begun and not ended, at most.
    pub(crate) open_most: u64,
    pub(crate) wrong: Wrong,
    /// `request`, `first_token`, `travel`, `cut`: those that were measured.
    pub(crate) times: BTreeMap<String, Quantiles>,
    pub(crate) watched: Option<Usage>,
    pub(crate) cpu_us_per_request: Option<f64>,
    pub(crate) cpu_us_per_token: Option<f64>,
    pub(crate) kib_per_stream: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

// === impl Report ===

impl Report {
    pub(crate) fn new(plan: &Plan, watched: Option<Usage>) -> Self {
        let tally = plan.tally();
        let per =
            |count: u64| watched.as_ref().filter(|_| count > 0).map(|usage| usage.cpu_seconds * 1e6 / count as f64);
        let is_streamed = plan.mode != Mode::Unary;
        let times = [
            ("request", &tally.request),
            ("first_token", &tally.first_token),
            ("travel", &tally.travel),
            ("cut", &tally.cut),
        ];
        // Tokens of a body that arrives whole have no time of their own.
        let is_told = |name: &str| is_streamed || name == "request";
        let kib_per_stream =
            |usage: &Usage| usage.peak_kib.saturating_sub(usage.start_kib) as f64 / f64::from(plan.load.streams);
        Self {
            mode: mode_of(plan),
            url: plan.load.url.join(", "),
            streams: plan.load.streams,
            sockets: (plan.load.over != Over::Http1 && plan.mode != Mode::Cancel).then_some(plan.load.sockets),
            tokens_per_answer: plan.tokens,
            pause_ms: plan.pause.as_secs_f64() * 1e3,
            seconds: plan.started.elapsed().as_secs_f64(),
            requests: plan.begun(),
            complete: tally.complete,
            failed: tally.failed.clone(),
            tokens: tally.tokens,
            open_most: tally.open_most,
            wrong: tally.wrong.clone(),
            times: times
                .into_iter()
                .filter(|(name, times)| times.count() > 0 && is_told(name))
                .map(|(name, times)| (name.to_owned(), Quantiles::of(times)))
                .collect(),
            cpu_us_per_request: per(plan.begun()),
            cpu_us_per_token: per(tally.tokens).filter(|_| is_streamed),
            kib_per_stream: watched.as_ref().map(kib_per_stream),
            watched,
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Whether every request succeeded and every token was right.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.wrong.total() == 0
    }

    /// Whether its clients left: then what is complete are requests that were left, and that the backend saw end.
    fn is_cancel(&self) -> bool {
        self.mode.split(' ').next() == Some(Mode::Cancel.name())
    }

    fn title(&self) -> String {
        format!("{} {}", self.mode, self.url)
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = self.sockets.map_or(String::new(), |sockets| format!(" on {sockets} sockets"));
        writeln!(
            f,
            "{}: {} at once{sockets}, {} tokens each, pause {} ms, {:.1} s",
            self.title(),
            self.streams,
            self.tokens_per_answer,
            self.pause_ms,
            self.seconds
        )?;
        let failures: u64 = self.failed.values().sum();
        let (requests, tokens) = (self.per_second(self.complete), self.per_second(self.tokens));
        let (what, fine) = if self.is_cancel() { ("requests", "left") } else { ("answers", "complete") };
        writeln!(f, "  {what:<12} {} {fine}, {failures} failed, {requests:.1}/s", self.complete)?;
        for (reason, count) in &self.failed {
            writeln!(f, "    {count} × {reason}")?;
        }
        writeln!(f, "  tokens       {}, {tokens:.0}/s", self.tokens)?;
        let Wrong { lost, doubled, reordered, foreign, truncated } = self.wrong;
        writeln!(
            f,
            "  wrong        {lost} lost, {doubled} doubled, {reordered} reordered, {foreign} foreign; {truncated} answers truncated"
        )?;
        for (name, times) in &self.times {
            writeln!(f, "  {:<12} {times}", name.replace('_', " "))?;
        }
        self.write_watched(f)
    }
}

impl Report {
    fn write_watched(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(watched) = &self.watched else { return Ok(()) };
        write!(f, "  cpu          {:.2} s", watched.cpu_seconds)?;
        for (cost, unit) in [(self.cpu_us_per_request, "request"), (self.cpu_us_per_token, "token")] {
            if let Some(cost) = cost {
                write!(f, ", {cost:.1} µs per {unit}")?;
            }
        }
        let mib = |kib: u64| kib as f64 / 1024.0;
        let (start, peak) = (mib(watched.start_kib), mib(watched.peak_kib));
        write!(f, "\n  memory       {start:.1} MiB before, {peak:.1} MiB at most")?;
        if let Some(kib) = self.kib_per_stream {
            write!(f, ", {kib:.1} KiB per stream")?;
        }
        let end = mib(watched.end_kib);
        writeln!(f, "; {end:.1} MiB after\n  descriptors  {} before, {} after", watched.start_files, watched.end_files)
    }
}

// === impl Quantiles ===

impl Quantiles {
    fn of(times: &Times) -> Self {
        Self {
            count: times.count(),
            p50_us: times.quantile_us(0.5),
            p99_us: times.quantile_us(0.99),
            max_us: times.quantile_us(1.0),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {}, p99 {}, max {}", ms(self.p50_us), ms(self.p99_us), ms(self.max_us))
    }
}

/// The mode, and how its clients leave when they do.
fn mode_of(plan: &Plan) -> String {
    let name = plan.mode.name();
    let over = plan.load.over;
    if plan.mode != Mode::Cancel {
        return if over == Over::Http1 { name.to_owned() } else { format!("{name} {}", over.name()) };
    }
    let departure = plan.departure;
    let what = if departure.whole { " whole" } else { "" };
    // An answer in one piece is always waited for.
    let when = if departure.waiting && !departure.whole { " waiting" } else { "" };
    format!("{name} {}{what}{when}", over.name())
}

fn ms(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1e3)
}
