//! Cuts what a relay passes on into the objects of its events, and sees that each is JSON.

use std::collections::VecDeque;

use bytes::Bytes;
use memchr::{memchr2, memmem};
use ntonix_llm::sse::{Block, Keep, Splitter};
use serde_json::value::RawValue;

use crate::refusal::{Kind, Refusal};

/// What follows a text's name: a key ends in it, whatever stands before.
const TEXTS: [&[u8]; 2] = [br#"content":"#, br#"text":"#];

/// What an event may hold beside its text to be a mould for others.
const MOULD_MOST: usize = 1024;

/// The cutter of one stream.
#[derive(Debug)]
pub(super) struct Cutter {
    splitter: Splitter,
    mould: Mould,
}

/// An event that was parsed, but for the text in it. Whatever differs from it in the text alone is JSON too: of the next
/// events of its stream few are parsed, and parsing took 2,800 of 9,800 instructions per token.
#[derive(Debug, Default)]
struct Mould {
    bytes: Vec<u8>,
    /// Where the text stood; 0: nothing fits.
    at: usize,
}

// === impl Cutter ===

impl Cutter {
    /// A cutter of events of up to `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { splitter: Splitter::new(most), mould: Mould::default() }
    }

    /// Adds the objects of the events in `bytes` to `events`. `[DONE]` is the end of the body, not an event.
    ///
    /// # Errors
    /// When an event is too large or is not JSON; those before it were added.
    pub(super) fn cut(&mut self, bytes: Bytes, events: &mut VecDeque<Bytes>) -> Result<(), Refusal> {
        let Self { splitter, mould } = self;
        let mut fault = None;
        let source = bytes.clone();
        let scanned = splitter.scan(bytes, &mut |block: Block<'_>| {
            let data = block.data();
            if mould.fits(&data) {
                events.push_back(part_of(&source, &data));
            } else if data.trim_ascii() != b"[DONE]" {
                match object(&data) {
                    Ok(object) => {
                        mould.cast(object);
                        events.push_back(part_of(&source, object));
                    }
                    Err(refusal) => fault = Some(refusal),
                }
            }
            if fault.is_some() { Keep::Stop } else { Keep::Drop }
        });
        match (fault, scanned) {
            (Some(refusal), _) => Err(refusal),
            (None, Ok(_)) => Ok(()),
            (None, Err(too_long)) => {
                let refusal = Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is too large");
                Err(refusal.because(too_long))
            }
        }
    }
}

// === impl Mould ===

impl Mould {
    /// Is it the event that was cast, with this or that text in it?
    fn fits(&self, data: &[u8]) -> bool {
        let (before, after) = self.bytes.split_at(self.at);
        self.at > 0 && data.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(is_plain)
    }

    /// Takes the form of a JSON value, if it has a text and is not large without it.
    fn cast(&mut self, json: &[u8]) {
        self.bytes.clear();
        self.at = 0;
        let Some((start, end)) = TEXTS.iter().find_map(|name| text_after(name, json)) else { return };
        if json.len() - (end - start) > MOULD_MOST {
            return;
        }
        self.bytes.extend_from_slice(&json[..start]);
        self.bytes.extend_from_slice(&json[end..]);
        self.at = start;
    }
}

/// Where the first text begins and ends that follows `name`, without its quotes. In JSON a quote after a letter closes a
/// string, and one that a colon follows closes a key: the next quote opens a value.
fn text_after(name: &[u8], json: &[u8]) -> Option<(usize, usize)> {
    let start = memmem::find_iter(json, name).find_map(|at| {
        let value = &json[at + name.len()..];
        let text = value.trim_ascii_start().strip_prefix(b"\"")?;
        Some(json.len() - text.len())
    })?;
    let mut end = start;
    loop {
        end += memchr2(b'"', b'\\', &json[end..])?;
        if json[end] == b'"' {
            return Some((start, end));
        }
        // The backslash, and what it escapes.
        end += 2;
    }
}

