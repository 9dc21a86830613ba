//! What fits into a mould, and that it is what it is taken for.

use ntonix_fuzz::{Rng, walks};
use serde_json::value::RawValue;

use super::*;

fn cast(json: &str) -> Mould {
    let mut mould = Mould::default();
    mould.cast(&Block::new(format!("data: {json}\n").as_bytes()));
    mould
}

/// The payload that is found in an event which is known.
fn known<'a>(mould: &mut Mould, event: &'a str) -> Option<&'a str> {
    let casting = mould.fits(event.as_bytes())?;
    assert!(casting.length <= event.len());
    Some(&event[casting.payload])
}

fn fits(mould: &mut Mould, json: &str) -> bool {
    let event = format!("data: {json}\n\n");
    let found = known(mould, &event);
    assert!(found.is_none_or(|payload| payload == json), "{found:?} of {json}");
    found.is_some()
}

#[test]
fn an_event_with_another_text_is_known() {
    let form = r#"{"id":1,"choices":[{"delta":{"role":"assistant","content": "TEXT"},"index":0}]}"#;
    let mut mould = cast(&form.replace("TEXT", "a\\\"b"));
    let mut with = |text: &str| fits(&mut mould, &form.replace("TEXT", text));
    assert!(with("") && with("c") && with("größer, ja") && with("a longer text than the one before"));
    assert!(!with("\\n") && !with("\"") && !with("\n") && !with("\u{7}"));
    assert!(!fits(&mut mould, &form.replace("\"id\":1", "\"id\":2")));
    let reasoning = r#"{"content":null,"reasoning_content":"a","index":0}"#;
    assert!(fits(&mut cast(reasoning), &reasoning.replace("\"a\"", "\"b\"")));
}

#[test]
fn only_whole_events_are_known_and_no_more_than_one() {
    let mut mould = cast(r#"{"text":"a"}"#);
    let event = "data: {\"text\":\"bc\"}\n\n";
    assert!((0..event.len()).all(|end| known(&mut mould, &event[..end]).is_none()));
    let casting = mould.fits(event.repeat(2).as_bytes()).unwrap();
    assert_eq!((casting.length, &event[casting.payload]), (event.len(), r#"{"text":"bc"}"#));
}

#[test]
fn what_has_no_text_of_its_own_is_no_mould() {
    let large = format!(r#"{{"text":"a","logprobs":"{}"}}"#, "x".repeat(MOULD_MOST));
    for json in [r#"{"a":"content"}"#, r#"{"text":null}"#, r#"{"text":"a" }"#, r#"{"text":"a":1}"#, &large] {
        assert!(!fits(&mut cast(json), json), "{json}");
    }
    assert!(Mould::default().fits(b"").is_none());
    for raw in ["data: {\"text\":\"a\"}\r", "id: 1\ndata: {\"text\":\"a\"}\n", "data: {\"text\":\"a\"}"] {
        let mut mould = cast(r#"{"text":"a"}"#);
        mould.cast(&Block::new(raw.as_bytes()));
        assert!(mould.fits(format!("{raw}\n\n").as_bytes()).is_none(), "{raw:?}");
    }
}

#[test]
fn line_ends_of_two_bytes_are_known_with_both() {
    let mut mould = Mould::default();
    mould.cast(&Block::new(b"data: {\"text\":\"a\"}\r\n"));
    assert_eq!(known(&mut mould, "data: {\"text\":\"b\"}\r\n\r\n"), Some(r#"{"text":"b"}"#));
    assert_eq!(known(&mut mould, "data: {\"text\":\"b\"}\r\n\r"), None);
    assert_eq!(known(&mut mould, "data: {\"text\":\"b\"}\n\n"), None);
}

#[test]
fn text_that_is_no_utf8_is_not_known() {
    let mut mould = cast(r#"{"text":"a"}"#);
    assert!(mould.fits(b"data: {\"text\":\"\xff\"}\n\n").is_none());
}

#[test]
fn a_stream_whose_events_differ_in_more_than_a_text_is_not_cast_for_ever() {
    let cast_next = |mould: &mut Mould, number: u8| {
        let json = format!(r#"{{"text":"a","number":{number}}}"#);
        mould.cast(&Block::new(format!("data: {json}\n").as_bytes()));
        fits(mould, &json)
    };
    let mut mould = Mould::default();
    let cast_without_fit = |mould: &mut Mould, number: u8| {
        mould.cast(&Block::new(format!("data: {{\"text\":\"a\",\"number\":{number}}}\n").as_bytes()));
    };
    (0..MISSES_MOST).for_each(|number| cast_without_fit(&mut mould, number));
    assert!(cast_next(&mut mould, MISSES_MOST), "the last one that is cast, and what fits begins anew");
    (0..=MISSES_MOST).for_each(|number| cast_without_fit(&mut mould, number));
    assert!(!cast_next(&mut mould, 0));
}

/// JSON out of pieces that look like texts and their names in places where they are none.
fn value(rng: &mut Rng, depth: u8) -> String {
    const STRINGS: [&str; 8] =
        ["content", "text", r#"\"content"#, r#"content\":\""#, r"\\", ": ", r#"x\"text\":\"y"#, "\u{e4}"];
    let string = |rng: &mut Rng| format!("\"{}{}\"", rng.choice(&STRINGS).unwrap(), rng.choice(&STRINGS).unwrap());
    let name = |rng: &mut Rng| format!("\"{}\"", rng.choice(&STRINGS).unwrap());
    let space = |rng: &mut Rng| if rng.bool() { " " } else { "" };
    match rng.u8(0..if depth == 0 { 3 } else { 5 }) {
        0 => string(rng),
        1 => name(rng),
        2 => (*rng.choice(&["null", "true", "-1.5e3", "0"]).unwrap()).to_owned(),
        3 => format!("[{},{}{}]", value(rng, depth - 1), space(rng), value(rng, depth - 1)),
        _ => format!("{{{}:{}{}}}", name(rng), space(rng), value(rng, depth - 1)),
    }
}

#[test]
fn a_walk_through_values_finds_none_that_fits_and_is_no_json() {
    const TEXTS: [&str; 9] = ["", "a", "\"", "\\", "\\\"", "\",\"b\":\"", "{}", "\n", "\u{e4}"];
    walks(|rng| {
        let (value, is_first) = (value(rng, 4), rng.bool());
        // With a text in front there is always something that fits; behind, it may be found in the value.
        let json = match is_first {
            true => format!(r#"{{"content":"","value":{value}}}"#),
            false => format!(r#"{{"value":{value},"content":""}}"#),
        };
        serde_json::from_str::<&RawValue>(&json).unwrap();
        let mut mould = cast(&json);
        let (before, after) = mould.bytes.split_at(mould.at);
        let events = TEXTS.map(|text| [before, text.as_bytes(), after].concat());
        let mut fitted = 0;
        for event in events {
            if let Some(casting) = mould.fits(&event) {
                fitted += 1;
                serde_json::from_slice::<&RawValue>(&event[casting.payload])
                    .unwrap_or_else(|error| panic!("{error}: {} after {json}", String::from_utf8_lossy(&event)));
            }
        }
        assert!(!is_first || fitted == 4, "{fitted} fit into {json}");
    });
}
