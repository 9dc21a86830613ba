//! What is measured: the cases by name.

use std::time::Duration;

use crate::compare::config::{FEW, MANY, REAL, Size};
use crate::compare::peers::Kind;
use crate::settings::{Load, Mode, Over};

/// Streams on one connection of HTTP/2.
const HTTP2_LANES: u32 = 16;
const PACE: Duration = Duration::from_millis(20);
const TOKENS: u64 = 200;
/// Requests whose instructions are counted, and how long that may take.
const COUNTED: u64 = 1_000;
const COUNTING: Duration = Duration::from_secs(600);
/// Streams of HTTP that can be opened in a second on a slow machine, without TLS and with it.
const OPENED_PER_SECOND: [u32; 2] = [1_000, 500];

/// One load through one transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) over: Over,
    pub(crate) is_tls: bool,
    /// WebSockets that the streams are on.
    sockets: u32,
}

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request after the other on so many connections.
    Unary(u32),
    /// So many streams without pauses, each token written by itself.
    Fast(u32),
    /// The same, but the backend writes whatever it has at once.
    Burst(u32),
    /// So many streams, a token each 20 ms.
    Paced(u32),
    /// So many streams, all open at once and silent.
    Held(u32),
    /// The same twice on one process; then a token comes to each, and its client leaves.
    Twice(u32),
    /// One request after the other with a configuration of this size, every instruction counted.
    Counted(Size),
}

/// Every case, in the order in which they are measured.
pub(crate) fn all() -> Vec<Case> {
    use Shape::{Burst, Counted, Fast, Held, Paced, Twice, Unary};

    let plain = [
        Unary(1),
        Unary(64),
        Fast(64),
        Burst(64),
        Paced(400),
        Paced(1_000),
        Held(5_000),
        Held(9_500),
        Twice(9_500),
        Counted(FEW),
        Counted(MANY),
    ];
    let plain = plain.map(|shape| Case::new(shape, Over::Http1, false));
    let sockets = [64, 4, 1].map(|sockets| Case { sockets, ..Case::new(Fast(64), Over::Ws, false) });
    let tls = [Unary(64), Fast(64), Paced(400), Held(5_000), Held(9_500)];
    let tls = tls.map(|shape| Case::new(shape, Over::Http1, true));
    let http2 = [Unary(64), Fast(64), Paced(400)];
    let http2 = [false, true].map(|is_tls| http2.map(|shape| Case::new(shape, Over::Http2, is_tls)));
    plain.into_iter().chain(sockets).chain(tls).chain(http2.into_iter().flatten()).collect()
}

/// The cases that these patterns name.
///
/// # Errors
/// When a pattern names none.
pub(crate) fn named(patterns: &[String]) -> anyhow::Result<Vec<Case>> {
    let cases = all();
    for pattern in patterns {
        let known = || cases.iter().map(Case::name).collect::<Vec<_>>().join(", ");
        anyhow::ensure!(
            cases.iter().any(|case| matches(pattern, &case.name())),
            "there is no case {pattern:?}; there are {}",
            known()
        );
    }
    let is_wanted = |case: &Case| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, &case.name()));
    Ok(cases.into_iter().filter(is_wanted).collect())
}

/// Whether a pattern with "*" for any characters is meant for a name.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    (0..=name.len()).any(|skipped| name.is_char_boundary(skipped) && matches(rest, &name[skipped..]))
}

// === impl Case ===

impl Case {
    pub(crate) fn new(shape: Shape, over: Over, is_tls: bool) -> Self {
        let sockets = if over == Over::Http2 { (shape.streams() / HTTP2_LANES).max(1) } else { 1 };
        Self { shape, over, is_tls, sockets }
    }

    /// As in `--only`.
    pub(crate) fn name(&self) -> String {
        let tls = if self.is_tls { "-tls" } else { "" };
        match self.over {
            Over::Http1 => format!("{}{tls}", self.shape.name()),
            Over::Http2 => format!("{}-h2{tls}", self.shape.name()),
            Over::Ws => format!("ws-{}{tls}", self.shape.streams() / self.sockets),
        }
    }

    /// One line for people.
    pub(crate) fn says(&self) -> String {
        let tls = if self.is_tls { " over TLS" } else { "" };
        let how = match self.over {
            Over::Http1 => "HTTP/1.1".to_owned(),
            Over::Http2 => format!("HTTP/2, {} connections", self.sockets),
            Over::Ws => format!("ntonix.v1, {} WebSockets", self.sockets),
        };
        format!("{}; {how}{tls}", self.shape.says())
    }

    /// Whether this peer can do it.
    pub(crate) fn is_for(&self, kind: Kind) -> bool {
        match kind {
            // What a direct connection holds says nothing of a proxy, and the mock has no TLS.
            Kind::Direct => self.over != Over::Ws && !self.is_tls && !self.shape.is_held() && !self.shape.is_own(),
            // Only NTONIX speaks `ntonix.v1`.
            Kind::Nginx | Kind::Haproxy => self.over != Over::Ws && !self.shape.is_own(),
            Kind::Ntonix => true,
        }
    }

