//! Picks a backend of a pool: two random choices and the less loaded one, or smooth weighted round-robin.

use std::sync::{Mutex, PoisonError};

use ntonix_config::Balance;

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

/// Picks one of the candidates, each time anew.
#[derive(Debug)]
pub(crate) enum Picker {
    /// Two random choices by weight; fewer streams in flight for its weight wins.
    LeastLoaded,
    /// Smooth weighted round-robin: each backend's credit, by its place in the pool.
    RoundRobin(Mutex<Vec<f64>>),
}

// === impl Picker ===

impl Picker {
    /// A picker for a pool of `backends`.
    pub(crate) fn new(balance: Balance, backends: usize) -> Self {
        match balance {
            Balance::LeastLoaded => Self::LeastLoaded,
            Balance::WeightedRoundRobin => Self::RoundRobin(Mutex::new(vec![0.0; backends])),
        }
    }

    /// The place in the pool of the one that is picked; `None` without candidates.
    pub(crate) fn pick(&self, candidates: &[Candidate]) -> Option<usize> {
        match (self, candidates) {
            (_, []) => None,
            (_, [only]) => Some(only.index),
            (Self::LeastLoaded, _) => Some(least_loaded(candidates)),
            (Self::RoundRobin(credits), _) => {
                let mut credits = credits.lock().unwrap_or_else(PoisonError::into_inner);
                round_robin(&mut credits, candidates)
            }
        }
    }
}

fn least_loaded(candidates: &[Candidate]) -> usize {
    let first = draw(candidates, None);
    let second = draw(candidates, Some(first));
    let pressure = |place: usize| (candidates[place].in_flight as f64 + 1.0) / candidates[place].weight;
    let place = if pressure(second) < pressure(first) { second } else { first };
    candidates[place].index
}

/// Draws a place among the candidates by weight, leaving one out.
fn draw(candidates: &[Candidate], without: Option<usize>) -> usize {
    let eligible = || candidates.iter().enumerate().filter(|(place, _)| Some(*place) != without);
    let total: f64 = eligible().map(|(_, candidate)| candidate.weight).sum();
    let mut point = fastrand::f64() * total;
    let mut last = 0;
    for (place, candidate) in eligible() {
        last = place;
        point -= candidate.weight;
        if point < 0.0 {
            break;
        }
    }
    last
}

/// Each candidate gains its weight, the richest is picked and pays the sum: evenly spread, exact in proportion.
fn round_robin(credits: &mut [f64], candidates: &[Candidate]) -> Option<usize> {
    let mut total = 0.0;
    let mut best: Option<usize> = None;
    for candidate in candidates {
        total += candidate.weight;
        credits[candidate.index] += candidate.weight;
        if best.is_none_or(|best| credits[candidate.index] > credits[best]) {
            best = Some(candidate.index);
        }
    }
    if let Some(best) = best {
        credits[best] -= total;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[f64]) -> Vec<Candidate> {
        weights.iter().enumerate().map(|(index, &weight)| Candidate { index, weight, in_flight: 0 }).collect()
    }

    #[test]
    fn round_robin_is_smooth_and_exact() {
        let picker = Picker::new(Balance::WeightedRoundRobin, 3);
        let candidates = candidates(&[5.0, 1.0, 1.0]);
        let picks: Vec<_> = (0..7).map(|_| picker.pick(&candidates).unwrap()).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0], "the order of nginx's smooth weighted round-robin");
    }

    #[test]
    fn of_two_backends_the_less_loaded_for_its_weight_wins() {
        let picker = Picker::new(Balance::LeastLoaded, 2);
        let mut candidates = candidates(&[1.0, 1.0]);
        candidates[0].in_flight = 1;
        assert!((0..100).all(|_| picker.pick(&candidates) == Some(1)));
        candidates[0].weight = 4.0;
        assert!((0..100).all(|_| picker.pick(&candidates) == Some(0)), "2 / 4 is less than 1 / 1");
    }

    #[test]
    fn with_equal_load_every_backend_gets_traffic() {
        let picker = Picker::new(Balance::LeastLoaded, 4);
        let candidates = candidates(&[1.0; 4]);
        let mut seen = [0; 4];
        (0..1000).for_each(|_| seen[picker.pick(&candidates).unwrap()] += 1);
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    #[test]
    fn nobody_is_picked_from_nothing() {
        assert_eq!(Picker::new(Balance::LeastLoaded, 0).pick(&[]), None);
    }
}
