//! Who runs what: all workers that are or were connected since the control plane started.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ntonix_proto::admin::v1::{Worker, WorkerFault, WorkerState};
use ntonix_proto::sync::v1::{Fault, Hello, SnapshotId};
use tokio::sync::{Notify, watch};

use super::bounds;

/// Workers without a stream that are remembered; names may be made up anew by each process.
const GONE_MAX: usize = 1000;

/// All workers.
#[derive(Debug)]
pub struct Fleet {
    members: Mutex<Members>,
    /// Counts the changes, heartbeats not among them.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Members {
    by_name: BTreeMap<String, Member>,
    last_seat: u64,
}

#[derive(Debug)]
struct Member {
    /// Tells the stream that may speak for the worker from older ones.
    seat: u64,
    replaced: Arc<Notify>,
    hello: Hello,
    link: Link,
    running: Option<SnapshotId>,
    running_since: SystemTime,
    refused: Option<SnapshotId>,
    /// Why it refused, or what failed beside what it runs.
    faults: Vec<Fault>,
    connected_since: SystemTime,
    last_heard: SystemTime,
    took: Option<Duration>,
}

/// How a worker's stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is open.
    Connected,
    /// It was closed because nothing was heard.
    Silent,
    /// It has ended.
    Gone,
}

/// A stream's place in the fleet. Dropping it says that the stream has ended.
#[derive(Debug)]
pub struct Seat {
    fleet: Arc<Fleet>,
    name: String,
    number: u64,
    replaced: Arc<Notify>,
    /// What the same process refused on a stream before.
    pub refused: Option<SnapshotId>,
}

// === impl Fleet ===

impl Fleet {
    /// Nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { members: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// Seats a worker under `name`. A stream that had the name before is told that it was replaced.
    pub fn enter(self: &Arc<Self>, name: String, hello: Hello) -> Seat {
        let hello = bounds::hello(hello);
        let now = SystemTime::now();
        let mut members = self.members();
        members.last_seat += 1;
        let number = members.last_seat;
        let before = members.by_name.remove(&name);
        if let Some(before) = &before {
            before.replaced.notify_one();
        }
        let same = before.filter(|before| before.hello.instance == hello.instance && !hello.instance.is_empty());
        let refused = same.as_ref().and_then(|same| same.refused.clone());
        let unchanged = same.filter(|same| same.running == hello.running);
        let replaced = Arc::new(Notify::new());
        let member = Member {
            seat: number,
            replaced: replaced.clone(),
            link: Link::Connected,
            running: hello.running.clone(),
            running_since: unchanged.as_ref().map_or(now, |before| before.running_since),
            refused: refused.clone(),
            took: unchanged.as_ref().and_then(|before| before.took),
            faults: unchanged.map(|before| before.faults).unwrap_or_default(),
            connected_since: now,
            last_heard: now,
            hello,
        };
        members.by_name.insert(name.clone(), member);
        members.forget_some();
        drop(members);
        self.changed();
        Seat { fleet: self.clone(), name, number, replaced, refused }
    }

    /// All workers by name, as they stand to `target`.
    pub fn list(&self, target: Option<&SnapshotId>) -> Vec<Worker> {
        self.members().by_name.iter().map(|(name, member)| member.render(name, target)).collect()
    }

    /// One worker.
    pub fn find(&self, name: &str, target: Option<&SnapshotId>) -> Option<Worker> {
        self.members().by_name.get(name).map(|member| member.render(name, target))
    }