    /// What is to be measured.
    pub(crate) fn load(&self, urls: Vec<String>, duration: Duration) -> (Mode, Load) {
        let load =
            Load { over: self.over, streams: self.shape.streams(), sockets: self.sockets, ..Load::new(urls, duration) };
        let hold = duration + Duration::from_secs(self.opening_seconds());
        let held = Load { pause: Some(hold), duration: hold * 3, count: Some(load.streams.into()), ..load.clone() };
        match self.shape {
            Shape::Unary(_) => (Mode::Unary, load),
            // As many as are asked for, however long they take.
            Shape::Counted(_) => (Mode::Unary, Load { count: Some(COUNTED), duration: COUNTING, ..load }),
            Shape::Fast(_) => (Mode::Fast, Load { tokens: Some(TOKENS), together: Some(1), ..load }),
            Shape::Burst(_) => (Mode::Fast, Load { tokens: Some(TOKENS), ..load }),
            Shape::Paced(_) => (Mode::Paced, Load { tokens: Some(TOKENS), pause: Some(PACE), ..load }),
            Shape::Held(_) => (Mode::Held, held),
            Shape::Twice(_) => (Mode::Held, Load { tokens: Some(3), leave_after: Some(2), ..held }),
        }
    }

    /// What goes before it, so that code, pools and keys are there; what it holds must not be.
    pub(crate) fn warm_up(&self, urls: Vec<String>, duration: Duration) -> (Mode, Load) {
        let (mode, load) = self.load(urls, duration / 10);
        let few = Load { streams: 1, sockets: 1, count: Some(100), ..load.clone() };
        match self.shape {
            Shape::Unary(_) | Shape::Fast(_) | Shape::Burst(_) => (mode, load),
            Shape::Counted(_) => (mode, Load { count: Some(COUNTED / 10), ..load }),
            Shape::Paced(_) => (mode, Load { tokens: Some(10), ..load }),
            Shape::Held(_) | Shape::Twice(_) => {
                let few = Load { pause: Some(Duration::ZERO), tokens: Some(10), leave_after: None, ..few };
                (Mode::Fast, few)
            }
        }
    }

    fn opening_seconds(&self) -> u64 {
        u64::from(self.shape.streams() / OPENED_PER_SECOND[usize::from(self.is_tls)])
    }
}

// === impl Shape ===

impl Shape {
    pub(crate) fn streams(self) -> u32 {
        match self {
            Self::Unary(count)
            | Self::Fast(count)
            | Self::Burst(count)
            | Self::Paced(count)
            | Self::Held(count)
            | Self::Twice(count) => count,
            Self::Counted(_) => 1,
        }
    }

    /// The configuration that NTONIX has.
    pub(crate) fn size(self) -> Size {
        if let Self::Counted(size) = self { size } else { REAL }
    }

    /// Whether it compares NTONIX with itself.
    fn is_own(self) -> bool {
        matches!(self, Self::Twice(_) | Self::Counted(_))
    }

    /// Whether all of its streams have to be open at once.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Held(_) | Self::Twice(_))
    }

    fn name(self) -> String {
        match self {
            Self::Unary(count) => format!("unary-{count}"),
            Self::Fast(_) => "fast".to_owned(),
            Self::Burst(_) => "burst".to_owned(),
            Self::Paced(count) => format!("paced-{count}"),
            Self::Held(count) => format!("held-{count}"),
            Self::Twice(count) => format!("twice-{count}"),
            Self::Counted(size) => format!("counted-{}", size.routes),
        }
    }

    fn says(self) -> String {
        match self {
            Self::Counted(Size { routes, keys, .. }) => {
                format!("one answer in one piece after the other with {routes} routes and {keys} keys, under callgrind")
            }
            Self::Unary(1) => "one answer of 10 tokens in one piece after the other".to_owned(),
            Self::Unary(count) => format!("answers of 10 tokens in one piece, {count} at once"),
            Self::Fast(count) => {
                format!("{count} streams of {TOKENS} tokens without pauses, each token written by itself")
            }
            Self::Burst(count) => {
                format!("{count} streams of {TOKENS} tokens without pauses, written as many at a time as can be")
            }
            Self::Paced(count) => format!("{count} streams, one token each 20 ms"),
            Self::Held(count) => format!("{count} streams, all open and silent"),
            Self::Twice(count) => {
                format!("{count} streams, all open and silent, then a token to each, then all left, twice")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        named(&patterns).unwrap().iter().map(Case::name).collect()
    }

    #[test]
    fn a_case_that_is_not_there_is_told_with_those_that_are() {
        let told = named(&["fast".to_owned(), "fsat".to_owned()]).unwrap_err().to_string();
        assert!(told.starts_with("there is no case \"fsat\"; there are unary-1, unary-64, fast, "), "{told}");
    }

    #[test]
    fn patterns_take_what_they_name_in_the_order_of_all() {
        assert_eq!(names(&["paced-400", "fast"]), ["fast", "paced-400"]);
        assert_eq!(names(&["fast*"]), ["fast", "fast-tls", "fast-h2", "fast-h2-tls"]);
        assert_eq!(names(&["*-64", "ws-*"]), ["unary-64", "ws-1", "ws-16", "ws-64"]);
        assert_eq!(names(&["*y-*-h2*"]), ["unary-64-h2", "unary-64-h2-tls"]);
        assert_eq!(names(&["held-*-tls"]), ["held-5000-tls", "held-9500-tls"]);
        assert_eq!(names(&[]).len(), all().len());
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names = names(&["*"]);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn streams_are_held_for_longer_than_they_take_to_open() {
        let second = Duration::from_secs(1);
        for (is_tls, hold) in [(false, 6), (true, 11)] {
            let (mode, load) = Case::new(Shape::Held(5_000), Over::Http1, is_tls).load(vec![], second);
            assert_eq!((mode, load.pause, load.count), (Mode::Held, Some(hold * second), Some(5_000)));
        }
    }
}
