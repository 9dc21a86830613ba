//! Both ends of the push against each other, over a network that cuts and loses: no sockets, no clock, only a seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ntonix_control_plane::push::session::{Action as Say, News, Session as Plane};
use ntonix_control_plane::snapshot::publish::Publisher;
use ntonix_control_plane::snapshot::{Content, Keys, Snapshot as Published, delta, digest_of};
use ntonix_control_plane::store::{Entry, Revision, Stored};
use ntonix_data_plane::pushed::{Action, Session as Worker, Snapshot};
use ntonix_fuzz::{Rng, walks};
use ntonix_proto::config::v1::{Resource, Tenant, resource::Kind};
use ntonix_proto::sync::v1::{
    Ack, Fault, Heartbeat, Nack, SnapshotId, SyncRequest, SyncResponse, Welcome, sync_request::Frame as Up,
    sync_response::Frame as Down,
};
use prost::Message as _;
use tokio::time::Instant;

/// With the 500 walks of `.cargo/config.toml` 128,000 steps.
const STEPS: usize = 256;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Steps without a fault after which both ends must agree; each takes one frame.
const CALM: usize = 500;

/// One control plane, one worker, and what is between them.
struct World {
    publisher: Publisher,
    /// Everything that was ever published.
    history: Vec<Arc<Published>>,
    /// The control plane's end of the stream, while there is one.
    plane: Option<Plane>,
    /// What it knows of the worker: what it runs, and what it refused in this process.
    known: (Option<SnapshotId>, Option<SnapshotId>),
    /// The worker's end; what it runs when there is no stream.
    worker: Result<Worker, Option<Snapshot>>,
    /// On its disk.
    kept: Option<Snapshot>,
    up: VecDeque<SyncRequest>,
    down: VecDeque<Bytes>,
    now: Instant,
    beaten: Instant,
    /// A network that also loses, doubles and swaps single frames, as none of ours should.
    is_hostile: bool,
}

/// What every tenth revision is: good for the control plane, and refused by this worker.
fn is_poison(id: &SnapshotId) -> bool {
    id.revision.is_multiple_of(10)
}

fn publish_content(number: u64, tenants: &[String]) -> Arc<Content> {
    let entry = |name: &String| {
        let tenant = Tenant { name: name.clone(), ..Tenant::default() };
        let resource = Resource { kind: Some(Kind::Tenant(tenant)) };
        Entry { name: format!("tenants/{name}"), bytes: resource.encode_to_vec().into() }
    };
    let entries: Vec<Entry> = tenants.iter().map(entry).collect();
    let (author, message, time) = ("alice".to_owned(), String::new(), SystemTime::UNIX_EPOCH);
    let revision = Revision { number, author, time, message, digest: digest_of(&entries), rollback_of: 0 };
    Arc::new(Content::read(Stored { revision, entries }).unwrap())
}

// === impl World ===