/// May it stand between quotes as it is? (RFC 8259 §7; what is escaped is looked at by the parser.)
fn is_plain(text: &[u8]) -> bool {
    // All of it without a way out: so it is compared many bytes at a time.
    let has_special =
        text.iter().fold(false, |found, byte| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\'));
    !has_special && std::str::from_utf8(text).is_ok()
}

/// The bytes of `part`, not copied when they lie in `source`, as those of nearly every event do.
fn part_of(source: &Bytes, part: &[u8]) -> Bytes {
    let (all, wanted) = (source.as_ptr_range(), part.as_ptr_range());
    if all.start <= wanted.start && wanted.end <= all.end {
        return source.slice_ref(part);
    }
    Bytes::copy_from_slice(part)
}

/// A frame is JSON: what a backend says must be, before it is put into one.
///
/// # Errors
/// When it is not.
pub(super) fn object(data: &[u8]) -> Result<&[u8], Refusal> {
    match serde_json::from_slice::<&RawValue>(data) {
        Ok(object) => Ok(object.get().as_bytes()),
        Err(error) => {
            Err(Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is not JSON").because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use ntonix_fuzz::{Rng, walks};

    use super::*;

    fn cut(cutter: &mut Cutter, bytes: &str) -> Result<Vec<String>, Refusal> {
        let mut events = VecDeque::new();
        cutter.cut(Bytes::copy_from_slice(bytes.as_bytes()), &mut events)?;
        Ok(events.into_iter().map(|event| String::from_utf8(event.into()).unwrap()).collect())
    }

    fn cast(json: &str) -> Mould {
        let mut mould = Mould::default();
        mould.cast(json.as_bytes());
        mould
    }

    #[test]
    fn objects_come_as_they_are_from_one_line_and_from_several() {
        let mut cutter = Cutter::new(1000);
        let bytes =
            "data: {\"text\":\"a\"}\n\ndata:{\"text\":\"b\"} \n\ndata: {\"text\":\ndata: \"c\"}\n\ndata: [DONE]\n\n";
        assert_eq!(cut(&mut cutter, bytes).unwrap(), [r#"{"text":"a"}"#, r#"{"text":"b"}"#, "{\"text\":\n\"c\"}"]);
    }

    #[test]
    fn what_is_no_json_is_refused_however_much_it_is_like_what_went_before() {
        for text in ["\"", "\\", "\\u12", "\t", "\u{7}", "\"}", "\",\"a\":1"] {
            let mut cutter = Cutter::new(1000);
            assert_eq!(cut(&mut cutter, "data: {\"text\":\"a\"}\n\n").unwrap().len(), 1);
            let is_json = serde_json::from_str::<&RawValue>(&format!("{{\"text\":\"{text}\"}}")).is_ok();
            assert_eq!(cut(&mut cutter, &format!("data: {{\"text\":\"{text}\"}}\n\n")).is_ok(), is_json, "{text:?}");
        }
        let mut cutter = Cutter::new(1000);
        cut(&mut cutter, "data: {\"text\":\"a\"}\n\n").unwrap();
        let broken = Bytes::from_static(b"data: {\"text\":\"\xff\"}\n\n");
        assert!(cutter.cut(broken, &mut VecDeque::new()).is_err(), "it is no UTF-8");
    }

    #[test]
    fn an_event_with_another_text_is_not_parsed_again() {
        let mould = cast(r#"{"id":1,"choices":[{"delta":{"role":"assistant","content": "a\"b"},"index":0}]}"#);
        let with = |text: &str| {
            let event = r#"{"id":1,"choices":[{"delta":{"role":"assistant","content": "TEXT"},"index":0}]}"#;
            mould.fits(event.replace("TEXT", text).as_bytes())
        };
        assert!(with("") && with("c") && with("größer, ja") && with("a longer text than the one before"));
        assert!(!with("\\n") && !with("\"") && !with("\n"));
        assert!(!mould.fits(br#"{"id":2,"choices":[{"delta":{"role":"assistant","content": "c"},"index":0}]}"#));
        assert!(!mould.fits(br#"{"id":1,"choices":[{"delta":{"role":"assistant","content": "#), "half of it");
        assert!(
            cast(r#"{"content":null,"reasoning_content":"a"}"#).fits(br#"{"content":null,"reasoning_content":"b"}"#)
        );
        assert!(!cast(r#"{"a":"content"}"#).fits(br#"{"a":"content"}"#), "there is no text");
        assert!(!Mould::default().fits(b""));
        let large = format!(r#"{{"text":"a","logprobs":"{}"}}"#, "x".repeat(MOULD_MOST));
        assert!(!cast(&large).fits(large.as_bytes()), "it would be kept as long as its stream");
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
        let mut fitted = 0;
        walks(|rng| {
            let json = value(rng, 4);
            serde_json::from_str::<&RawValue>(&json).unwrap();
            let mould = cast(&json);
            let (before, after) = mould.bytes.split_at(mould.at);
            for text in TEXTS {
                let event = [before, text.as_bytes(), after].concat();
                if mould.fits(&event) {
                    fitted += 1;
                    serde_json::from_slice::<&RawValue>(&event)
                        .unwrap_or_else(|error| panic!("{error}: {} after {json}", String::from_utf8_lossy(&event)));
                }
            }
        });
        // Some hundred are, more or less: every walk is another one.
        assert!(fitted > 20, "only {fitted} were alike");
    }
}
