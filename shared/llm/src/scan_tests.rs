//! What is stepped over is what serde_json takes for JSON.

use std::fmt;

use ntonix_fuzz::fuzz;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

/// The members of an object as serde_json reads them.
struct Members<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            members.push((key, value.get()));
        }
        Ok(Members(members))
    }
}

fn agrees_with_serde_json(text: &str) {
    let mut seen = Vec::new();
    let outermost = members(text, |key, value| seen.push((key, value)));
    if outermost == Err(Unfit::TooDeep) {
        let opened = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
        return assert!(opened > DEPTH_MAX, "{text:?}");
    }
    assert_eq!(outermost.is_ok(), serde_json::from_str::<IgnoredAny>(text).is_ok(), "{text:?}");
    if outermost == Ok(Outermost::Object) {
        let named = seen.iter().map(|(key, value)| Some((serde_json::from_str::<String>(key).ok()?, *value)));
        let expected = serde_json::from_str::<Members<'_>>(text).ok().map(|members| members.0);
        assert_eq!(named.collect::<Option<Vec<_>>>(), expected, "{text:?}");
    }
}

/// Gives `check` every text of up to `most` of `parts`.
fn every(parts: &[&str], most: usize, check: &mut impl FnMut(&str)) {
    fn grow(text: &mut String, parts: &[&str], most: usize, check: &mut impl FnMut(&str)) {
        check(text);
        for part in parts.iter().filter(|_| most > 0) {
            text.push_str(part);
            grow(text, parts, most - 1, check);
            text.truncate(text.len() - part.len());
        }
    }
    grow(&mut String::new(), parts, most, check);
}

#[test]
fn every_short_text_is_what_serde_json_takes_it_for() {
    let parts = ["{", "}", "[", "]", "\"", ":", ",", "\\", "\n", "0", "u", "\"k\"", "ä", "true", "\u{1f}"];
    every(&parts, 4, &mut |text| {
        agrees_with_serde_json(text);
        agrees_with_serde_json(&format!("{{\"a\":{text}}}"));
        agrees_with_serde_json(&format!("[\"{text} is behind\"]"));
    });
    every(&["-", "+", ".", "e", "E", "0", "1", "9"], 5, &mut agrees_with_serde_json);
    every(&["\\", "u", "0", "aF", "g", "\\ud800", "\\/"], 5, &mut |text| {
        agrees_with_serde_json(&format!("{{\"{text}\":\"{text}\"}}"));
    });
    for literal in ["true", "false", "null"] {
        (0..literal.len()).for_each(|end| agrees_with_serde_json(&literal[..end]));
    }
}

#[test]
fn every_byte_counts_wherever_it_stands_among_the_eight() {
    for (place, byte) in (0..20).flat_map(|place| (0..0x80_u8).map(move |byte| (place, char::from(byte)))) {
        for neighbour in ["a", "#", "]", "ä", "\u{7f}", " "] {
            let before = neighbour.repeat(place);
            agrees_with_serde_json(&format!("\"{before}{byte}{}\"", neighbour.repeat(12)));
        }
    }
}

#[test]
fn fuzz_what_serde_json_takes_it_for() {
    fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/call"), |body| {
        agrees_with_serde_json(&String::from_utf8_lossy(body));
    });
}
