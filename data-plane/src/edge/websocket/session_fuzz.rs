//! Whatever text a client sends on its socket, a frame on each line, while every stream answers.

use std::collections::BTreeMap;

use ntonix_fuzz::fuzz;
use serde::Deserialize;

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/websocket");

/// As much of a frame as every client looks at. A number in it may be beyond any float: it is passed over.
#[derive(Deserialize)]
struct Frame {
    t: String,
    seq: Option<u64>,
}

/// What is said is a JSON object with a kind, on one line.
fn checked(frame: &str) -> Frame {
    let read: Frame = serde_json::from_str(frame).unwrap();
    assert!(!read.t.is_empty() && !frame.contains('\n'), "{frame}");
    read
}

#[test]
fn fuzz_websocket_session() {
    fuzz(CORPUS, |bytes| {
        let mut session = Session::new(Duration::from_secs(60));
        let mut sent: BTreeMap<String, u64> = BTreeMap::new();
        for line in String::from_utf8_lossy(bytes).lines() {
            match session.take(line) {
                Action::Close(..) => return,
                Action::Nothing | Action::Wake(_) => {}
                Action::Say(frame) => drop(checked(&frame)),
                Action::Create { id, body, .. } => {
                    assert!((1..=64).contains(&id.len()));
                    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&body).is_ok());
                    assert_eq!(sent.insert(id.to_string(), 0), None, "one stream of a name");
                }
                Action::Cancel(id, frame) => {
                    assert_eq!(checked(&frame).seq, sent.remove(&*id));
                }
            }
            assert!(session.streams() == sent.len() && sent.len() <= LIMITS.streams);
            for (id, count) in &mut sent {
                if session.may_send(id) {
                    assert_eq!(checked(&session.delta(id, r#"{"x":"\n"}"#).unwrap()).seq, Some(*count));
                    *count += 1;
                }
            }
        }
        for (id, count) in sent {
            assert_eq!(checked(&session.done(&id, None).unwrap()).seq, Some(count));
        }
        assert_eq!(session.streams(), 0);
    });
}
