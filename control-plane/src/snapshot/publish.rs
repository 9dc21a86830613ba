//! Hands the newest snapshot to everybody who should run it; a newer one replaces what waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{Snapshot, delta};

/// Snapshots from which differences can be sent; who runs an older one gets everything.
const PAST_MAX: usize = 32;
/// Entries of all those snapshots together: the past of a large configuration is short, so that memory is bounded.
const PAST_ENTRIES_MAX: usize = 500_000;

/// The newest snapshot, and the transitions to it.
#[derive(Debug)]
pub struct Publisher {
    newest: watch::Sender<Option<Arc<Snapshot>>>,
    past: Mutex<Past>,
}

/// The frames that lead a worker to a snapshot.
#[derive(Clone, Debug)]
pub struct Transition {
    /// Encoded once, sent to many.
    pub frames: Arc<[Bytes]>,
    /// Whether it starts from nothing.
    pub full: bool,
}

#[derive(Debug)]
struct Past {
    /// The last ones, the newest at the back.
    snapshots: VecDeque<Arc<Snapshot>>,
    /// To the newest, by the digest that they start from (empty: from nothing).
    transitions: HashMap<Bytes, Transition>,
}

impl Publisher {
    /// Starts with what the store holds.
    pub fn new(first: Option<Arc<Snapshot>>) -> Self {
        let past = Past { snapshots: first.iter().cloned().collect(), transitions: HashMap::new() };
        Self { newest: watch::Sender::new(first), past: Mutex::new(past) }
    }

    /// The newest snapshot; `None` before the first revision.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.borrow().clone()
    }

    /// Sees each newest snapshot, though not each one in between. It closes when the control plane ends.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.newest.subscribe()
    }

    /// Makes a snapshot the newest.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let mut past = self.past();
        past.transitions.clear();
        past.snapshots.push_back(snapshot.clone());
        while past.snapshots.len() > 2 && past.is_too_long() {
            past.snapshots.pop_front();
        }
        drop(past);
        self.newest.send_replace(Some(snapshot));
    }

    /// The way from what has the digest `base` to `target`; everything when that is not known. It is worked out under a
    /// lock: of many workers that need the same way, one works and the others wait for it.
    pub fn transition(&self, base: &Bytes, target: &Arc<Snapshot>) -> Transition {
        let mut past = self.past();
        let start = past.snapshots.iter().rev().find(|snapshot| snapshot.id.digest == *base).cloned();
        let key = if start.is_some() { base.clone() } else { Bytes::new() };
        let is_newest = past.snapshots.back().is_some_and(|newest| newest.id == target.id);
        if let Some(known) = past.transitions.get(&key).filter(|_| is_newest) {
            return known.clone();
        }
        let frames = delta::encode(start.as_deref(), target).into();
        let transition = Transition { frames, full: start.is_none() };
        if is_newest {
            past.transitions.insert(key, transition.clone());
        }
        transition
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        // What a panic could leave behind is at worst a transition that was not kept.
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn is_too_long(&self) -> bool {
        let entries: usize = self.snapshots.iter().map(|snapshot| snapshot.entries.len()).sum();
        self.snapshots.len() > PAST_MAX || entries > PAST_ENTRIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::snapshot;

    #[test]
    fn an_unknown_base_gets_everything() {
        let target = snapshot(1, &["a"], &[]);
        let publisher = Publisher::new(Some(target.clone()));
        assert!(publisher.transition(&Bytes::from_static(b"unknown"), &target).full);
        assert!(publisher.transition(&Bytes::new(), &target).full);
    }

    #[test]
    fn a_way_is_encoded_once() {
        let publisher = Publisher::new(Some(snapshot(1, &["a"], &[])));
        let base = publisher.newest().unwrap().id.digest.clone();
        publisher.publish(snapshot(2, &["b"], &[]));
        let target = publisher.newest().unwrap();
        let (one, other) = (publisher.transition(&base, &target), publisher.transition(&base, &target));
        assert!(!one.full && Arc::ptr_eq(&one.frames, &other.frames));
    }

    #[test]
    fn a_way_to_what_is_no_longer_the_newest_is_still_right() {
        let first = snapshot(1, &["a"], &[]);
        let publisher = Publisher::new(None);
        publisher.publish(first.clone());
        publisher.publish(snapshot(2, &["b"], &[]));
        let late = publisher.transition(&Bytes::new(), &first);
        assert_eq!(late.frames[..], delta::encode(None, &first)[..]);
        let newest = publisher.newest().unwrap();
        assert_eq!(publisher.transition(&Bytes::new(), &newest).frames[..], delta::encode(None, &newest)[..]);
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let publisher = Publisher::new(Some(snapshot(1, &["first"], &[])));
        let base = publisher.newest().unwrap().id.digest.clone();
        for number in 2..40 {
            publisher.publish(snapshot(number, &[&format!("t{number}")], &[]));
        }
        assert!(publisher.transition(&base, &publisher.newest().unwrap()).full);
    }
}