impl World {
    fn new(is_hostile: bool) -> Self {
        let now = Instant::now();
        Self {
            publisher: Publisher::new(None),
            history: Vec::new(),
            plane: None,
            known: (None, None),
            worker: Err(None),
            kept: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            now,
            beaten: now,
            is_hostile,
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.u8(0..30) {
            0..=3 => self.publish(rng),
            4..=7 => self.notice(),
            8..=15 => self.deliver_down(rng),
            16..=22 => self.deliver_up(),
            23 => self.connect(),
            24 if rng.u8(0..3) == 0 => self.cut(),
            25 if rng.u8(0..6) == 0 => self.restart_worker(rng),
            26 if rng.u8(0..6) == 0 => self.restart_plane(),
            27 if self.is_hostile => self.disturb(rng),
            _ => self.pass(Duration::from_millis(rng.u64(0..3_000))),
        }
    }

    fn publish(&mut self, rng: &mut Rng) {
        let mut tenants: Vec<String> = (0..4).filter(|_| rng.bool()).map(|number| format!("t{number}")).collect();
        rng.shuffle(&mut tenants);
        let number = self.history.len() as u64 + 1;
        let before = self.publisher.newest();
        let content = publish_content(number, &tenants);
        let snapshot = Arc::new(Published::new("store", content, Arc::<Keys>::default(), before.as_deref()));
        self.history.push(snapshot.clone());
        self.publisher.publish(snapshot);
    }

    /// The stream's task sees what is newest, later than it was published.
    fn notice(&mut self) {
        if let Some(plane) = &mut self.plane {
            plane.retarget(self.publisher.newest());
        }
        self.speak();
    }

    fn connect(&mut self) {
        if self.plane.is_some() {
            return;
        }
        let Err(running) = &mut self.worker else { return };
        let running = running.take();
        let says = running.as_ref().map(|running| running.id.clone());
        self.known.0.clone_from(&says);
        self.worker = Ok(Worker::new(running));
        let newest = self.publisher.newest();
        self.plane = Some(Plane::open(says, self.known.1.clone(), newest, HEARTBEAT, self.now));
        self.beaten = self.now;
        self.speak();
    }

    fn cut(&mut self) {
        self.plane = None;
        self.up.clear();
        self.down.clear();
        self.worker = match std::mem::replace(&mut self.worker, Err(None)) {
            Ok(session) => Err(session.into_running()),
            away => away,
        };
    }

    /// It runs then what is on its disk, and remembers nothing.
    fn restart_worker(&mut self, rng: &mut Rng) {
        self.cut();
        if rng.u8(0..4) == 0 {
            self.kept = None;
        }
        self.worker = Err(self.kept.clone());
        self.known.1 = None;
    }

    /// It knows then what is in its store, and nothing of workers or of the past.
    fn restart_plane(&mut self) {
        self.cut();
        let newest = self.history.last().map(|newest| {
            let keys = Arc::<Keys>::default();
            Arc::new(Published::new("store", newest.content.clone(), keys, None))
        });
        self.publisher = Publisher::new(newest);
        self.known = (None, None);
    }

    /// Everything that the control plane has to say goes on its way.
    fn speak(&mut self) {
        let Some(plane) = &mut self.plane else { return };
        while let Some(action) = plane.next_action(self.now) {
            match action {
                Say::Welcome(target) => {
                    let heartbeat_interval = HEARTBEAT.try_into().ok();
                    self.down.push_back(delta::frame(Down::Welcome(Welcome { target, heartbeat_interval })));
                }
                Say::Heartbeat(snapshot) => self.down.push_back(delta::frame(Down::Heartbeat(Heartbeat { snapshot }))),
                Say::Transition { base, target } => {
                    let transition = self.publisher.transition(&base, &target);
                    if transition.full {
                        plane.sent_full();
                    }
                    self.down.extend(transition.frames.iter().cloned());
                }
            }
        }
    }

    fn deliver_down(&mut self, rng: &mut Rng) {
        let (Some(bytes), Ok(worker)) = (self.down.pop_front(), &mut self.worker) else { return };
        match worker.take(SyncResponse::decode(bytes).unwrap()) {
            Action::Nothing | Action::Welcome { .. } => {}
            Action::Send(request) => self.up.push_back(request),
            Action::End(reason) => {
                assert!(self.is_hostile, "the worker ends the stream: {reason}");
                self.cut();
            }
            Action::Run(snapshot) => self.run(snapshot, rng),
        }
    }

    /// Whatever a worker comes to run was published, to the last byte.
    fn run(&mut self, snapshot: Snapshot, rng: &mut Rng) {
        let published = self.history.iter().find(|published| published.id == snapshot.id).expect("never published");
        let entries = snapshot.entries.iter().map(|entry| (&entry.name, &entry.resource));
        assert!(entries.eq(published.entries.iter().map(|entry| (&entry.name, &entry.bytes))), "half a snapshot");
        let Ok(worker) = &mut self.worker else { return };
        let id = Some(snapshot.id.clone());
        let answer = if is_poison(&snapshot.id) {
            Up::Nack(Nack { snapshot: id, faults: vec![Fault::default()] })
        } else {
            // Its disk may be full.
            if rng.u8(0..8) > 0 {
                self.kept = Some(snapshot.clone());
            }
            worker.ran(snapshot);
            Up::Ack(Ack { snapshot: id, degraded: Vec::new() })
        };
        self.up.push_back(SyncRequest { frame: Some(answer) });
    }

    fn deliver_up(&mut self) {
        let (Some(request), Some(plane)) = (self.up.pop_front(), &mut self.plane) else { return };
        match plane.receive(request.frame.unwrap(), self.now) {
            Ok(News::Heard) => {}
            Ok(News::Took { id, .. }) => self.known = (Some(id), None),
            Ok(News::Runs(id)) => self.known.0 = id,
            Ok(News::Refused(id, _)) => self.known.1 = Some(id),
            Err(ending) => {
                assert!(self.is_hostile, "the control plane ends the stream: {ending}");
                return self.cut();
            }
        }
        self.speak();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        if let Ok(worker) = &self.worker
            && self.now >= self.beaten + HEARTBEAT
        {
            let snapshot = worker.running().map(|running| running.id.clone());
            self.up.push_back(SyncRequest { frame: Some(Up::Heartbeat(Heartbeat { snapshot })) });
            self.beaten = self.now;
        }
        if self.plane.as_mut().is_some_and(|plane| plane.tick(self.now).is_err()) {
            self.cut();
        }
        self.speak();
    }

    fn disturb(&mut self, rng: &mut Rng) {
        if self.down.is_empty() {
            return;
        }
        let (one, other) = (rng.usize(..self.down.len()), rng.usize(..self.down.len()));
        match rng.u8(0..3) {
            0 => drop(self.down.remove(one)),
            1 => self.down.insert(one, self.down[other].clone()),
            _ => self.down.swap(one, other),
        }
    }

    /// From here on nothing goes wrong: both ends come to agree, and on what is newest.
    fn settle(&mut self, rng: &mut Rng) {
        if self.is_hostile {
            // What was lost in the middle of a stream shows at the next transition, or on the next stream.
            self.cut();
            self.is_hostile = false;
        }
        for _ in 0..CALM {
            self.connect();
            self.notice();
            self.deliver_down(rng);
            self.deliver_up();
        }
        assert!(self.up.is_empty() && self.down.is_empty(), "they talk without end");
        let running = self.worker.as_ref().unwrap().running().map(|running| running.id.clone());
        assert_eq!(self.known.0, running, "the control plane knows what runs");
        let newest = self.history.last().map(|newest| newest.id.clone());
        match newest {
            Some(newest) if is_poison(&newest) => assert_eq!(self.known.1, Some(newest), "refused, and known to be"),
            newest => assert_eq!(running, newest, "the worker runs what is newest"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_of_the_push_ends_with_both_sides_at_the_newest_revision() {
    walks(|rng| {
        let mut world = World::new(rng.u8(0..4) == 0);
        for _ in 0..STEPS {
            world.step(rng);
            assert!(world.up.len() < 2 * STEPS && world.down.len() < 64 * STEPS, "frames without end");
        }
        world.settle(rng);
    });
}
