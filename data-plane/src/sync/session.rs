//! What a worker makes of the frames of the control plane: frames in, actions out. Sans-IO.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use ntonix_proto::sync::v1::{
    Begin, Chunk, Commit, Entry, Resync, SnapshotId, SyncRequest, SyncResponse, sync_request, sync_response::Frame,
};

use super::snapshot::Snapshot;

/// One stream to the control plane.
#[derive(Debug)]
pub struct Session {
    /// What runs.
    running: Option<Snapshot>,
    welcomed: bool,
    transition: Option<Transition>,
}

/// A transition that is coming in.
#[derive(Debug)]
struct Transition {
    target: SnapshotId,
    from_nothing: bool,
    upserts: Vec<Entry>,
    deletes: Vec<String>,
}

/// What to do about a frame.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// The control plane has said hello; it sends a heartbeat this often.
    Welcome {
        /// The interval.
        heartbeat: Duration,
        /// What runs is what should run.
        up_to_date: bool,
    },
    /// Send this.
    Send(SyncRequest),
    /// Try to run this, then tell [`Session::ran`] when it does.
    Run(Snapshot),
    /// The other side does not keep to the protocol: end the stream.
    End(&'static str),
}

/// When the welcome does not say, or says nonsense.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A longer one would hold a stream that is dead for hours.
const HEARTBEAT_MOST: Duration = Duration::from_secs(60);

// === impl Session ===

impl Session {
    /// A stream of a worker that runs this.
    pub fn new(running: Option<Snapshot>) -> Self {
        Self { running, welcomed: false, transition: None }
    }

    /// What runs.
    pub fn running(&self) -> Option<&Snapshot> {
        self.running.as_ref()
    }

    /// Gives back what runs, for the next stream.
    pub fn into_running(self) -> Option<Snapshot> {
        self.running
    }

    /// Takes a frame.
    pub fn take(&mut self, response: SyncResponse) -> Action {
        match (response.frame, self.welcomed) {
            (Some(Frame::Welcome(welcome)), false) => {
                self.welcomed = true;
                let interval = welcome.heartbeat_interval.and_then(|interval| interval.try_into().ok());
                let interval = interval.filter(|interval| *interval > Duration::ZERO);
                let heartbeat = interval.unwrap_or(HEARTBEAT).min(HEARTBEAT_MOST);
                Action::Welcome { heartbeat, up_to_date: self.runs(welcome.target.as_ref()) }
            }
            (Some(Frame::Welcome(_)), true) => Action::End("it said welcome twice"),
            (_, false) => Action::End("it did not say welcome first"),
            (Some(Frame::Begin(begin)), true) => self.begin(begin),
            (Some(Frame::Chunk(chunk)), true) => self.chunk(chunk),
            (Some(Frame::Commit(commit)), true) => self.commit(commit),
            // A frame of a later version says nothing to us.
            (Some(Frame::Heartbeat(_)) | None, true) => Action::Nothing,
        }
    }

    /// It runs now.
    pub fn ran(&mut self, snapshot: Snapshot) {
        self.running = Some(snapshot);
    }

    fn runs(&self, target: Option<&SnapshotId>) -> bool {
        match (&self.running, target) {
            (Some(running), Some(target)) => {
                running.id.digest == target.digest && running.id.store_id == target.store_id
            }
            _ => false,
        }
    }

    fn begin(&mut self, begin: Begin) -> Action {
        let Some(target) = begin.target else { return Action::End("it began a transition to nowhere") };
        let from_nothing = begin.base_digest.is_empty();
        let fits = self.running.as_ref().is_some_and(|running| running.id.digest == begin.base_digest);
        self.transition = None;
        if !from_nothing && !fits {
            return resync("the transition begins at something that does not run here");
        }
        self.transition = Some(Transition { target, from_nothing, upserts: Vec::new(), deletes: Vec::new() });
        Action::Nothing
    }

    fn chunk(&mut self, chunk: Chunk) -> Action {
        // Without a transition it is the rest of one that was given up.
        if let Some(transition) = &mut self.transition {
            transition.upserts.extend(chunk.upserts);
            transition.deletes.extend(chunk.deletes);
        }
        Action::Nothing
    }

    fn commit(&mut self, commit: Commit) -> Action {
        let Some(transition) = self.transition.take() else { return Action::Nothing };
        if commit.target.as_ref() != Some(&transition.target) {
            return resync("the commit is not the one of the transition that began");
        }
        let target = transition.target.clone();
        let base = match &self.running {
            Some(running) if !transition.from_nothing => running.entries.clone(),
            _ => Vec::new(),
        };
        let Some(entries) = transition.apply(base, &commit.order) else {
            return resync("the order names a resource that is not there");
        };
        let snapshot = Snapshot { id: target, entries };
        if !snapshot.is_whole() {
            return resync("the resources do not have the digest of the commit");
        }
        Action::Run(snapshot)
    }
}

// === impl Transition ===

impl Transition {
    /// The resources after the transition; `None` when the order does not fit them.
    fn apply(self, mut entries: Vec<Entry>, order: &[String]) -> Option<Vec<Entry>> {
        let deletes: HashSet<&str> = self.deletes.iter().map(String::as_str).collect();
        entries.retain(|entry| !deletes.contains(entry.name.as_str()));
        let mut places: HashMap<String, usize> =
            entries.iter().enumerate().map(|(place, entry)| (entry.name.clone(), place)).collect();
        for upsert in self.upserts {
            match places.get(&upsert.name) {
                Some(&place) => entries[place] = upsert,
                None => {
                    places.insert(upsert.name.clone(), entries.len());
                    entries.push(upsert);
                }
            }
        }
        if order.is_empty() {
            return Some(entries);
        }
        let mut by_name: HashMap<String, Entry> =
            entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let ordered: Option<Vec<Entry>> = order.iter().map(|name| by_name.remove(name)).collect();
        ordered.filter(|_| by_name.is_empty())
    }
}

fn resync(reason: &str) -> Action {
    let frame = sync_request::Frame::Resync(Resync { reason: reason.to_owned() });
    Action::Send(SyncRequest { frame: Some(frame) })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "session_fuzz.rs"]
mod fuzz;
