//! Plots of growth as SVG: a logarithmic axis for what grows, a linear one from 0 for what it costs.

use std::fmt::Write as _;

use crate::compare::grow::axis::{Axis, Figure};
use crate::compare::grow::series::{Growth, Point};
use crate::compare::peers::Kind;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
/// From one line of text to the next.
const LINE: f64 = 14.0;
/// Lines across, at most, beside the one at 0.
const STEPS: f64 = 5.0;

const STYLE: &str = "\
text{font:12px sans-serif;fill:#333}.title{font-size:14px}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}\
@media(prefers-color-scheme:dark){.paper{fill:#111}text{fill:#ccc}.grid{stroke:#444}}";

/// The name and the text of each plot for which there are points.
pub(crate) fn all(growth: &Growth) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for axis in Axis::ALL {
        for (index, figure) in axis.figures().iter().enumerate() {
            let lines = lines(growth, axis, index);
            if let Some(plot) = Plot::new(axis, *figure, lines) {
                plots.push((format!("{}-{}.svg", axis.name(), figure.name()), plot.svg()));
            }
        }
    }
    plots
}

/// A line for each peer that has points.
fn lines(growth: &Growth, axis: Axis, figure: usize) -> Vec<Line> {
    let line = |peer: &Kind| {
        let place = |point: &Point| Some((f64::from(point.at), point.figures.get(figure).copied().flatten()?));
        let places = growth.of(axis).filter(|point| point.peer == *peer).filter_map(place).collect();
        Line { peer: *peer, places }
    };
    axis.peers().iter().map(line).filter(|line| !line.places.is_empty()).collect()
}

#[derive(Debug)]
struct Line {
    peer: Kind,
    /// What grew and what it cost.
    places: Vec<(f64, f64)>,
}

#[derive(Debug)]
struct Plot {
    axis: Axis,
    figure: Figure,
    lines: Vec<Line>,
    /// The least and the most that it grew to.
    range: (f64, f64),
    /// The cost at the top, and between two lines across.
    top: f64,
    step: f64,
}

// === impl Plot ===

impl Plot {
    /// `None` without a line.
    fn new(axis: Axis, figure: Figure, lines: Vec<Line>) -> Option<Self> {
        let places = || lines.iter().flat_map(|line| &line.places);
        let least = places().map(|place| place.0).min_by(f64::total_cmp)?;
        let most = places().map(|place| place.0).max_by(f64::total_cmp)?;
        let dearest = places().map(|place| place.1).max_by(f64::total_cmp)?;
        let step = step(dearest);
        let top = (dearest / step).ceil().max(1.0) * step;
        Some(Self { axis, figure, lines, range: (least, most), top, step })
    }

    fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        add(&mut svg, text("title", LEFT, TOP - 16.0, "start", self.figure.says()));
        add(&mut svg, text("", f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 12.0, "middle", self.axis.says()));
        self.draw_grid(&mut svg);
        for line in &self.lines {
            self.draw_line(&mut svg, line);
        }
        self.draw_names(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_grid(&self, svg: &mut String) {
        let mut cost = 0.0;
        while cost <= self.top + self.step / 2.0 {
            let y = self.y(cost);
            add(svg, format!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT));
            add(svg, text("", LEFT - 8.0, y + 4.0, "end", &trimmed(cost)));
            cost += self.step;
        }
        for at in self.axis.points().iter().map(|at| f64::from(*at)) {
            if (self.range.0..=self.range.1).contains(&at) {
                add(svg, text("", self.x(at), HEIGHT - BOTTOM + 18.0, "middle", &short(at, self.axis)));
            }
        }
    }

    fn draw_line(&self, svg: &mut String, line: &Line) {
        let color = color(line.peer);
        let places: Vec<(f64, f64)> = line.places.iter().map(|(at, cost)| (self.x(*at), self.y(*cost))).collect();
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        add(svg, format!("<polyline class=\"line\" stroke=\"{color}\" points=\"{}\"/>", path.join(" ")));
        for (x, y) in &places {
            add(svg, format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>"));
        }
    }

    /// The name of each peer beside the end of its line, or as near as the others leave room.
    fn draw_names(&self, svg: &mut String) {
        let end = |line: &Line| line.places.last().map(|(at, cost)| (self.x(*at), self.y(*cost), line.peer));
        let mut ends: Vec<_> = self.lines.iter().filter_map(end).collect();
        ends.sort_by(|one, other| one.1.total_cmp(&other.1));
        let mut lowest = 0.0_f64;
        for (x, y, peer) in ends {
            let y = y.max(lowest + LINE);
            lowest = y;
            add(svg, text("", x + 8.0, y + 4.0, "start", peer.name()));
        }
    }

    fn x(&self, at: f64) -> f64 {
        let (least, most) = self.range;
        let share = if most > least { (at / least).ln() / (most / least).ln() } else { 0.0 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, cost: f64) -> f64 {
        HEIGHT - BOTTOM - cost / self.top * (HEIGHT - TOP - BOTTOM)
    }
}

fn color(peer: Kind) -> &'static str {
    match peer {
        Kind::Direct => "#888888",
        Kind::Nginx => "#009639",
        Kind::Haproxy => "#2d6bcf",
        Kind::Ntonix => "#d9480f",
    }
}

fn add(svg: &mut String, element: String) {
    // A string takes whatever is written to it.
    let _ = writeln!(svg, "{element}");
}

fn text(class: &str, x: f64, y: f64, anchor: &str, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>")
}

/// 1, 2 or 5 times a power of ten: the least of which a few reach so high.
pub(crate) fn step(most: f64) -> f64 {
    let rough = (most / STEPS).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0].into_iter().find(|times| times * power >= rough * (1.0 - 1e-9)).unwrap_or(10.0);
    times * power
}

/// As in 1k, 9.5k, 100k; bytes by 1024, as in 1 KiB.
pub(crate) fn short(at: f64, axis: Axis) -> String {
    let (thousand, names) = if axis == Axis::Prompt { (1024.0, ["", " KiB", " MiB"]) } else { (1e3, ["", "k", "M"]) };
    let (value, name) = match at {
        at if at >= thousand * thousand => (at / thousand / thousand, names[2]),
        at if at >= thousand => (at / thousand, names[1]),
        at => (at, names[0]),
    };
    format!("{}{name}", trimmed(value))
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
