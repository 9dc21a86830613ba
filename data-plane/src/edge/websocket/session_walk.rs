//! Random walks of one socket beside a model: every frame of the client, everything that streams do, and time.

use std::collections::BTreeMap;

use ntonix_fuzz::{Rng, walks};
use serde_json::Value;

use super::*;

/// With the 500 walks of `.cargo/config.toml` 128,000 steps.
const STEPS: usize = 256;
/// A stream that may not send for so long is named.
const STALL: Duration = Duration::from_secs(60);
/// More names than a socket has streams.
const NAMES: u16 = 140;

#[derive(Default)]
struct Model {
    credit: bool,
    window: i64,
    streams: BTreeMap<String, Stream>,
    draining: bool,
}

#[derive(Default)]
struct Stream {
    window: i64,
    deltas: u64,
    stalled: Option<Instant>,
}

struct Walk {
    session: Session,
    model: Model,
    now: Instant,
    is_closed: bool,
}

fn json(frame: &str) -> Value {
    serde_json::from_str(frame).unwrap()
}

/// The code of an error frame, and the stream that it is about.
fn error(frame: &str) -> (String, Option<String>) {
    let frame = json(frame);
    assert_eq!(frame["t"], "error");
    (frame["error"]["code"].as_str().unwrap().to_owned(), frame["id"].as_str().map(str::to_owned))
}

// === impl Model ===

impl Model {
    fn may_send(&self, id: &str) -> bool {
        self.streams.get(id).is_some_and(|stream| !self.credit || (self.window > 0 && stream.window > 0))
    }

    /// Why a create is refused.
    fn refusal(&self, id: &str, window: Option<u64>) -> Option<&'static str> {
        if self.streams.contains_key(id) {
            Some("duplicate_id")
        } else if self.draining {
            Some("draining")
        } else if self.streams.len() >= 128 {
            Some("too_many_streams")
        } else {
            window.is_some_and(|window| window >= 1 << 31).then_some("bad_request")
        }
    }
}

// === impl Walk ===

impl Walk {
    fn new() -> Self {
        let model = Model { window: SOCKET_WINDOW, ..Model::default() };
        Self { session: Session::new(STALL), model, now: Instant::now(), is_closed: false }
    }

    fn step(&mut self, rng: &mut Rng) {
        // A few names are met often, so that streams meet their second frame.
        let id = if rng.bool() { rng.u16(..NAMES) } else { rng.u16(..4) }.to_string();
        match rng.u8(0..20) {
            0 if rng.u8(0..8) == 0 => self.hello(rng),
            0..=5 => self.create(&id, rng),
            6 => self.cancel(&id),
            7..=8 => self.widen(&id, rng),
            9 => self.say_anything(rng),
            10..=14 => self.delta(&id, rng),
            15 => self.end(&id, rng),
            16..=17 => self.stall(&id),
            18 if rng.u16(0..2000) == 0 => {
                assert_eq!(json(&self.session.drain())["t"], "goaway");
                self.model.draining = true;
            }
            _ => self.now += Duration::from_millis(rng.u64(0..5_000)),
        }
        self.compare(&id);
    }

