//! Points, medians and plots of growth.

use clap::Parser as _;

use super::axis::{Axis, Figure};
use super::plot;
use super::series::{Growth, Measured};
use super::{Settings, turns};
use crate::compare::outcome::Machine;
use crate::compare::peers::Kind;
use crate::compare::tests::report;
use crate::settings::Mode;
use std::time::Duration;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

fn settings(line: &str) -> Settings {
    Line::parse_from(["grow"].into_iter().chain(line.split_ascii_whitespace())).settings
}

fn growth(points: &[(Axis, u32, Kind, f64)]) -> Growth {
    let measured = |(axis, at, peer, cost): &(Axis, u32, Kind, f64)| Measured {
        axis: *axis,
        at: *at,
        peer: *peer,
        report: report("paced", *cost, *cost * 2.0, u64::from(*at)),
    };
    let measured: Vec<Measured> = points.iter().map(measured).collect();
    Growth::new(Machine::now(&[]), 3, Duration::from_secs(5), &measured)
}

#[test]
fn a_round_goes_through_every_point_with_those_to_whom_it_means_anything() {
    let all = turns(&settings(""));
    let of = |wanted| all.iter().filter(|(axis, ..)| *axis == wanted).count();
    assert_eq!((of(Axis::Streams), of(Axis::Keys)), (5 * 3, 5));
    assert_eq!(all[..2], [(Axis::Streams, 100, Kind::Nginx), (Axis::Streams, 100, Kind::Haproxy)]);
    let few = turns(&settings("--only keys,events --peers nginx,ntonix --up-to 10"));
    let is_in = |turn| few.contains(&turn);
    assert!(is_in((Axis::Keys, 10, Kind::Ntonix)) && is_in((Axis::Events, 10, Kind::Nginx)));
    assert_eq!(few.len(), 1 + 4 * 2);
}

#[test]
fn streams_have_the_same_rate_of_tokens_however_many_there_are() {
    for at in Axis::Streams.points() {
        let (mode, load) = Axis::Streams.load(*at, vec![], Duration::from_secs(5));
        let rate = f64::from(load.streams) / load.pause.unwrap().as_secs_f64();
        assert_eq!((mode, rate.round()), (Mode::Paced, 20_000.0), "{at}");
    }
}

#[test]
fn each_point_is_the_median_of_its_rounds() {
    let at = |cost| (Axis::Streams, 100, Kind::Nginx, cost);
    let growth = growth(&[at(9.0), (Axis::Streams, 300, Kind::Nginx, 8.0), at(4.0), at(5.0)]);
    assert_eq!(growth.points.len(), 2);
    assert_eq!(growth.points[0].figures, [Some(5.0), Some(10.0)]);
    assert!(growth.is_clean());
    assert!(growth.to_string().contains("\n| 100 | nginx | 5.0 | 10.0 | 0 | 0 |\n"), "{growth}");
}

#[test]
fn streams_that_were_not_open_at_once_have_failed() {
    let short = report("paced", 1.0, 1.0, 80);
    assert_eq!([Axis::Streams.missing(100, &short), Axis::Keys.missing(100, &short)], [10, 0]);
}

#[test]
fn a_plot_has_a_line_for_each_peer_and_its_axes_hold_all_of_them() {
    let growth = growth(&[
        (Axis::Streams, 100, Kind::Nginx, 10.0),
        (Axis::Streams, 1_000, Kind::Nginx, 15.0),
        (Axis::Streams, 1_000, Kind::Ntonix, 25.0),
    ]);
    let plots = plot::all(&growth);
    let names: Vec<&str> = plots.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["streams-cpu.svg", "streams-memory.svg"]);
    let svg = &plots[0].1;
    assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
    // The corners: the least at the left, the dearest at the top right.
    for there in
        ["points=\"64.0,198.4 544.0,145.6\"", "points=\"544.0,40.0\"", ">25</text>", ">1k</text>", ">NTONIX</text>"]
    {
        assert!(svg.contains(there), "{there} is not in {svg}");
    }
}

#[test]
fn names_of_lines_that_end_together_stand_below_each_other() {
    let growth = growth(&[
        (Axis::Events, 1, Kind::Nginx, 10.0),
        (Axis::Events, 1, Kind::Haproxy, 10.0),
        (Axis::Events, 1, Kind::Ntonix, 10.0),
    ]);
    let svg = &plot::all(&growth)[0].1;
    for there in [
        "y=\"44.0\" text-anchor=\"start\">nginx",
        "y=\"58.0\" text-anchor=\"start\">HAProxy",
        "y=\"72.0\" text-anchor=\"start\">NTONIX",
    ] {
        assert!(svg.contains(there), "{there} is not in {svg}");
    }
}

#[test]
fn lines_across_are_few_and_at_round_figures() {
    let steps = [0.9, 4.0, 9.9, 25.0, 260.0].map(plot::step);
    assert_eq!(steps, [0.2, 1.0, 2.0, 5.0, 100.0]);
    let names = [300.0, 9_500.0, 1e6].map(|at| plot::short(at, Axis::Streams));
    assert_eq!(names, ["300", "9.5k", "1M"]);
    assert_eq!([1024.0, 4_194_304.0].map(|at| plot::short(at, Axis::Prompt)), ["1 KiB", "4 MiB"]);
}

#[test]
fn every_axis_has_figures_of_other_names() {
    for axis in Axis::ALL {
        let mut names: Vec<&str> = axis.figures().iter().map(|figure: &Figure| figure.name()).collect();
        let count = names.len();
        names.dedup();
        assert_eq!((names.len(), count > 0), (count, true), "{}", axis.name());
    }
}
