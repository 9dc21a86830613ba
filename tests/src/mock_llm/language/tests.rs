//! What is written is what is played, and what is wrong is told with its place.

use super::*;

fn fault(text: &str) -> String {
    text.parse::<Script>().unwrap_err().to_string()
}

fn steps_of(text: &str) -> Vec<Step> {
    match text.parse().unwrap() {
        Script::Stream(steps) => steps,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_is_told_with_line_column_and_the_nearest_word() {
    for (text, told) in [
        ("tokns 3", "line 1, column 1: there is no step named \"tokns\"; did you mean \"tokens\"?"),
        ("# fine\nrole\n  cut fun", "line 3, column 7: \"fun\" is no end of a connection; did you mean \"fin\"?"),
        ("tokens many", "line 1, column 8: the number of tokens is a whole number up to 1000000000000, not \"many\""),
        ("tokens", "line 1, column 7: the number of tokens is missing"),
        ("pause 20", "line 1, column 7: the pause is a time such as 20ms or 1s, not \"20\""),
        ("raw \"é\\q\"", "line 1, column 7: this escape is none of \\n \\r \\t \\0 \\\" \\\\ \\xNN"),
        ("raw \"x", "line 1, column 5: this text has no closing quote"),
        ("raw x", "line 1, column 5: a text in quotes is missing"),
        ("done now", "line 1, column 6: \"now\" is one word too many"),
        ("h2 goway", "line 1, column 4: \"goway\" is no fault of HTTP/2; did you mean \"goaway\"?"),
        ("cut rst at 12", "line 1, column 9: after \"at\" comes \"byte COUNT\""),
        ("raw \"x\" times 0", "line 1, column 15: bytes are written once at least"),
        (
            "h2 empty 1000001",
            "line 1, column 10: the number of frames is a whole number up to 1000000, not \"1000001\"",
        ),
        ("bare\ngarbage 17MiB", "line 2, column 9: a bare part has 16 MiB at most"),
        ("bare\ngarbage 9MiB\ngarbage 9MiB", "line 3, column 9: a bare part has 16 MiB at most"),
        ("split 0", "line 1, column 7: a write has one byte at least"),
        ("header a b", "line 1, column 8: a header is NAME: VALUE"),
        ("header a b: c", "line 1, column 8: HTTP allows no such header"),
        ("head 99", "line 1, column 6: the status is a number from 200 to 599"),
        ("role\nheader a: b", "line 2, column 1: the head has left already"),
        ("role\nanswer", "line 2, column 1: a whole reply stands alone, but for headers before it"),
        ("answer\nrole", "line 2, column 1: a whole reply is the last step of its part"),
        ("header a: b\nanswer", "line 2, column 1: \"answer\" has its own headers"),
        ("role\nbare", "line 2, column 1: \"bare\" is the first step of its part"),
        ("bare\ndone", "line 2, column 1: after \"bare\" there are only raw, garbage, cut and hang"),
        ("bare\ncut fin\nhang", "line 3, column 1: the connection has ended already"),
        ("role\neach 1s", "line 2, column 1: \"each\" is the first line of a script"),
    ] {
        assert_eq!(fault(text), told, "{text}");
    }
    assert_eq!(fault("rol\ndone\ntoken 3").lines().count(), 2, "every fault is told");
    assert!(
        fault("error x").ends_with("there are: openai, vllm, sglang, llama.cpp, tgi, vllm-old, llama.cpp-old, named")
    );
}

#[test]
fn headers_leave_with_the_first_bytes_when_no_head_sends_them() {
    let steps = steps_of("header x-a: 1\npause 1s\nlength 1KiB\nrole\n# the end");
    let [Step::Pause(_), Step::Head { status: 200, headers }, Step::Role] = steps.as_slice() else {
        panic!("{steps:?}")
    };
    assert_eq!(headers[..], [("x-a".into(), "1".to_owned()), ("content-length".into(), "1024".to_owned())]);
    let steps = steps_of("header x-a: 1\nhead 206\nhang");
    assert!(matches!(&steps[..], [Step::Head { status: 206, headers }, Step::Hang] if headers.len() == 1), "{steps:?}");
}

#[test]
fn bytes_come_as_their_escapes_say_and_as_often_as_told() {
    let steps = steps_of(r#"raw "a\r\n\t\0\"\\\xF0é" times 2 every 5ms"#);
    let [Step::Head { .. }, Step::Repeat { bytes, times: 2, every: Some(every) }] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!(bytes, &b"a\r\n\t\0\"\\\xF0\xC3\xA9"[..]);
    assert_eq!(*every, Duration::from_millis(5));
    let steps = steps_of(r#"event {"a": "b # c"}"#);
    assert!(matches!(&steps[1], Step::Raw(bytes) if bytes == "data: {\"a\": \"b # c\"}\n\n"), "{steps:?}");
}

/// Nothing is made while a script is read: one line must not cost what the machine does not have.
#[test]
fn large_numbers_cost_nothing_before_they_are_played() {
    let steps = steps_of("garbage 99999999999999");
    assert!(matches!(steps[1], Step::Garbage(_)), "{steps:?}");
    let steps = steps_of(r#"raw "x" times 1000000000000"#);
    assert!(matches!(steps[..], [Step::Head { .. }, Step::Repeat { .. }]), "{steps:?}");
}

#[test]
fn garbage_is_the_same_in_one_piece_and_in_many() {
    let whole = Garbage::new(1_000).take(usize::MAX);
    let mut garbage = Garbage::new(1_000);
    let pieces: Vec<u8> =
        std::iter::from_fn(|| Some(garbage.take(7)).filter(|piece| !piece.is_empty())).flatten().collect();
    assert_eq!(whole.len(), 1_000);
    assert_eq!(pieces, whole);
    assert!(garbage.is_over());
}

#[test]
fn whole_replies_and_bare_bytes_are_read() {
    let Script::Reply { status: 503, headers, body } = "header retry-after: 3\nstatus 503 \"busy\"".parse().unwrap()
    else {
        panic!("no reply")
    };
    assert_eq!(headers[1], ("retry-after".into(), "3".to_owned()));
    assert!(String::from_utf8_lossy(&body).contains(r#""message":"busy""#));
    let script = "answer 7 every 20ms".parse().unwrap();
    assert!(matches!(script, Script::Answer { tokens: 7, pace: Pace::Every(_) }), "{script:?}");
    assert!(matches!("answer every 1s".parse(), Ok(Script::Answer { tokens: TOKENS, pace: Pace::Every(_) })));
    let script = "bare\nraw \"x\"\ngarbage 9\ncut rst".parse().unwrap();
    assert!(matches!(&script, Script::Wire { bytes, end: End::Reset } if bytes.len() == 10), "{script:?}");
}

#[test]
fn parts_take_turns_by_request_or_by_time() {
    let Script::Turns(turns) = "status 500\n---\nanswer\n---\nhang".parse().unwrap() else { panic!("no turns") };
    let kind = |script| match script {
        Script::Reply { .. } => "reply",
        Script::Answer { .. } => "answer",
        _ => "steps",
    };
    let taken: Vec<_> = (0..6).map(|_| kind(turns.clone().next())).collect();
    assert_eq!(taken, ["reply", "answer", "steps", "reply", "answer", "steps"]);
}

#[tokio::test(start_paused = true)]
async fn turns_by_time_change_when_it_is_over() {
    let Script::Turns(turns) = "each 200ms\nstatus 500\n---\nanswer".parse().unwrap() else { panic!("no turns") };
    for is_reply in [true, false, true] {
        assert_eq!(matches!(turns.next(), Script::Reply { .. }), is_reply);
        tokio::time::advance(Duration::from_millis(200)).await;
    }
}

#[test]
fn the_help_and_the_guide_tell_of_every_word() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guide/mock-llm.md")).unwrap();
    let help = help();
    let names = WORDS.iter().map(|entry| entry.name).chain(H2_WORDS.iter().map(|(name, ..)| *name));
    for name in names.chain(ERROR_FORMS.iter().map(|(name, _)| *name)) {
        assert!(help.contains(name) && guide.contains(name), "{name}");
    }
    for name in Script::NAMES {
        assert!(guide.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_script_of_a_row_can_be_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/faults");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        text.parse::<Script>().unwrap_or_else(|faults| panic!("{}: {faults}", path.display()));
        read += 1;
    }
    assert!(read >= 25, "{read} scripts");
}
