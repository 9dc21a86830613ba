//! What strikes when and whom: a pure function of the seed.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use fastrand::Rng;
use ntonix_tests::fault_proxy::{Corrupt, Direction, Faults, How, Share};

use crate::strike::{BACKENDS, BackendFault, Change, Link, LinkFault, Strike, WORKERS};

/// Who carries out a strike; each does one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Backends,
    Links,
    Worker(usize),
    Plane,
}

/// Everything that strikes in a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    /// In the order of time.
    strikes: Vec<(Duration, Lane, Strike)>,
}

/// Deals every card once before any is dealt again, so that a short run has them all.
struct Deck<C> {
    cards: Vec<C>,
    dealt: usize,
}

// === impl Lane ===

impl Lane {
    /// Every one.
    pub(crate) fn all() -> Vec<Self> {
        let workers = (0..WORKERS).map(Self::Worker);
        [Self::Backends, Self::Links, Self::Plane].into_iter().chain(workers).collect()
    }

    /// From one strike to the next, on average. Backends fail more often when there are more streams that can meet it.
    fn period(self, streams: u16) -> Duration {
        match self {
            Self::Backends => Duration::from_millis(9_000) / u32::from(streams.max(1)),
            Self::Links => Duration::from_millis(500),
            Self::Plane => Duration::from_millis(1_500),
            Self::Worker(_) => Duration::from_millis(6_000),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// The schedule of a seed for a run with so many streams at once.
    pub(crate) fn new(seed: u64, lasts: Duration, streams: u16) -> Self {
        let mut strikes = Vec::new();
        for (index, lane) in Lane::all().into_iter().enumerate() {
            let mut rng = Rng::with_seed(seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut dealer = Dealer::new(lane);
            let period = lane.period(streams);
            let mut at = period.mul_f64(rng.f64());
            while at < lasts {
                strikes.push((at, lane, dealer.deal(&mut rng)));
                at += period.mul_f64(0.5 + rng.f64());
            }
        }
        strikes.sort_by_key(|(at, ..)| *at);
        Self { strikes }
    }

    /// The strikes of one lane.
    pub(crate) fn of(&self, lane: Lane) -> Vec<(Duration, Strike)> {
        let own = self.strikes.iter().filter(|(_, other, _)| *other == lane);
        own.map(|(at, _, strike)| (*at, strike.clone())).collect()
    }

    /// Every kind of strike that there is.
    pub(crate) fn kinds() -> Vec<&'static str> {
        // Long enough to deal every deck more than once.
        let mut kinds: Vec<_> =
            Self::new(0, Duration::from_secs(600), 60).strikes.iter().map(|(.., strike)| strike.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}

impl Display for Schedule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, _, strike) in &self.strikes {
            writeln!(f, "{:>9.3} s  {strike}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// The decks of one lane.
enum Dealer {
    Backends(Deck<usize>),
    Links(Deck<usize>),
    Plane(Deck<usize>),
    Worker(usize, Deck<usize>),
}

// === impl Dealer ===

impl Dealer {
    fn new(lane: Lane) -> Self {
        match lane {
            Lane::Backends => Self::Backends(Deck::of(13)),
            Lane::Links => Self::Links(Deck::of(11)),
            Lane::Plane => Self::Plane(Deck::of(6)),
            // The first worker lives for the whole run, so that its memory can be followed.
            Lane::Worker(0) => Self::Worker(0, Deck::of(1)),
            Lane::Worker(worker) => Self::Worker(worker, Deck::of(2)),
        }
    }

    fn deal(&mut self, rng: &mut Rng) -> Strike {
        match self {
            Self::Backends(deck) => backend(deck.deal(rng), rng),
            Self::Links(deck) => link(deck.deal(rng), rng),
            Self::Plane(deck) => plane(deck.deal(rng), rng),
            Self::Worker(worker, deck) => match deck.deal(rng) {
                0 => Strike::FreezeWorker { worker: *worker, lasts: ms(rng, 100..1_500) },
                _ => Strike::RestartWorker { worker: *worker },
            },
        }
    }
}

fn ms(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

fn backend(card: usize, rng: &mut Rng) -> Strike {
    let tokens = if rng.bool() { rng.u64(1..4) } else { rng.u64(1..60) };
    let fault = match card {
        0 => BackendFault::Cut(tokens),
        1 => BackendFault::Reset(tokens),
        2 => BackendFault::SilentEnd(tokens),
        3 => BackendFault::ErrorEvent(tokens, rng.usize(..6)),
        4 => BackendFault::HangMidway(tokens),
        5 => BackendFault::Hang,
        6 => BackendFault::Status(*rng.choice(&[400, 404, 500, 502, 503]).unwrap_or(&500)),
        7 => BackendFault::RetryAfter(*rng.choice(&[429, 503]).unwrap_or(&503)),
        8 => BackendFault::Html,
        9 => BackendFault::Garbage,
        10 => BackendFault::NoReply,
        11 => BackendFault::WrongLength,
        _ => BackendFault::EndlessEvent(rng.usize(1..12)),
    };
    // Each that hangs, or that is large, costs the others more than one that ends.
    let times = if matches!(fault, BackendFault::Hang | BackendFault::HangMidway(_) | BackendFault::EndlessEvent(_)) {
        1
    } else {
        rng.u32(1..7)
    };
    Strike::Backend { backend: rng.usize(..BACKENDS), fault, times }
}

fn link(card: usize, rng: &mut Rng) -> Strike {
    let kinds = [
        LinkFault::Delay,
        LinkFault::Jitter,
        LinkFault::Slice,
        LinkFault::Rate,
        LinkFault::Cut,
        LinkFault::Reset,
        LinkFault::Stall,
        LinkFault::HalfClose,
        LinkFault::Corrupt,
    ];
    let Some(kind) = kinds.get(card).copied() else {
        let how = if card == kinds.len() { How::Cut } else { How::Reset };
        return Strike::Cut { link: one_of(Link::all(), rng), how };
    };
    let links = Link::all().into_iter().filter(|link| kind != LinkFault::Corrupt || link.is_checked());
    let link = one_of(links.collect(), rng);
    let after = rng.u64(..20_000);
    let direction = match kind {
        LinkFault::Delay => Direction::delayed(ms(rng, 5..300), Duration::ZERO),
        LinkFault::Jitter => Direction::delayed(Duration::ZERO, ms(rng, 5..200)),
        LinkFault::Slice => Direction::sliced(rng.u64(1..4)),
        LinkFault::Rate => Direction::at_rate(rng.u64(2_000..50_000)),
        LinkFault::Cut => Direction::ending(after, How::Cut),
        LinkFault::Reset => Direction::ending(after, How::Reset),
        LinkFault::Stall => Direction::ending(after, How::Stall),
        LinkFault::HalfClose => Direction::ending(after, How::HalfClose),
        LinkFault::Corrupt => Direction::corrupted(corruption(rng)),
    };
    let faults = match rng.u8(..3) {
        0 => Faults::to_server(direction),
        1 => Faults::to_client(direction),
        _ => Faults::both(direction),
    };
    Strike::Link { link, kind, faults, lasts: ms(rng, 100..900) }
}

fn corruption(rng: &mut Rng) -> Corrupt {
    // One byte in a thousand: nearly every answer of some length has one.
    match Share::try_from(0.001) {
        Ok(share) if rng.bool() => Corrupt::Share(share),
        _ => Corrupt::At(rng.u64(..5_000)),
    }
}

fn plane(card: usize, rng: &mut Rng) -> Strike {
    match card {
        0 => {
            let mut weights = [0; BACKENDS];
            weights.fill_with(|| rng.u16(..5));
            // Not all of them may be 0.
            weights[rng.usize(..BACKENDS)] = 1;
            Strike::Push(Change::Weights(weights))
        }
        1 => Strike::Push(Change::Limits(rng.u32(10..2_000))),
        2 => Strike::Push(Change::Routes { alias: rng.bool(), retries: rng.u8(..4) }),
        3 => Strike::Push(Change::Keys { guest: rng.bool() }),
        4 => Strike::FreezePlane { lasts: ms(rng, 100..1_500) },
        _ => Strike::KillPlane { lasts: ms(rng, 50..1_000) },
    }
}

fn one_of(links: Vec<Link>, rng: &mut Rng) -> Link {
    rng.choice(&links).copied().unwrap_or(Link::Clients(0))
}

// === impl Deck ===

impl Deck<usize> {
    fn of(cards: usize) -> Self {
        Self { cards: (0..cards).collect(), dealt: cards }
    }

    fn deal(&mut self, rng: &mut Rng) -> usize {
        if self.dealt == self.cards.len() {
            rng.shuffle(&mut self.cards);
            self.dealt = 0;
        }
        self.dealt += 1;
        self.cards[self.dealt - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MINUTES: Duration = crate::settings::ALL_STRUCK;

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_another() {
        assert_eq!(Schedule::new(7, TWO_MINUTES, 60), Schedule::new(7, TWO_MINUTES, 60));
        assert_ne!(Schedule::new(7, TWO_MINUTES, 60), Schedule::new(8, TWO_MINUTES, 60));
        // A longer run begins like a shorter one.
        let (short, long) = (Schedule::new(7, TWO_MINUTES / 2, 60), Schedule::new(7, TWO_MINUTES, 60));
        assert_eq!(short.strikes[..], long.strikes[..short.strikes.len()]);
    }

    #[test]
    fn every_kind_strikes_within_two_minutes() {
        for seed in 0..100 {
            let schedule = Schedule::new(seed, TWO_MINUTES, 60);
            for kind in Schedule::kinds() {
                assert!(schedule.strikes.iter().any(|(.., strike)| strike.kind() == kind), "{kind}, seed {seed}");
            }
        }
        assert_eq!(Schedule::kinds().len(), 13 + 11 + 6 + 2);
    }

    #[test]
    fn bytes_are_changed_only_where_somebody_notices() {
        let schedule = Schedule::new(3, TWO_MINUTES * 10, 60);
        for (.., strike) in &schedule.strikes {
            if let Strike::Link { link, kind: LinkFault::Corrupt, .. } = strike {
                assert!(link.is_checked(), "{strike}");
            }
        }
    }
}
