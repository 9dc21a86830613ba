//! Decides what happens to the bytes of one direction: time and chunks in, actions out, no I/O.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::Instant;

use super::faults::{Corrupt, Direction, How};

/// Bytes held for one direction; beyond them the sender has to wait, as with a real link.
const HELD_MAX: usize = 256 * 1024;
/// With a rate, a write has no more bytes than pass in this part of a second.
const WRITES_PER_SECOND: u64 = 100;

/// The bytes of one direction that are still to be passed on, and how far the direction has come.
#[derive(Debug)]
pub struct Plan {
    rng: Rng,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// No chunk leaves before one that came earlier.
    latest_due: Option<Instant>,
    /// When the rate allows the next write.
    next_write: Option<Instant>,
    passed: u64,
    struck: u64,
    is_stalled: bool,
    is_over: bool,
}

#[derive(Debug)]
struct Held {
    due: Instant,
    /// `None` is the sender's end.
    bytes: Option<Bytes>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write these bytes.
    Write(Bytes),
    /// Tell the receiver that this direction is over. What still comes is dropped.
    Finish,
    /// End the whole connection like this; [`How::Cut`] or [`How::Reset`].
    End(How),
    /// Ask again at this time, or when there are new bytes, or other faults.
    Wait(Option<Instant>),
    /// Nothing is left to do: the direction is over.
    Done,
}

// === impl Plan ===