    fn hello(&mut self, rng: &mut Rng) {
        let (flow, credit) = *rng.choice(&[(r#""auto""#, false), (r#""credit""#, true), ("null", false)]).unwrap();
        let Action::Say(said) = self.session.take(&format!(r#"{{"t":"hello","flow":{flow}}}"#)) else {
            panic!("no answer to a hello")
        };
        if !self.model.streams.is_empty() && credit != self.model.credit {
            assert_eq!(error(&said), ("bad_request".to_owned(), None));
            return;
        }
        self.model.credit = credit;
        let ready = json(&said);
        assert_eq!((&ready["t"], &ready["flow"]), (&"ready".into(), &(if credit { "credit" } else { "auto" }).into()));
    }

    fn create(&mut self, id: &str, rng: &mut Rng) {
        let window = rng.bool().then(|| if rng.u8(0..10) == 0 { rng.u64(..) } else { rng.u64(0..400) });
        let member = window.map(|window| format!(r#","window":{window}"#)).unwrap_or_default();
        let frame = format!(r#"{{"t":"create","id":"{id}","op":"completions","body":{{"model":"m"}}{member}}}"#);
        let action = self.session.take(&frame);
        if let Some(code) = self.model.refusal(id, window) {
            let Action::Say(said) = action else { panic!("not refused: {action:?}") };
            assert_eq!(error(&said), (code.to_owned(), Some(id.to_owned())));
            return;
        }
        let body = Bytes::from_static(br#"{"model":"m"}"#);
        assert_eq!(action, Action::Create { id: id.into(), op: Op::Completions, body });
        let window = window.map_or(STREAM_WINDOW, |window| i64::try_from(window).unwrap());
        self.model.streams.insert(id.to_owned(), Stream { window, ..Stream::default() });
    }

    fn cancel(&mut self, id: &str) {
        let action = self.session.take(&format!(r#"{{"t":"cancel","id":"{id}"}}"#));
        let Some(stream) = self.model.streams.remove(id) else {
            assert_eq!(action, Action::Nothing);
            return;
        };
        let Action::Cancel(cancelled, last) = action else { panic!("not cancelled: {action:?}") };
        assert_eq!((&*cancelled, error(&last).0.as_str()), (id, "cancelled"));
        assert_eq!(json(&last)["seq"], stream.deltas);
    }

    fn widen(&mut self, id: &str, rng: &mut Rng) {
        let add = if rng.u8(0..30) == 0 { rng.u64(..) } else { rng.u64(0..3_000) };
        let more = i64::try_from(add).unwrap_or(i64::MAX);
        if rng.bool() {
            let action = self.session.take(&format!(r#"{{"t":"window","add":{add}}}"#));
            let window = self.model.window.saturating_add(more);
            if window >= 1 << 31 {
                assert_eq!(action, Action::Close(4400, "window_too_large"));
                self.is_closed = true;
            } else {
                assert_eq!(action, Action::Wake(None));
                self.model.window = window;
            }
            return;
        }
        let action = self.session.take(&format!(r#"{{"t":"window","id":"{id}","add":{add}}}"#));
        let Some(stream) = self.model.streams.get_mut(id) else {
            assert_eq!(action, Action::Nothing);
            return;
        };
        stream.window = stream.window.saturating_add(more);
        if stream.window >= 1 << 31 {
            let Action::Cancel(cancelled, last) = action else { panic!("not cancelled: {action:?}") };
            assert_eq!((&*cancelled, error(&last).0.as_str()), (id, "window_too_large"));
            self.model.streams.remove(id);
        } else {
            assert_eq!(action, Action::Wake(Some(id.into())));
        }
    }

    /// What changes nothing, and what no socket survives.
    fn say_anything(&mut self, rng: &mut Rng) {
        match rng.u8(0..40) {
            0 => {
                assert_eq!(self.session.take(r#"{"t":"create","#), Action::Close(4400, "malformed_frame"));
                self.is_closed = true;
            }
            1..=10 => {
                let Action::Say(said) = self.session.take(r#"{"t":"attach","id":"0"}"#) else { panic!("no answer") };
                assert_eq!(error(&said), ("unknown_frame".to_owned(), Some("0".to_owned())));
            }
            number => {
                let pong = format!(r#"{{"t":"pong","n":{number}}}"#);
                assert_eq!(self.session.take(&format!(r#"{{"t":"ping","n":{number}}}"#)), Action::Say(pong));
            }
        }
    }

    /// As the driver does: what may not be sent waits.
    fn delta(&mut self, id: &str, rng: &mut Rng) {
        if !self.session.may_send(id) {
            return;
        }
        let object = format!(r#"{{"x":"{}"}}"#, "y".repeat(rng.usize(0..200)));
        let frame = self.session.delta(id, &object).unwrap();
        let stream = self.model.streams.get_mut(id).unwrap();
        assert_eq!(frame, format!(r#"{{"t":"delta","id":"{id}","seq":{},"d":{object}}}"#, stream.deltas));
        (stream.deltas, stream.stalled) = (stream.deltas + 1, None);
        if self.model.credit {
            let spent = i64::try_from(frame.len()).unwrap();
            stream.window -= spent;
            self.model.window -= spent;
        }
    }

    fn end(&mut self, id: &str, rng: &mut Rng) {
        let seq = if rng.bool() {
            self.session.fail(id)
        } else {
            let last = self.session.done(id, None);
            last.map(|last| json(&last)["seq"].as_u64().unwrap())
        };
        assert_eq!(seq, self.model.streams.remove(id).map(|stream| stream.deltas), "it ends once, after all of it");
    }

    fn stall(&mut self, id: &str) {
        if !self.session.may_send(id) {
            self.session.stall(id, self.now);
            if let Some(stream) = self.model.streams.get_mut(id) {
                stream.stalled.get_or_insert(self.now);
            }
        }
    }

    fn compare(&mut self, id: &str) {
        assert_eq!(self.session.streams(), self.model.streams.len());
        assert_eq!(self.session.may_send(id), self.model.may_send(id));
        let mut stalled: Vec<String> = self.session.stalled(self.now).iter().map(ToString::to_string).collect();
        stalled.sort();
        let waits = |stream: &Stream| stream.stalled.is_some_and(|since| self.now - since >= STALL);
        let expected: Vec<_> =
            self.model.streams.iter().filter(|(_, stream)| waits(stream)).map(|(id, _)| id).collect();
        assert_eq!(stalled.iter().collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_walk_of_the_session_goes_as_its_model_does() {
    walks(|rng| {
        let mut walk = Walk::new();
        for _ in 0..STEPS {
            walk.step(rng);
            if walk.is_closed {
                walk = Walk::new();
            }
        }
    });
}
