//! What is to be reached, and whether it was.

use serde::{Deserialize, Serialize};

use crate::compare::measure::Row;
use crate::compare::peers::Kind;

/// One thing to be reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) unit: Unit,
    /// The figure of NTONIX; `None` when it was not measured, or what it is beside was not.
    pub(crate) figure: Option<f64>,
    /// What it is a multiple of, when it is one.
    pub(crate) beside: Option<String>,
    pub(crate) most: f64,
    pub(crate) stretch: Option<f64>,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// Times what it is beside.
    Times,
    /// KiB.
    Kib,
    /// Things.
    Count,
}

/// How a figure stands to its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unmeasured,
    Missed,
    Reached,
    /// As good as was hoped for.
    Stretched,
}

// === impl Goal ===

impl Goal {
    pub(crate) fn verdict(&self) -> Verdict {
        match self.figure {
            None => Verdict::Unmeasured,
            Some(figure) if figure > self.most => Verdict::Missed,
            Some(figure) if self.stretch.is_some_and(|stretch| figure <= stretch) => Verdict::Stretched,
            Some(_) => Verdict::Reached,
        }
    }

    pub(crate) fn is_reached(&self) -> bool {
        matches!(self.verdict(), Verdict::Reached | Verdict::Stretched)
    }
}

/// Every goal, with the figures of these rows.
pub(crate) fn all(rows: &[Row]) -> Vec<Goal> {
    let figures = Figures(rows);
    let cpu = |row: &Row| row.cpu_us;
    let p99 = |name: &'static str| move |row: &Row| row.times.get(name).map(|times| times[1]);
    let own = |case, figure: fn(&Row) -> Option<f64>| figures.find(case, Kind::Ntonix).and_then(figure);
    let sockets = own("ws-64", cpu).zip(own("fast", cpu)).and_then(|(socket, sse)| ratio(socket, sse));
    let added = figures.added("unary-1", Kind::Ntonix).zip(figures.added("unary-1", Kind::Nginx));
    let added = added.and_then(|(own, nginx)| ratio(own, nginx));
    let beside_nginx = |what, figure, most, stretch| times(what, figure, "nginx", most, stretch);
    vec![
        beside_nginx("CPU per token, paced 400", figures.beside("paced-400", cpu), 1.25, Some(1.10)),
        beside_nginx("CPU per token, fast", figures.beside("fast", cpu), 1.40, Some(1.15)),
        times("CPU per token, fast, 64 streams on one WebSocket", sockets, "our SSE", 0.75, Some(0.6)),
        beside_nginx("CPU per unary request, 64 connections", figures.beside("unary-64", cpu), 1.7, Some(1.4)),
        beside_nginx("added p50, one connection, unary", added, 1.6, Some(1.3)),
        beside_nginx("token travel p99, paced 1,000", figures.beside("paced-1000", p99("travel")), 1.25, None),
        beside_nginx("first token p99, paced 1,000", figures.beside("paced-1000", p99("first_token")), 1.25, None),
        kib("memory per held stream, plaintext", own("held-9500", |row| row.kib_per_stream), 28.0, 20.0),
        kib("memory per held stream, TLS", own("held-9500-tls", |row| row.kib_per_stream), 56.0, 44.0),
        times(
            "instructions per request, 10,000 routes and 100,000 keys",
            own("counted-10000", |row| row.instructions)
                .zip(own("counted-10", |row| row.instructions))
                .and_then(|(many, few)| ratio(many, few)),
            "10 of each",
            1.05,
            None,
        ),
        Goal {
            what: "9,500 held streams twice: requests and tokens lost".to_owned(),
            unit: Unit::Count,
            figure: own("twice-9500", |row| Some((row.failed + row.wrong) as f64)),
            beside: None,
            most: 0.0,
            stretch: None,
        },
        times(
            "9,500 held streams twice: memory of the second time",
            own("twice-9500", |row| row.growth),
            "the first",
            1.05,
            None,
        ),
    ]
}

fn times(what: &str, figure: Option<f64>, beside: &str, most: f64, stretch: Option<f64>) -> Goal {
    Goal { what: what.to_owned(), unit: Unit::Times, figure, beside: Some(beside.to_owned()), most, stretch }
}

fn kib(what: &str, figure: Option<f64>, most: f64, stretch: f64) -> Goal {
    Goal { what: what.to_owned(), unit: Unit::Kib, figure, beside: None, most, stretch: Some(stretch) }
}

/// How many times `base` the figure is.
pub(crate) fn ratio(figure: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| figure / base)
}

/// Looks figures up.
struct Figures<'a>(&'a [Row]);

// === impl Figures ===

impl Figures<'_> {
    fn find(&self, case: &str, peer: Kind) -> Option<&Row> {
        self.0.iter().find(|row| row.case == case && row.peer == peer)
    }

    /// The figure of NTONIX as a multiple of that of nginx.
    fn beside(&self, case: &str, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        let of = |peer| self.find(case, peer).and_then(&figure);
        ratio(of(Kind::Ntonix)?, of(Kind::Nginx)?)
    }

    /// What a peer adds to the median time of a direct request, in µs.
    fn added(&self, case: &str, peer: Kind) -> Option<f64> {
        let p50 = |peer| Some(self.find(case, peer)?.times.get("request")?[0]);
        Some(p50(peer)? - p50(Kind::Direct)?)
    }
}