    /// Tells of each change, though not of each one in between.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Workers with a stream, and those of them that run `target`.
    pub fn counts(&self, target: Option<&SnapshotId>) -> (usize, usize) {
        let members = self.members();
        let connected = || members.by_name.values().filter(|member| member.link == Link::Connected);
        let up_to_date = connected().filter(|member| target.is_none() || member.running.as_ref() == target);
        (connected().count(), up_to_date.count())
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Each change is made in one go; a panic cannot leave half of one.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Members {
    /// Keeps the memory of workers that are gone within bounds.
    fn forget_some(&mut self) {
        let gone = |member: &Member| member.link != Link::Connected;
        let mut all: Vec<_> = self.by_name.iter().filter(|(_, member)| gone(member)).collect();
        let Some(surplus) = all.len().checked_sub(GONE_MAX).filter(|surplus| *surplus > 0) else { return };
        all.sort_by_key(|(_, member)| (member.last_heard, member.seat));
        let oldest: Vec<String> = all.into_iter().take(surplus).map(|(name, _)| name.clone()).collect();
        oldest.iter().for_each(|name| _ = self.by_name.remove(name));
    }
}

impl Member {
    fn state(&self, target: Option<&SnapshotId>) -> WorkerState {
        match self.link {
            Link::Silent => WorkerState::Silent,
            Link::Gone => WorkerState::Disconnected,
            Link::Connected if target.is_some() && self.refused.as_ref() == target => WorkerState::Refused,
            Link::Connected if target.is_some() && self.running.as_ref() != target => WorkerState::Applying,
            Link::Connected if !self.faults.is_empty() && self.refused.is_none() => WorkerState::Degraded,
            Link::Connected => WorkerState::UpToDate,
        }
    }

    fn render(&self, name: &str, target: Option<&SnapshotId>) -> Worker {
        let revision = |id: Option<&SnapshotId>| id.map_or(0, |id| id.revision);
        let fault = |fault: &Fault| WorkerFault { path: fault.path.clone(), reason: fault.reason.clone() };
        Worker {
            name: name.to_owned(),
            instance: self.hello.instance.clone(),
            version: self.hello.version.clone(),
            address: self.hello.address.clone(),
            state: self.state(target).into(),
            running_revision: revision(self.running.as_ref()),
            running_since: self.running.as_ref().map(|_| self.running_since.into()),
            target_revision: revision(target),
            refused_revision: revision(self.refused.as_ref()),
            faults: self.faults.iter().map(fault).collect(),
            connected_since: Some(self.connected_since.into()),
            last_heard: Some(self.last_heard.into()),
            took: self.took.and_then(|took| took.try_into().ok()),
        }
    }
}

// === impl Seat ===

impl Seat {
    /// What the worker is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until another stream has taken the worker's name.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// A frame came.
    pub fn heard(&self) {
        self.update(|_| false);
    }

    /// The worker runs a snapshot; `took`: from its publication to the answer, when it was sent to it.
    pub fn runs(&self, id: Option<SnapshotId>, degraded: Vec<Fault>, took: Option<Duration>) {
        let (id, degraded) = (bounds::id(id), bounds::faults(degraded));
        self.update(|member| {
            member.running = id;
            member.running_since = SystemTime::now();
            member.refused = None;
            member.faults = degraded;
            member.took = took;
            true
        });
    }

    /// The worker refused a snapshot.
    pub fn refuses(&self, id: SnapshotId, faults: Vec<Fault>) {
        let faults = bounds::faults(faults);
        self.update(|member| {
            member.refused = Some(id);
            member.faults = faults;
            true
        });
    }

    /// The stream is closed because nothing was heard.
    pub fn silent(&self) {
        self.change(|member| {
            member.link = Link::Silent;
            true
        });
    }

    /// Changes the member on account of a frame that came.
    fn update(&self, change: impl FnOnce(&mut Member) -> bool) {
        self.change(|member| {
            member.last_heard = SystemTime::now();
            change(member)
        });
    }

    /// Changes the member, unless another stream speaks for it now; `change` says whether anybody needs to know.
    fn change(&self, change: impl FnOnce(&mut Member) -> bool) {
        let mut members = self.fleet.members();
        let member = members.by_name.get_mut(&self.name).filter(|member| member.seat == self.number);
        let tell = member.is_some_and(change);
        drop(members);
        if tell {
            self.fleet.changed();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.change(|member| {
            let ends = member.link == Link::Connected;
            if ends {
                member.link = Link::Gone;
            }
            ends
        });
        let mut members = self.fleet.members();
        // Most fleets are small: nothing is counted for them.
        if members.by_name.len() > GONE_MAX {
            members.forget_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::snapshot;

    fn hello(instance: &str, running: Option<SnapshotId>) -> Hello {
        Hello { instance: instance.to_owned(), running, ..Hello::default() }
    }

    fn id(number: u64) -> SnapshotId {
        snapshot(number, &["a"], &[]).id.clone()
    }

    fn state(fleet: &Fleet, target: u64) -> WorkerState {
        fleet.find("w", Some(&id(target))).unwrap().state()
    }

    #[test]
    fn a_worker_is_told_by_how_it_stands_to_the_newest() {
        let fleet = Fleet::new();
        let seat = fleet.enter("w".to_owned(), hello("i", None));
        assert_eq!(state(&fleet, 1), WorkerState::Applying);
        seat.runs(Some(id(1)), Vec::new(), Some(Duration::from_millis(3)));
        assert_eq!(state(&fleet, 1), WorkerState::UpToDate);
        assert_eq!(state(&fleet, 2), WorkerState::Applying);
        seat.refuses(id(2), vec![Fault { path: "secrets[0]".to_owned(), reason: "missing".to_owned() }]);
        assert_eq!(state(&fleet, 2), WorkerState::Refused);
        let worker = fleet.find("w", Some(&id(2))).unwrap();
        assert_eq!((worker.running_revision, worker.refused_revision, worker.faults.len()), (1, 2, 1));
        seat.runs(Some(id(3)), vec![Fault::default()], None);
        assert_eq!(state(&fleet, 3), WorkerState::Degraded);
        assert_eq!(fleet.find("w", None).unwrap().refused_revision, 0);
        drop(seat);
        assert_eq!(state(&fleet, 3), WorkerState::Disconnected);
        assert_eq!(fleet.counts(Some(&id(3))), (0, 0));
    }

    #[test]
    fn a_silent_worker_stays_silent_when_its_stream_ends() {
        let fleet = Fleet::new();
        let seat = fleet.enter("w".to_owned(), hello("i", Some(id(1))));
        seat.silent();
        drop(seat);
        assert_eq!(state(&fleet, 1), WorkerState::Silent);
    }

    #[tokio::test]
    async fn the_newest_stream_of_a_name_speaks_for_it() {
        let fleet = Fleet::new();
        let old = fleet.enter("w".to_owned(), hello("one", None));
        let new = fleet.enter("w".to_owned(), hello("two", Some(id(1))));
        old.replaced().await;
        old.refuses(id(1), Vec::new());
        drop(old);
        assert_eq!(state(&fleet, 1), WorkerState::UpToDate);
        assert_eq!(fleet.find("w", None).unwrap().instance, "two");
        drop(new);
    }

    #[test]
    fn a_refusal_is_remembered_for_the_same_process_only() {
        let fleet = Fleet::new();
        fleet.enter("w".to_owned(), hello("one", None)).refuses(id(1), Vec::new());
        assert_eq!(fleet.enter("w".to_owned(), hello("one", None)).refused, Some(id(1)));
        assert_eq!(fleet.enter("w".to_owned(), hello("two", None)).refused, None);
    }

    #[test]
    fn heartbeats_are_no_change() {
        let fleet = Fleet::new();
        let seat = fleet.enter("w".to_owned(), hello("i", None));
        let mut changes = fleet.subscribe();
        seat.heard();
        assert!(!changes.has_changed().unwrap());
        seat.runs(Some(id(1)), Vec::new(), None);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
    }

    #[test]
    fn the_longest_gone_are_forgotten() {
        let fleet = Fleet::new();
        for number in 0..GONE_MAX + 10 {
            fleet.enter(format!("w{number}"), hello("i", None));
        }
        let workers = fleet.list(None);
        assert!(workers.len() <= GONE_MAX + 1);
        assert!(fleet.find("w0", None).is_none());
    }

    #[test]
    fn a_fleet_that_leaves_at_once_is_forgotten_down_to_the_bound() {
        let fleet = Fleet::new();
        let seats: Vec<_> = (0..2 * GONE_MAX).map(|n| fleet.enter(format!("w{n}"), hello("i", None))).collect();
        assert_eq!(fleet.list(None).len(), 2 * GONE_MAX, "those that are there are never forgotten");
        drop(seats);
        assert_eq!(fleet.list(None).len(), GONE_MAX);
        let last = format!("w{}", 2 * GONE_MAX - 1);
        assert!(fleet.find(&last, None).is_some() && fleet.find("w0", None).is_none(), "the oldest go first");
    }
}
