use ntonix_proto::sync::v1::{Hello, Resync};

use super::*;
use crate::snapshot::tests::snapshot;

const INTERVAL: Duration = Duration::from_secs(5);

/// A session with a clock of its own.
struct Talk {
    session: Session,
    now: Instant,
}

impl Talk {
    fn open(running: Option<&Arc<Snapshot>>, target: Option<&Arc<Snapshot>>) -> Self {
        let now = Instant::now();
        let running = running.map(|snapshot| snapshot.id.clone());
        Self { session: Session::open(running, None, target.cloned(), INTERVAL, now), now }
    }

    /// Everything that is sent now, in short words.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(action) = self.session.next_action(self.now) {
            said.push(match action {
                Action::Welcome(target) => format!("welcome {}", target.map_or(0, |id| id.revision)),
                Action::Transition { base, target } if base.is_empty() => format!("all of {}", target.id.revision),
                Action::Transition { target, .. } => format!("way to {}", target.id.revision),
                Action::Heartbeat(target) => format!("heartbeat {}", target.map_or(0, |id| id.revision)),
            });
        }
        said
    }

    fn hear(&mut self, frame: Frame) -> News {
        self.session.receive(frame, self.now).unwrap()
    }

    fn wait(&mut self, time: Duration) -> Result<(), Ending> {
        self.now += time;
        self.session.tick(self.now)
    }
}

fn ack(snapshot: &Arc<Snapshot>) -> Frame {
    Frame::Ack(Ack { snapshot: Some(snapshot.id.clone()), degraded: Vec::new() })
}

fn nack(snapshot: &Arc<Snapshot>) -> Frame {
    Frame::Nack(Nack { snapshot: Some(snapshot.id.clone()), faults: vec![Fault::default()] })
}

fn heartbeat(snapshot: Option<&Arc<Snapshot>>) -> Frame {
    Frame::Heartbeat(Heartbeat { snapshot: snapshot.map(|snapshot| snapshot.id.clone()) })
}

fn resync() -> Frame {
    Frame::Resync(Resync { reason: "lost".to_owned() })
}

fn three() -> [Arc<Snapshot>; 3] {
    [snapshot(1, &["a"], &[]), snapshot(2, &["b"], &[]), snapshot(3, &["c"], &[])]
}

#[test]
fn a_second_hello_ends_the_stream() {
    let mut talk = Talk::open(None, None);
    let ending = talk.session.receive(Frame::Hello(Hello::default()), talk.now).unwrap_err();
    assert!(matches!(ending, Ending::Violation(_)));
}

#[test]
fn a_worker_that_is_up_to_date_gets_a_welcome_and_nothing_else() {
    let [one, ..] = three();
    let mut talk = Talk::open(Some(&one), Some(&one));
    assert_eq!(talk.said(), ["welcome 1"]);
}

#[test]
fn before_the_first_revision_a_worker_keeps_what_it_runs() {
    let [one, two, _] = three();
    let mut talk = Talk::open(Some(&two), None);
    assert_eq!(talk.said(), ["welcome 0"]);
    talk.session.retarget(Some(one));
    assert_eq!(talk.said(), ["way to 1"]);
}

#[test]
fn a_new_worker_gets_everything() {
    let [one, ..] = three();
    let mut talk = Talk::open(None, Some(&one));
    assert_eq!(talk.said(), ["welcome 1", "all of 1"]);
    assert!(matches!(talk.hear(ack(&one)), News::Took { id, .. } if id == one.id));
    assert!(talk.said().is_empty());
}

#[test]
fn the_same_content_under_a_new_number_is_still_told() {
    let (old, new) = (snapshot(1, &["a"], &[]), snapshot(3, &["a"], &[]));
    let mut talk = Talk::open(Some(&old), Some(&new));
    assert_eq!(talk.said(), ["welcome 3", "way to 3"]);
}

#[test]
fn what_is_newer_waits_for_the_answer_and_only_the_newest_is_sent() {
    let [one, two, three] = three();
    let mut talk = Talk::open(None, Some(&one));
    talk.said();
    talk.session.retarget(Some(two));
    talk.session.retarget(Some(three));
    assert!(talk.said().is_empty());
    talk.hear(ack(&one));
    assert_eq!(talk.said(), ["way to 3"]);
}

