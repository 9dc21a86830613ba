//! Picks a backend of a pool: two random choices and the less loaded one, or smooth weighted round-robin.

use std::sync::{Mutex, PoisonError};

use ntonix_config::Balance;

use super::Nobody;

/// What is known of a backend when one is picked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the pool.
    pub(crate) index: usize,
    /// Its weight times the share that slow start leaves it; above 0.
    pub(crate) weight: f64,
    /// Streams in flight.
    pub(crate) in_flight: usize,
}

/// Picks a backend of a pool, each time anew.
#[derive(Debug)]
pub(crate) enum Picker {
    /// Two random choices by weight; fewer streams in flight for its weight wins.
    LeastLoaded(Option<Lots>),
    /// Smooth weighted round-robin: each backend's credit, by its place in the pool.
    RoundRobin(Mutex<Vec<f64>>),
}

/// The backends of a large pool, each with as many lots as its weight: how many those have that stand up to it. One of
/// 1,000 backends is picked with 1,239 instructions by lots, and with 91,763 by looking at all.
#[derive(Debug)]
pub(crate) struct Lots(Vec<u64>);

/// To look at fewer backends costs little, some 90 instructions for each.
const LARGE: usize = 8;
/// Lots that are drawn for each choice before all backends are looked at: with half of them out of order, those are all
/// blanks once in 256 times.
const DRAWS_MOST: usize = 8;

// === impl Picker ===

impl Picker {
    /// A picker for a pool whose backends have these `weights`.
    pub(crate) fn new(balance: Balance, weights: &[u32]) -> Self {
        match balance {
            Balance::LeastLoaded => Self::LeastLoaded(Lots::new(weights)),
            Balance::WeightedRoundRobin => Self::RoundRobin(Mutex::new(vec![0.0; weights.len()])),
        }
    }

    /// The place of the one that is picked in a pool of `backends`. `look` says how one of them stands.
    pub(crate) fn pick(
        &self,
        backends: usize,
        look: impl Fn(usize) -> Result<Candidate, Nobody>,
    ) -> Result<usize, Nobody> {
        match self {
            Self::LeastLoaded(None) => Ok(least_loaded(&look_at_all(backends, look)?)),
            Self::LeastLoaded(Some(lots)) => {
                let first = lots.draw(&look, None);
                let second = first.and_then(|first| lots.draw(&look, Some(first.index)));
                if let (Some(first), Some(second)) = (first, second) {
                    return Ok(less_loaded(first, second));
                }
                let candidates = look_at_all(backends, look)?;
                // A first choice that was made stands: to make it anew would favour those after which a second is found.
                let first = first.unwrap_or_else(|| draw(&candidates, None));
                Ok(less_loaded(first, draw(&candidates, Some(first))))
            }
            Self::RoundRobin(credits) => {
                let candidates = look_at_all(backends, look)?;
                let mut credits = credits.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(round_robin(&mut credits, &candidates))
            }
        }
    }
}

/// All that can be picked, at least one; otherwise the reason that stands against the one that came farthest.
fn look_at_all(backends: usize, look: impl Fn(usize) -> Result<Candidate, Nobody>) -> Result<Vec<Candidate>, Nobody> {
    let mut candidates = Vec::with_capacity(backends);
    let mut why = Nobody::ModelUnknown;
    for index in 0..backends {
        match look(index) {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => why = why.max(reason),
        }
    }
    if candidates.is_empty() { Err(why) } else { Ok(candidates) }
}

fn least_loaded(candidates: &[Candidate]) -> usize {
    match *candidates {
        [only] => only.index,
        // Two of two are both: which one is drawn first matters only between equals.
        [one, other] if pressure(&one) != pressure(&other) => less_loaded(one, other),
        [_, _] => draw(candidates, None).index,
        _ => {
            let first = draw(candidates, None);
            less_loaded(first, draw(candidates, Some(first)))
        }
    }
}

fn less_loaded(first: Candidate, second: Candidate) -> usize {
    if pressure(&second) < pressure(&first) { second.index } else { first.index }
}

fn pressure(candidate: &Candidate) -> f64 {
    (candidate.in_flight as f64 + 1.0) / candidate.weight
}

/// Draws one of the candidates by weight, leaving one out; that one, when there is no other.
fn draw(candidates: &[Candidate], without: Option<Candidate>) -> Candidate {
    let eligible =
        || candidates.iter().filter(|candidate| without.is_none_or(|without| without.index != candidate.index));
    let total: f64 = eligible().map(|candidate| candidate.weight).sum();
    let mut point = fastrand::f64() * total;
    let mut last = without.unwrap_or(candidates[0]);
    for candidate in eligible() {
        last = *candidate;
        point -= candidate.weight;
        if point < 0.0 {
            break;
        }
    }
    last
}

// === impl Lots ===

impl Lots {
    fn new(weights: &[u32]) -> Option<Self> {
        if weights.len() < LARGE {
            return None;
        }
        let mut sum = 0;
        let up_to = weights.iter().map(|&weight| {
            sum += u64::from(weight);
            sum
        });
        Some(Self(up_to.collect()))
    }

    /// One that can be picked, by weight, if a few draws bring one. That lots are blanks leaves all others their chances.
    fn draw(&self, look: impl Fn(usize) -> Result<Candidate, Nobody>, without: Option<usize>) -> Option<Candidate> {
        let all = *self.0.last().filter(|&&all| all > 0)?;
        (0..DRAWS_MOST).find_map(|_| {
            let lot = fastrand::u64(..all);
            let index = self.0.partition_point(|&end| end <= lot);
            let candidate = look(index).ok().filter(|_| Some(index) != without)?;
            // In slow start only a share of its lots count.
            let lots = self.0[index] - index.checked_sub(1).map_or(0, |before| self.0[before]);
            let share = candidate.weight / lots as f64;
            (share >= 1.0 || fastrand::f64() < share).then_some(candidate)
        })
    }
}

/// Each candidate gains its weight, the richest is picked and pays the sum: evenly spread, exact in proportion.
fn round_robin(credits: &mut [f64], candidates: &[Candidate]) -> usize {
    let mut total = 0.0;
    let mut best = candidates[0].index;
    for candidate in candidates {
        total += candidate.weight;
        credits[candidate.index] += candidate.weight;
        if credits[candidate.index] > credits[best] {
            best = candidate.index;
        }
    }
    credits[best] -= total;
    best
}

#[cfg(test)]
#[path = "pick_tests.rs"]
mod tests;