impl Plan {
    /// A direction of which nothing has passed yet.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            held: VecDeque::new(),
            held_bytes: 0,
            latest_due: None,
            next_write: None,
            passed: 0,
            struck: 0,
            is_stalled: false,
            is_over: false,
        }
    }

    /// Whether more bytes should be read.
    pub fn has_room(&self) -> bool {
        self.held_bytes < HELD_MAX
    }

    /// Whether the sender's end is among what is held.
    pub fn is_finishing(&self) -> bool {
        self.held.back().is_some_and(|last| last.bytes.is_none())
    }

    /// Bytes that were passed on so far.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Times that a fault struck since this was asked last.
    pub fn take_struck(&mut self) -> u64 {
        std::mem::take(&mut self.struck)
    }

    /// Takes a chunk that has just arrived.
    pub fn push(&mut self, faults: &Direction, now: Instant, bytes: Bytes) {
        if !self.is_over && !bytes.is_empty() {
            self.held_bytes += bytes.len();
            self.hold(faults, now, Some(bytes));
        }
    }

    /// Takes the sender's end; it passes after what came before it.
    pub fn finish(&mut self, faults: &Direction, now: Instant) {
        if !self.is_over {
            self.hold(faults, now, None);
        }
    }

    fn hold(&mut self, faults: &Direction, now: Instant, bytes: Option<Bytes>) {
        let mut due = now + faults.delay;
        if !faults.jitter.is_zero() {
            due += faults.jitter.mul_f64(self.rng.f64());
        }
        if due > now {
            self.struck += 1;
        }
        let due = self.latest_due.map_or(due, |latest| latest.max(due));
        self.latest_due = Some(due);
        self.held.push_back(Held { due, bytes });
    }

    /// What to do now. The faults may be others than before: only the delay of what is held already stands.
    pub fn next(&mut self, faults: &Direction, now: Instant) -> Action {
        if self.is_over {
            return Action::Done;
        }
        if let Some(end) = faults.end.filter(|end| end.after <= self.passed) {
            return self.end(end.how);
        }
        self.is_stalled = false;
        let Some(first) = self.held.front() else { return Action::Wait(None) };
        if first.due > now {
            return Action::Wait(Some(first.due));
        }
        if first.bytes.is_none() {
            return self.over(Action::Finish);
        }
        match self.next_write.filter(|next| faults.rate.is_some() && *next > now) {
            Some(next) => Action::Wait(Some(next)),
            None => self.write(faults, now),
        }
    }

    fn end(&mut self, how: How) -> Action {
        match how {
            How::Stall => {
                // However often it is asked for, it is one.
                self.struck += u64::from(!std::mem::replace(&mut self.is_stalled, true));
                Action::Wait(None)
            }
            How::HalfClose => {
                self.struck += 1;
                self.over(Action::Finish)
            }
            How::Cut | How::Reset => {
                self.struck += 1;
                self.over(Action::End(how))
            }
        }
    }

    fn over(&mut self, last: Action) -> Action {
        self.is_over = true;
        self.held.clear();
        self.held_bytes = 0;
        last
    }

    fn write(&mut self, faults: &Direction, now: Instant) -> Action {
        let Some(bytes) = self.held.front_mut().and_then(|first| first.bytes.as_mut()) else {
            return Action::Wait(None);
        };
        let mut most = bytes.len() as u64;
        let limits = [
            faults.slice.map(NonZeroU64::get),
            faults.rate.map(|rate| (rate.get() / WRITES_PER_SECOND).max(1)),
            faults.end.map(|end| end.after - self.passed),
        ];
        for limit in limits.into_iter().flatten() {
            most = most.min(limit);
        }
        self.struck += u64::from(most < bytes.len() as u64);
        // It is at most the length of the chunk.
        let bytes = bytes.split_to(usize::try_from(most).unwrap_or(bytes.len()));
        if self.held.front().is_some_and(|first| first.bytes.as_ref().is_some_and(Bytes::is_empty)) {
            self.held.pop_front();
        }
        self.held_bytes -= bytes.len();
        if let Some(rate) = faults.rate {
            let start = self.next_write.map_or(now, |next| next.max(now));
            self.next_write = Some(start + Duration::from_secs(most).div_f64(rate.get() as f64));
        }
        let bytes = match faults.corrupt {
            Some(corrupt) => self.corrupt(corrupt, bytes),
            None => bytes,
        };
        self.passed += most;
        Action::Write(bytes)
    }

    fn corrupt(&mut self, corrupt: Corrupt, bytes: Bytes) -> Bytes {
        let begin = self.passed;
        let mut spots = Vec::new();
        match corrupt {
            Corrupt::At(at) => spots.extend(at.checked_sub(begin).filter(|offset| *offset < bytes.len() as u64)),
            Corrupt::Share(share) => {
                let drawn = (0..bytes.len() as u64).filter(|_| self.rng.f64() < share.get());
                spots.extend(drawn);
            }
        }
        if spots.is_empty() {
            return bytes;
        }
        self.struck += 1;
        let mut bytes = Vec::from(bytes);
        for byte in spots.into_iter().filter_map(|spot| usize::try_from(spot).ok()) {
            bytes[byte] ^= 1 << self.rng.u8(0..8);
        }
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_proxy::Share;

    const MS: Duration = Duration::from_millis(1);

    /// Everything that the plan says until it waits for more, with the times at which it says it.
    fn all(plan: &mut Plan, faults: &Direction, start: Instant) -> Vec<(Duration, Action)> {
        let mut now = start;
        let mut said = Vec::new();
        loop {
            match plan.next(faults, now) {
                Action::Wait(Some(at)) => now = at,
                Action::Wait(None) | Action::Done => return said,
                action => said.push((now - start, action)),
            }
        }
    }

    fn write(bytes: &'static str) -> Action {
        Action::Write(Bytes::from_static(bytes.as_bytes()))
    }

    fn planned(faults: &Direction, chunks: &[&'static str]) -> Vec<(Duration, Action)> {
        let (mut plan, now) = (Plan::new(1), Instant::now());
        for chunk in chunks {
            plan.push(faults, now, Bytes::from_static(chunk.as_bytes()));
        }
        plan.finish(faults, now);
        all(&mut plan, faults, now)
    }

    #[test]
    fn without_faults_chunks_and_the_end_pass_at_once() {
        let zero = Duration::ZERO;
        let said = planned(&Direction::default(), &["ab", "c"]);
        assert_eq!(said, [(zero, write("ab")), (zero, write("c")), (zero, Action::Finish)]);
    }

    #[test]
    fn a_delay_holds_chunks_and_the_end() {
        let said = planned(&Direction::delayed(20 * MS, Duration::ZERO), &["ab"]);
        assert_eq!(said, [(20 * MS, write("ab")), (20 * MS, Action::Finish)]);
    }

    #[test]
    fn jitter_is_drawn_from_the_seed_and_never_reorders() {
        let faults = Direction::delayed(10 * MS, 50 * MS);
        let said = planned(&faults, &["a", "b", "c", "d"]);
        assert_eq!(said, planned(&faults, &["a", "b", "c", "d"]));
        let actions: Vec<_> = said.iter().map(|(_, action)| action.clone()).collect();
        assert_eq!(actions, [write("a"), write("b"), write("c"), write("d"), Action::Finish]);
        assert!(said.iter().all(|(at, _)| (10 * MS..=60 * MS).contains(at)), "{said:?}");
        assert!(said.first().map(|(at, _)| *at) < said.last().map(|(at, _)| *at));
    }

    #[test]
    fn slices_have_at_most_so_many_bytes() {
        let actions: Vec<_> = planned(&Direction::sliced(2), &["abc", "d"]).into_iter().map(|(_, said)| said).collect();
        assert_eq!(actions, [write("ab"), write("c"), write("d"), Action::Finish]);
    }

    #[test]
    fn a_rate_spreads_bytes_over_time() {
        let said = planned(&Direction::at_rate(10), &["abc"]);
        assert_eq!(said[..3], [(Duration::ZERO, write("a")), (100 * MS, write("b")), (200 * MS, write("c"))]);
    }

    #[test]
    fn a_cut_comes_after_exactly_so_many_bytes() {
        for how in [How::Cut, How::Reset] {
            let said = planned(&Direction::ending(3, how), &["ab", "cd"]);
            let actions: Vec<_> = said.into_iter().map(|(_, said)| said).collect();
            assert_eq!(actions, [write("ab"), write("c"), Action::End(how)]);
        }
    }

    #[test]
    fn a_half_close_finishes_one_direction_and_drops_the_rest() {
        let (faults, now) = (Direction::ending(1, How::HalfClose), Instant::now());
        let mut plan = Plan::new(1);
        plan.push(&faults, now, Bytes::from_static(b"ab"));
        assert_eq!(plan.next(&faults, now), write("a"));
        assert_eq!(plan.next(&faults, now), Action::Finish);
        plan.push(&faults, now, Bytes::from_static(b"cd"));
        assert_eq!(plan.next(&faults, now), Action::Done);
    }

    #[test]
    fn a_stall_lasts_until_the_faults_change() {
        let (faults, now) = (Direction::ending(1, How::Stall), Instant::now());
        let mut plan = Plan::new(1);
        plan.push(&faults, now, Bytes::from_static(b"ab"));
        assert_eq!(all(&mut plan, &faults, now), [(Duration::ZERO, write("a"))]);
        assert_eq!(plan.next(&Direction::default(), now), write("b"));
    }

    #[test]
    fn one_bit_of_the_byte_at_an_offset_is_turned_over() {
        let faults = Direction { slice: NonZeroU64::new(2), ..Direction::corrupted(Corrupt::At(2)) };
        let said = planned(&faults, &["aaaa"]);
        let bytes: Vec<u8> = said
            .iter()
            .flat_map(|(_, said)| match said {
                Action::Write(bytes) => bytes.to_vec(),
                _ => vec![],
            })
            .collect();
        let wrong: Vec<u32> = bytes.iter().map(|byte| (byte ^ b'a').count_ones()).collect();
        assert_eq!(wrong, [0, 0, 1, 0]);
    }

    #[test]
    fn a_share_of_all_bytes_is_turned_over() {
        let (now, share) = (Instant::now(), Share::try_from(0.1).unwrap());
        let faults = Direction::corrupted(Corrupt::Share(share));
        let mut plan = Plan::new(7);
        plan.push(&faults, now, vec![0; 10_000].into());
        let Action::Write(bytes) = plan.next(&faults, now) else { panic!("no write") };
        let wrong = bytes.iter().filter(|byte| **byte != 0).count();
        // The seed decides; a fair draw of 1 in 10 is within this nearly always.
        assert!((800..1_200).contains(&wrong), "{wrong} of 10,000");
    }

    #[test]
    fn the_sender_waits_when_too_much_is_held() {
        let (faults, now) = (Direction::ending(0, How::Stall), Instant::now());
        let mut plan = Plan::new(1);
        assert!(plan.has_room());
        plan.push(&faults, now, vec![0; HELD_MAX].into());
        assert!(!plan.has_room());
        assert!(matches!(plan.next(&Direction::default(), now), Action::Write(_)));
        assert!(plan.has_room());
    }

    #[test]
    fn faults_that_strike_are_counted() {
        let (now, faults) = (Instant::now(), Direction::ending(1, How::Reset));
        let mut plan = Plan::new(1);
        plan.push(&Direction::default(), now, Bytes::from_static(b"a"));
        assert_eq!(plan.next(&Direction::default(), now), write("a"));
        assert_eq!(plan.take_struck(), 0);
        assert_eq!(plan.next(&faults, now), Action::End(How::Reset));
        assert_eq!((plan.take_struck(), plan.take_struck()), (1, 0));
    }
}
