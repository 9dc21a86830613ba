//! The arithmetic of a comparison: medians, ratios, goals, and the page that tells them.

use serde_json::json;

use super::cases::{Case, Shape};
use super::goals::{self, Goal, Unit, Verdict};
use super::measure::{Row, Run, median};
use super::outcome::{Machine, Outcome};
use super::peers::Kind;
use super::table;
use crate::report::Report;
use crate::settings::Over;

/// The report of one measurement of `mode`; `cost` is the CPU of a token and of a third of a request.
pub(super) fn report(mode: &str, cost: f64, kib: f64, open_most: u64) -> Report {
    let times = |us: u64| json!({ "count": 24, "p50_us": us, "p99_us": us * 5, "max_us": us * 9 });
    serde_json::from_value(json!({
        "mode": mode, "url": "http://x", "streams": 4, "sockets": null, "tokens_per_answer": 3, "pause_ms": 20.0,
        "seconds": 2.0, "requests": 8, "complete": 8, "failed": {}, "tokens": 24, "open_most": open_most,
        "wrong": { "lost": 0, "doubled": 0, "reordered": 0, "foreign": 0, "truncated": 0 },
        "times": { "travel": times(500), "request": times((cost * 10.0) as u64) },
        "watched": { "cpu_seconds": 1.0, "start_kib": 10, "peak_kib": (kib * 4.0) as u64 + 10, "end_kib": 0,
            "start_files": 0, "end_files": 0 },
        "cpu_us_per_request": cost * 3.0, "cpu_us_per_token": cost, "kib_per_stream": kib,
    }))
    .unwrap()
}

fn run(case: &str, peer: Kind, report: Report) -> Run {
    Run { case: case.to_owned(), peer, round: 1, report, again: None, missing: 0, instructions: None }
}

fn runs(case: &str, mode: &str, peer: Kind, costs: &[f64]) -> Vec<Run> {
    costs.iter().map(|cost| run(case, peer, report(mode, *cost, *cost, 4))).collect()
}

fn figures(runs: Vec<Vec<Run>>) -> Vec<Goal> {
    goals::all(&Row::all(&runs.concat()))
}

fn goal<'a>(goals: &'a [Goal], what: &str) -> &'a Goal {
    goals.iter().find(|goal| goal.what == what).unwrap()
}

#[test]
fn a_median_is_the_middle_whatever_the_order() {
    assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));
    assert_eq!(median(vec![7.0]), Some(7.0));
    assert_eq!(median(vec![]), None);
}

#[test]
fn rounds_of_a_case_with_a_peer_become_one_row() {
    let mut runs = runs("fast", "fast", Kind::Nginx, &[4.0, 9.0]);
    runs.extend(self::runs("fast", "fast", Kind::Ntonix, &[5.0]));
    runs.extend(self::runs("fast", "fast", Kind::Nginx, &[5.0]));
    runs[1].report.wrong.lost = 2;
    runs[3].report.failed.insert("away".to_owned(), 3);
    let rows = Row::all(&runs);
    assert_eq!(rows.len(), 2);
    let nginx = &rows[0];
    assert_eq!((nginx.peer, nginx.rounds, nginx.wrong, nginx.failed), (Kind::Nginx, 3, 2, 3));
    assert_eq!((nginx.cpu_us, nginx.cpu_us_range, nginx.per_second), (Some(5.0), Some([4.0, 9.0]), Some(12.0)));
    assert_eq!(nginx.times["travel"], [500.0, 2500.0]);
    assert_eq!((nginx.kib_per_stream, nginx.growth), (None, None));
}

#[test]
fn an_answer_in_one_piece_is_the_unit_of_those_that_are_not_streamed() {
    for mode in ["unary", "unary http2"] {
        let rows = Row::all(&runs("unary-64", mode, Kind::Ntonix, &[5.0]));
        assert_eq!((rows[0].cpu_us, rows[0].per_second), (Some(15.0), Some(4.0)));
    }
}

#[test]
fn of_streams_that_are_held_only_the_memory_is_told() {
    let row = &Row::all(&runs("held-5000", "held", Kind::Ntonix, &[20.0]))[0];
    assert_eq!((row.kib_per_stream, row.cpu_us, row.per_second, row.times.len()), (Some(20.0), None, None, 0));
}

#[test]
fn streams_that_were_not_all_open_at_once_have_failed() {
    let case = Case::new(Shape::Twice(4), Over::Http1, false);
    let (whole, short) = (report("held", 1.0, 1.0, 4), report("held", 1.0, 1.0, 3));
    let missing =
        |first: &Report, again: &Report| Run::new(&case, Kind::Ntonix, 1, first.clone(), Some(again.clone())).missing;
    assert_eq!([missing(&whole, &whole), missing(&whole, &short), missing(&short, &short)], [0, 1, 2]);
    let run = Run::new(&case, Kind::Ntonix, 1, short, None);
    assert_eq!(Row::all(&[run])[0].failed, 1);
}