#[test]
fn a_refused_snapshot_is_not_sent_again_until_something_changes() {
    let [one, two, three] = three();
    let mut talk = Talk::open(Some(&one), Some(&two));
    talk.said();
    assert!(matches!(talk.hear(nack(&two)), News::Refused(id, faults) if id == two.id && faults.len() == 1));
    talk.hear(heartbeat(Some(&one)));
    talk.session.retarget(Some(two));
    assert!(talk.said().is_empty());
    talk.session.retarget(Some(three.clone()));
    assert_eq!(talk.said(), ["way to 3"]);
    talk.hear(ack(&three));
    assert!(talk.said().is_empty());
}

#[test]
fn a_refusal_before_a_reconnect_counts() {
    let [one, two, _] = three();
    let now = Instant::now();
    let (running, refused) = (Some(one.id.clone()), Some(two.id.clone()));
    let mut talk = Talk { session: Session::open(running, refused, Some(two), INTERVAL, now), now };
    assert_eq!(talk.said(), ["welcome 2"]);
}

#[test]
fn stale_and_repeated_answers_change_nothing() {
    let [one, two, three] = three();
    let mut talk = Talk::open(Some(&one), Some(&two));
    talk.said();
    assert_eq!(talk.hear(ack(&three)), News::Heard);
    assert_eq!(talk.hear(nack(&one)), News::Heard);
    talk.session.retarget(Some(three));
    assert!(talk.said().is_empty(), "the transition to 2 is still unanswered");
    talk.hear(ack(&two));
    assert_eq!(talk.said(), ["way to 3"]);
    assert_eq!(talk.hear(ack(&two)), News::Heard);
    assert!(talk.said().is_empty());
}

#[test]
fn a_worker_that_lost_its_way_gets_everything_once() {
    let [one, two, _] = three();
    let mut talk = Talk::open(Some(&one), Some(&two));
    assert_eq!(talk.said(), ["welcome 2", "way to 2"]);
    talk.hear(resync());
    assert_eq!(talk.said(), ["all of 2"]);
    let ending = talk.session.receive(resync(), talk.now).unwrap_err();
    assert!(matches!(ending, Ending::Violation(_)));
}

#[test]
fn an_unknown_base_counts_as_everything() {
    let [one, two, _] = three();
    let mut talk = Talk::open(Some(&one), Some(&two));
    talk.said();
    talk.session.sent_full();
    assert!(talk.session.receive(resync(), talk.now).is_err());
}

#[test]
fn a_resync_brings_a_refused_snapshot_again() {
    let [one, two, _] = three();
    let mut talk = Talk::open(Some(&one), Some(&two));
    talk.said();
    talk.hear(nack(&two));
    talk.hear(resync());
    assert_eq!(talk.said(), ["all of 2"]);
}

#[test]
fn a_worker_that_runs_something_else_than_it_said_is_led_back() {
    let [one, two, _] = three();
    let mut talk = Talk::open(Some(&two), Some(&two));
    talk.said();
    assert_eq!(talk.hear(heartbeat(Some(&two))), News::Heard);
    assert_eq!(talk.hear(heartbeat(Some(&one))), News::Runs(Some(one.id.clone())));
    assert_eq!(talk.said(), ["way to 2"]);
    // On its way, an old heartbeat says nothing new.
    assert_eq!(talk.hear(heartbeat(None)), News::Heard);
    assert!(talk.said().is_empty());
}

#[test]
fn silence_is_filled_with_heartbeats_that_name_the_target() {
    let [one, ..] = three();
    let mut talk = Talk::open(Some(&one), Some(&one));
    talk.said();
    assert_eq!(talk.session.wake_at(), talk.now + INTERVAL);
    talk.wait(INTERVAL).unwrap();
    assert_eq!(talk.said(), ["heartbeat 1"]);
    assert_eq!(talk.session.wake_at(), talk.now + INTERVAL);
    talk.wait(INTERVAL / 2).unwrap();
    assert!(talk.said().is_empty());
}

#[test]
fn three_missed_heartbeats_end_the_stream() {
    let mut talk = Talk::open(None, None);
    for _ in 0..2 {
        talk.wait(INTERVAL).unwrap();
        talk.said();
    }
    talk.hear(heartbeat(None));
    for _ in 0..2 {
        talk.wait(INTERVAL).unwrap();
        talk.said();
    }
    assert_eq!(talk.wait(INTERVAL), Err(Ending::Silent));
}
