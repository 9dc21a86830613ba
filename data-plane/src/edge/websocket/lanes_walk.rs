//! Random walks of the streams of a socket beside a model of their line: nobody is forgotten, nobody pushes in.

use std::collections::BTreeSet;

use ntonix_fuzz::{Rng, walks};

use super::*;

/// With the 500 walks of `.cargo/config.toml` 256,000 steps.
const STEPS: usize = 512;

/// A stream that has so much to give, and the waker of its last poll.
#[derive(Default)]
struct Source {
    items: usize,
    waker: Option<Waker>,
}

struct Walk {
    lanes: Lanes<Source>,
    names: BTreeSet<String>,
    /// Who is to be polled, the first to have said so first: who joined, was woken, or gave something.
    line: VecDeque<String>,
}

// === impl Walk ===

impl Walk {
    fn step(&mut self, rng: &mut Rng) {
        let name = rng.u8(0..12).to_string();
        match rng.u8(0..10) {
            0 if !self.names.contains(&name) => self.join(name, rng),
            1 => self.leave(&name),
            2..=3 => self.give(&name, rng),
            4 if self.names.contains(&name) => {
                self.lanes.wake(&name);
                self.stand_in_line(name);
            }
            5 => self.wake_all(),
            _ => self.poll(),
        }
        assert_eq!(self.lanes.lanes.len(), self.names.len());
    }

    fn stand_in_line(&mut self, name: String) {
        if !self.line.contains(&name) {
            self.line.push_back(name);
        }
    }

    /// Of several who join the line by this, any may come first; so it is tried with one at most.
    fn wake_all(&mut self) {
        let outside: Vec<_> = self.names.iter().filter(|name| !self.line.contains(name)).cloned().collect();
        if outside.len() <= 1 {
            self.lanes.wake_all();
            self.line.extend(outside);
        }
    }

    fn join(&mut self, name: String, rng: &mut Rng) {
        self.lanes.insert(name.as_str().into(), Source { items: rng.usize(0..4), waker: None });
        self.names.insert(name.clone());
        self.stand_in_line(name);
    }

    fn leave(&mut self, name: &str) {
        assert_eq!(self.lanes.remove(name).is_some(), self.names.remove(name));
        self.line.retain(|other| other != name);
    }

    /// Something comes in for a stream, and wakes it if it was polled.
    fn give(&mut self, name: &str, rng: &mut Rng) {
        let Some(entry) = self.lanes.lanes.get_mut(name) else { return };
        entry.stream.items += rng.usize(1..4);
        if let Some(waker) = entry.stream.waker.take() {
            waker.wake();
            self.stand_in_line(name.to_owned());
        }
    }

    fn poll(&mut self) {
        let line = &mut self.line;
        let mut cx = Context::from_waker(Waker::noop());
        let polled = self.lanes.poll_next(&mut cx, |name, source, cx| {
            assert_eq!(line.pop_front().as_deref(), Some(&**name), "it is the turn of another");
            if source.items == 0 {
                source.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            source.items -= 1;
            Poll::Ready(())
        });
        match polled {
            Poll::Ready((name, ())) => self.stand_in_line(name.to_string()),
            Poll::Pending => assert!(self.line.is_empty(), "nobody remembers {:?}", self.line),
        }
    }
}

#[test]
fn a_walk_of_the_streams_of_a_socket_forgets_nobody() {
    walks(|rng| {
        let (lanes, names) = (Lanes::new(), BTreeSet::new());
        let mut walk = Walk { lanes, names, line: VecDeque::new() };
        (0..STEPS).for_each(|_| walk.step(rng));
        // In the end everybody gives all that there is.
        let left: usize = walk.lanes.lanes.values().map(|entry| entry.stream.items).sum();
        (0..left + 12 + 1).for_each(|_| walk.poll());
        assert!(walk.lanes.lanes.values().all(|entry| entry.stream.items == 0));
    });
}