#[test]
fn goals_beside_nginx_are_the_ratio_of_the_medians() {
    let goals = figures(vec![
        runs("fast", "fast", Kind::Nginx, &[4.0, 5.0, 90.0]),
        runs("fast", "fast", Kind::Ntonix, &[6.0, 7.0, 1.0]),
        runs("ws-64", "fast ws", Kind::Ntonix, &[3.0]),
    ]);
    assert_eq!(goal(&goals, "CPU per token, fast").figure, Some(1.2));
    assert_eq!(goal(&goals, "CPU per token, fast, 64 streams on one WebSocket").figure, Some(0.5));
    assert_eq!(goal(&goals, "CPU per token, paced 400").verdict(), Verdict::Unmeasured);
}

#[test]
fn added_time_is_what_is_over_a_direct_connection() {
    let of = |peer, cost| runs("unary-1", "unary", peer, &[cost]);
    let goals = figures(vec![of(Kind::Direct, 10.0), of(Kind::Nginx, 14.0), of(Kind::Ntonix, 16.0)]);
    assert_eq!(goal(&goals, "added p50, one connection, unary").figure, Some(1.5));
    let goals = figures(vec![of(Kind::Direct, 10.0), of(Kind::Nginx, 10.0), of(Kind::Ntonix, 16.0)]);
    assert_eq!(goal(&goals, "added p50, one connection, unary").figure, None, "nginx was not slower than nothing");
}

#[test]
fn growth_is_the_most_memory_of_the_second_time_over_that_of_the_first() {
    let mut first = run("twice-9500", Kind::Ntonix, report("held", 1.0, 22.5, 4));
    first.again = Some(report("held", 1.0, 24.0, 4));
    let goals = figures(vec![vec![first]]);
    let memory = goal(&goals, "9,500 held streams twice: memory of the second time");
    assert_eq!((memory.figure, memory.verdict()), (Some(1.06), Verdict::Missed));
    assert!(goal(&goals, "9,500 held streams twice: requests and tokens lost").is_reached());
}

#[test]
fn instructions_of_a_large_configuration_are_beside_those_of_a_small_one() {
    let counted = |case, instructions| {
        let mut run = run(case, Kind::Ntonix, report("unary", 50.0, 1.0, 1));
        run.instructions = Some(instructions);
        run
    };
    let runs = vec![counted("counted-10", 100.0), counted("counted-10000", 104.0)];
    // Under callgrind time means nothing.
    let row = &Row::all(&runs)[0];
    assert_eq!((row.cpu_us, row.per_second, row.times.len()), (None, None, 0));
    let goals = figures(vec![runs]);
    let goal = goal(&goals, "instructions per request, 10,000 routes and 100,000 keys");
    assert_eq!((goal.figure, goal.verdict()), (Some(1.04), Verdict::Reached));
}

#[test]
fn a_verdict_is_what_figure_and_goal_say() {
    let verdict = |figure| {
        let goal =
            Goal { what: String::new(), unit: Unit::Times, figure, beside: None, most: 1.25, stretch: Some(1.1) };
        goal.verdict()
    };
    let verdicts = [None, Some(1.26), Some(1.25), Some(1.11), Some(1.1)].map(verdict);
    let missed_to_stretched =
        [Verdict::Unmeasured, Verdict::Missed, Verdict::Reached, Verdict::Reached, Verdict::Stretched];
    assert_eq!(verdicts, missed_to_stretched);
}

fn outcome(runs: Vec<Run>) -> Outcome {
    let rows = Row::all(&runs);
    let machine = Machine::now(&[]);
    Outcome { machine, rounds: 3, duration_seconds: 5.0, goals: goals::all(&rows), rows, runs }
}

#[test]
fn the_page_has_a_row_for_each_peer_with_its_ratio_and_each_goal_with_its_verdict() {
    let mut runs = runs("fast", "fast", Kind::Nginx, &[4.0]);
    runs.extend(self::runs("fast", "fast", Kind::Ntonix, &[7.0]));
    let page = table::page(&outcome(runs), &[Case::new(Shape::Fast(64), Over::Http1, false)]);
    for line in [
        "| fast | nginx | 12 | 4.0 µs (1.00 ×) | – | 0.04 / 0.20 ms | – | 0.50 / 2.50 ms | 0 | 0 |",
        "| fast | NTONIX | 12 | 7.0 µs (1.75 ×) | – | 0.07 / 0.35 ms | – | 0.50 / 2.50 ms | 0 | 0 |",
        "| CPU per token, fast | 1.75 × | nginx | 1.40 × | 1.15 × | **missed** |",
        "| memory per held stream, TLS | – | – | 56.0 KiB | 44.0 KiB | not measured |",
        "- `fast`: 64 streams of 200 tokens without pauses, each token written by itself; HTTP/1.1",
    ] {
        assert!(page.lines().any(|there| there == line), "{line}\nis not in\n{page}");
    }
}

#[test]
fn the_json_has_everything_and_can_be_read_again() {
    let outcome = outcome(runs("fast", "fast", Kind::Haproxy, &[4.0]));
    let text = serde_json::to_string(&outcome).unwrap();
    assert!(text.contains("\"peer\":\"haproxy\"") && text.contains("\"unit\":\"times\""), "{text}");
    assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
}
