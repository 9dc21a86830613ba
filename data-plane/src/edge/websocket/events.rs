//! Cuts what a relay passes on into the objects of its events, and sees that each is JSON.

use std::collections::VecDeque;

use bytes::Bytes;
use ntonix_llm::sse::{Block, Keep, Mould, Skimmed, Splitter, Visit};
use serde_json::value::RawValue;

use crate::refusal::{Kind, Refusal};

/// The cutter of one stream.
#[derive(Debug)]
pub(super) struct Cutter {
    splitter: Splitter,
    /// An event that was parsed: what is like it is JSON, too, and need not be. Few events of a stream are parsed.
    mould: Mould,
}

/// One piece of what a relay passes on.
struct Cut<'a> {
    mould: &'a mut Mould,
    source: Bytes,
    events: &'a mut VecDeque<Bytes>,
    fault: Option<Refusal>,
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
        let mut cut = Cut { mould: &mut self.mould, source: bytes.clone(), events, fault: None };
        let scanned = self.splitter.scan_for(bytes, &mut cut);
        match (cut.fault, scanned) {
            (Some(refusal), _) => Err(refusal),
            (None, Ok(_)) => Ok(()),
            (None, Err(too_long)) => {
                let refusal = Refusal::new(Kind::UpstreamProtocol, "the backend sent an event that is too large");
                Err(refusal.because(too_long))
            }
        }
    }
}

impl Visit for Cut<'_> {
    fn visit(&mut self, block: Block<'_>) -> Keep {
        let data = block.data();
        if data.trim_ascii() == b"[DONE]" {
            return Keep::Forward;
        }
        match object(&data) {
            Ok(object) => {
                self.mould.cast(&block);
                self.events.push_back(part_of(&self.source, object));
                // All of it is, which copies nothing; who reads it reads the objects alone.
                Keep::Forward
            }
            Err(refusal) => {
                self.fault = Some(refusal);
                Keep::Stop
            }
        }
    }

    fn skim(&mut self, bytes: &[u8]) -> Option<Skimmed> {
        let casting = self.mould.fits(bytes)?;
        self.events.push_back(self.source.slice_ref(&bytes[casting.payload]));
        Some(Skimmed { length: casting.length, without: 0..0 })
    }
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
    use super::*;

    fn cut(cutter: &mut Cutter, bytes: &str) -> Result<Vec<String>, Refusal> {
        let mut events = VecDeque::new();
        cutter.cut(Bytes::copy_from_slice(bytes.as_bytes()), &mut events)?;
        Ok(events.into_iter().map(|event| String::from_utf8(event.into()).unwrap()).collect())
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
    fn events_are_slices_of_what_came_whether_they_are_parsed_or_known() {
        let mut cutter = Cutter::new(1000);
        let bytes = Bytes::from_static(b"data: {\"text\":\"a\"}\n\ndata: {\"text\":\"bc\"}\n\ndata: {\"n\":1}\n\n");
        let mut events = VecDeque::new();
        cutter.cut(bytes.clone(), &mut events).unwrap();
        assert_eq!(events, [r#"{"text":"a"}"#, r#"{"text":"bc"}"#, r#"{"n":1}"#]);
        assert!(events.iter().all(|event| bytes.as_ptr_range().contains(&event.as_ptr())), "one was copied");
    }
}
