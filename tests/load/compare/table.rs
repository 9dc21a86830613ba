//! What a comparison found out, for people: the machine, one table, and the goals.

use crate::compare::cases::Case;
use crate::compare::goals::{Goal, Unit, Verdict, ratio};
use crate::compare::measure::Row;
use crate::compare::outcome::{Machine, Outcome};
use crate::compare::peers::Kind;

const HEAD: &str = "\
| case | peer | per second | CPU per unit | memory per held stream | request p50 / p99 | first token p50 / p99 | travel p50 / p99 | failed | wrong |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
";
const GOALS: &str = "\
| goal | figure | beside | at most | stretch | |
| --- | --- | --- | --- | --- | --- |
";

/// All of it as Markdown.
pub(crate) fn page(outcome: &Outcome, cases: &[Case]) -> String {
    let legend: String = cases.iter().map(|case| format!("- `{}`: {}\n", case.name(), case.says())).collect();
    format!("{}\n{}\n{}\n{legend}", machine(outcome), rows(&outcome.rows), goals(&outcome.goals))
}

fn machine(outcome: &Outcome) -> String {
    let Machine { at, processor, cores, memory_mib, kernel, load_before, versions } = &outcome.machine;
    format!(
        "{at}; {cores} cores, {processor}; {memory_mib} MiB; Linux {kernel}; load before {load_before}; {}. Medians of {} \
         rounds of {} s; CPU in brackets beside nginx; a unit is an answer when it comes in one piece, else a token.\n",
        versions.join(", "),
        outcome.rounds,
        outcome.duration_seconds
    )
}

/// One line for each case and peer, those of one case together.
fn rows(rows: &[Row]) -> String {
    let mut table = HEAD.to_owned();
    let of = |case: &str, peer| rows.iter().find(|row| row.case == case && row.peer == peer);
    for row in rows {
        let beside = |figure: fn(&Row) -> Option<f64>| of(&row.case, Kind::Nginx).and_then(figure);
        let cells = [
            row.case.clone(),
            row.peer.name().to_owned(),
            row.per_second.map_or_else(none, |per_second| format!("{per_second:.0}")),
            row.instructions.map_or_else(
                || cost(row.cpu_us, beside(|row| row.cpu_us), "µs"),
                |instructions| format!("{instructions:.0} instructions"),
            ),
            cost(row.kib_per_stream, beside(|row| row.kib_per_stream), "KiB"),
            times(row, "request"),
            times(row, "first_token"),
            times(row, "travel"),
            row.failed.to_string(),
            row.wrong.to_string(),
        ];
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}

fn goals(goals: &[Goal]) -> String {
    let mut table = GOALS.to_owned();
    for goal in goals {
        let shown = |figure: f64| shown(figure, goal.unit);
        let cells = [
            goal.what.clone(),
            goal.figure.map_or_else(none, shown),
            goal.beside.clone().unwrap_or_else(none),
            shown(goal.most),
            goal.stretch.map_or_else(none, shown),
            word(goal.verdict()).to_owned(),
        ];
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unmeasured => "not measured",
        Verdict::Missed => "**missed**",
        Verdict::Reached => "reached",
        Verdict::Stretched => "reached, stretch too",
    }
}

fn shown(figure: f64, unit: Unit) -> String {
    match unit {
        Unit::Times => format!("{figure:.2} ×"),
        Unit::Kib => format!("{figure:.1} KiB"),
        Unit::Count => format!("{figure:.0}"),
    }
}

fn cost(figure: Option<f64>, beside: Option<f64>, unit: &str) -> String {
    let Some(figure) = figure else { return none() };
    match beside.and_then(|beside| ratio(figure, beside)) {
        Some(times) => format!("{figure:.1} {unit} ({times:.2} ×)"),
        None => format!("{figure:.1} {unit}"),
    }
}

fn times(row: &Row, name: &str) -> String {
    let ms = |us: f64| us / 1e3;
    row.times.get(name).map_or_else(none, |[p50, p99]| format!("{:.2} / {:.2} ms", ms(*p50), ms(*p99)))
}

fn none() -> String {
    "–".to_owned()
}
