use super::*;

const STALL: Duration = Duration::from_secs(60);

fn code(action: &Action) -> String {
    let (Action::Say(frame) | Action::Cancel(_, frame)) = action else { panic!("{action:?}") };
    let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
    frame["error"]["code"].as_str().unwrap_or_default().to_owned()
}

impl Session {
    pub(super) fn may_send(&mut self, id: &str) -> bool {
        self.sender(id).is_some_and(|sender| sender.may_send())
    }

    pub(super) fn stall(&mut self, id: &str, now: Instant) {
        if let Some(mut sender) = self.sender(id) {
            sender.stall(now);
        }
    }

    pub(super) fn delta(&mut self, id: &str, object: &str) -> Option<String> {
        let mut frame = BytesMut::new();
        let bytes = self.sender(id)?.delta(&mut frame, id, object.as_bytes());
        Some(String::from_utf8(frame[frame.len() - bytes..].to_vec()).unwrap())
    }
}

fn create(session: &mut Session, id: &str) -> Action {
    session.take(&format!(r#"{{"t":"create","id":"{id}","op":"chat.completions","body":{{"model":"m"}}}}"#))
}

#[test]
fn malformed_frames_close_the_socket_and_unknown_ones_do_not() {
    let mut session = Session::new(STALL);
    assert_eq!(session.take("{"), Action::Close(4400, "malformed_frame"));
    assert_eq!(session.take("[]"), Action::Close(4400, "malformed_frame"));
    for frame in ["attach", "ack", "detach", "nonsense"] {
        assert_eq!(code(&session.take(&format!(r#"{{"t":"{frame}","id":"a"}}"#))), "unknown_frame");
    }
    let resumable = r#"{"t":"create","id":"a","op":"completions","body":{},"resumable":true}"#;
    assert_eq!(code(&session.take(resumable)), "unknown_frame");
}

#[test]
fn a_create_is_refused_for_its_own_stream_only() {
    // Conformance item 74.
    let mut session = Session::new(STALL);
    assert_eq!(code(&create(&mut session, "with space")), "bad_request");
    assert_eq!(code(&session.take(r#"{"t":"create","id":"a","op":"responses","body":{}}"#)), "unknown_op");
    assert_eq!(code(&session.take(r#"{"t":"create","id":"a","op":"completions"}"#)), "bad_request");
    assert!(matches!(create(&mut session, "a"), Action::Create { .. }));
    assert_eq!(code(&create(&mut session, "a")), "duplicate_id");
    session.done("a", None).unwrap();
    assert!(matches!(create(&mut session, "a"), Action::Create { .. }), "the name is free again");
}

#[test]
fn a_socket_has_128_streams_at_most() {
    let mut session = Session::new(STALL);
    for number in 0..128 {
        assert!(matches!(create(&mut session, &number.to_string()), Action::Create { .. }));
    }
    assert_eq!(code(&create(&mut session, "one-more")), "too_many_streams");
}

#[test]
fn deltas_are_numbered_without_gaps_and_end_once() {
    let mut session = Session::new(STALL);
    create(&mut session, "a");
    assert_eq!(session.delta("a", "{}").unwrap(), r#"{"t":"delta","id":"a","seq":0,"d":{}}"#);
    assert_eq!(session.delta("a", "{}").unwrap(), r#"{"t":"delta","id":"a","seq":1,"d":{}}"#);
    assert!(session.done("a", None).unwrap().contains(r#""seq":2"#));
    assert_eq!(session.done("a", None), None);
    assert_eq!(session.take(r#"{"t":"cancel","id":"a"}"#), Action::Nothing, "a cancel after the end is ignored");
}

#[test]
fn credit_stops_a_stream_at_zero_and_the_last_frame_may_overdraw() {
    let mut session = Session::new(STALL);
    session.take(r#"{"t":"hello","flow":"credit"}"#);
    session.take(r#"{"t":"create","id":"a","op":"completions","body":{},"window":10}"#);
    create(&mut session, "b");
    assert!(session.may_send("a"));
    session.delta("a", "{}").unwrap();
    assert!(!session.may_send("a"), "the frame was longer than the window");
    assert!(session.may_send("b"), "the other stream is not held up");
    assert_eq!(session.take(r#"{"t":"window","id":"a","add":5}"#), Action::Wake(Some("a".into())));
    assert!(!session.may_send("a"), "the debt comes first");
    session.take(r#"{"t":"window","id":"a","add":1000}"#);
    assert!(session.may_send("a"));
    assert_eq!(code(&session.take(r#"{"t":"window","id":"a","add":2147483647}"#)), "window_too_large");
    assert_eq!(session.streams(), 1);
}

#[test]
fn the_whole_socket_has_a_window_too() {
    let mut session = Session::new(STALL);
    session.take(r#"{"t":"hello","flow":"credit"}"#);
    session.take(r#"{"t":"create","id":"a","op":"completions","body":{},"window":2000000}"#);
    let object = format!("\"{}\"", "x".repeat(1024 * 1024));
    session.delta("a", &object).unwrap();
    assert!(!session.may_send("a"));
    assert_eq!(session.take(r#"{"t":"window","add":100000}"#), Action::Wake(None));
    assert!(session.may_send("a"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_credit_too_long_is_named() {
    let mut session = Session::new(STALL);
    session.take(r#"{"t":"hello","flow":"credit"}"#);
    create(&mut session, "a");
    let now = Instant::now();
    session.stall("a", now);
    session.stall("a", now + Duration::from_secs(59));
    assert_eq!(session.stalled(now + Duration::from_secs(59)), []);
    assert_eq!(session.stalled(now + Duration::from_secs(60)), ["a".into()]);
}

#[test]
fn a_draining_socket_takes_no_streams() {
    let mut session = Session::new(STALL);
    session.drain();
    assert_eq!(code(&create(&mut session, "a")), "draining");
}
