//! Whatever bytes come from a client or a backend, as they are kept in `corpus/` and as they come out of mutations.

use bytes::Bytes;
use ntonix_fuzz::fuzz;
use serde_json::Value;

use crate::{
    BackendError, Block, Call, Decoder, Ending, Event, Keep, Op, Splitter, TooLong, Usage, Watch, openai, reply,
};

const STREAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/stream");
const ERROR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/error");
const CALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/call");
/// Small, so that inputs reach it.
const LIMIT: usize = 512;
/// Sizes of the pieces in which a stream comes.
const PIECES: [usize; 4] = [usize::MAX, 1, 7, 64];

/// What a relay sends on, and what it knows in the end.
#[derive(Debug, PartialEq)]
struct Relayed {
    forwarded: Vec<u8>,
    ending: Ending,
    usage: Option<Usage>,
    finish_reason: Option<String>,
    events: u64,
    tokens: u64,
    is_too_long: bool,
}

fn relay(stream: &[u8], size: usize, body: &'static str, strips_usage: bool) -> Relayed {
    relay_by(stream, size, body, strips_usage, |splitter, watch, piece| splitter.scan_for(piece, watch))
}

/// The same without knowing any event again.
fn relay_one_by_one(stream: &[u8], size: usize, body: &'static str, strips_usage: bool) -> Relayed {
    relay_by(stream, size, body, strips_usage, |splitter, watch, piece| {
        splitter.scan(piece, &mut |block: Block<'_>| watch.event(&block))
    })
}

fn relay_by(
    stream: &[u8],
    size: usize,
    body: &'static str,
    strips_usage: bool,
    scan: impl Fn(&mut Splitter, &mut Watch, Bytes) -> Result<Bytes, TooLong>,
) -> Relayed {
    let call = Call::parse(Op::ChatCompletions, Bytes::from_static(body.as_bytes())).unwrap();
    let (mut splitter, mut watch) = (Splitter::new(LIMIT), Watch::new(&call, strips_usage));
    let (mut forwarded, mut is_too_long) = (Vec::new(), false);
    for piece in stream.chunks(size) {
        match scan(&mut splitter, &mut watch, Bytes::copy_from_slice(piece)) {
            Ok(bytes) => forwarded.extend(bytes),
            Err(too_long) => {
                forwarded.extend(too_long.before);
                is_too_long = true;
            }
        }
        assert!(splitter.pending() <= LIMIT, "it holds {} bytes", splitter.pending());
    }
    let finish_reason = watch.finish_reason().map(str::to_owned);
    let (ending, usage, events, tokens) = (watch.ending(), watch.usage(), watch.events(), watch.tokens());
    Relayed { forwarded, ending, usage, finish_reason, events, tokens, is_too_long }
}

fn decode(stream: &[u8], size: usize) -> (Vec<Event>, bool) {
    let mut decoder = Decoder::new(LIMIT);
    let mut events = Vec::new();
    for piece in stream.chunks(size) {
        let fed = decoder.feed(piece);
        events.extend(decoder.by_ref());
        if fed.is_err() {
            return (events, true);
        }
    }
    (events, false)
}

#[test]
fn fuzz_sse_decoding() {
    fuzz(STREAM, |stream| {
        let whole = decode(stream, usize::MAX);
        for size in PIECES {
            assert_eq!(decode(stream, size), whole, "in pieces of {size}");
        }
        // What goes through unchanged is read by a client as it was sent. A mark of the byte order further in would
        // come to stand at the beginning if all before it were taken out.
        let mut splitter = Splitter::new(LIMIT);
        let forwarded = splitter.scan(Bytes::copy_from_slice(stream), &mut |_: Block<'_>| Keep::Forward);
        if let Ok(forwarded) = forwarded
            && !stream.windows(3).skip(1).any(|window| window == b"\xEF\xBB\xBF")
            && !whole.1
        {
            assert_eq!(decode(&forwarded, usize::MAX).0, whole.0);
        }
    });
}

#[test]
fn fuzz_chunk_parsing_and_usage_reading() {
    const BODIES: [&str; 2] = [r#"{"model":"m","stream":true}"#, r#"{"model":"m","stream":true,"n":2}"#];
    fuzz(STREAM, |stream| {
        for (body, strips_usage) in BODIES.into_iter().flat_map(|body| [(body, false), (body, true)]) {
            let whole = relay(stream, usize::MAX, body, strips_usage);
            for size in PIECES {
                assert_eq!(relay(stream, size, body, strips_usage), whole, "in pieces of {size}");
                assert_eq!(
                    relay_one_by_one(stream, size, body, strips_usage),
                    whole,
                    "one by one, in pieces of {size}"
                );
            }
            let counted = whole.usage.unwrap_or_default();
            assert!(counted.prompt_tokens.max(counted.completion_tokens) <= 1_000_000_000);
            // What was sent on has passed once, and passes again as it is.
            let again = relay(&whole.forwarded, usize::MAX, body, strips_usage);
            assert!(again.is_too_long || again.forwarded == whole.forwarded, "{again:?}");
            if strips_usage {
                assert_eq!(again.usage, None, "usage that nobody asked for");
            }
            assert!(!matches!(again.ending, Ending::Failed(_)), "an error in the backend's own words");
            let is_success = matches!(whole.ending, Ending::Complete { .. });
            let claims_success = decode(&whole.forwarded, usize::MAX).0.iter().any(is_done);
            assert!(is_success || !claims_success, "a [DONE] that was not deserved");
        }
    });
}

/// As the clients of OpenAI see it.
fn is_done(event: &Event) -> bool {
    event.data.trim_start().starts_with("[DONE]")
}

#[test]
fn fuzz_error_normalising() {
    fuzz(ERROR, |body| {
        let usage = reply::usage_of(body).unwrap_or_default();
        assert!(usage.prompt_tokens.max(usage.completion_tokens) <= 1_000_000_000);
        assert!(reply::model_ids(body).is_none_or(|ids| ids.len() <= 10_000));
        let Some(error) = reply::backend_error(body) else { return };
        let BackendError { message, kind, code } = &error;
        assert!(!message.is_empty() && message.len() <= 2_000);
        assert!([kind, code].into_iter().flatten().all(|text| !text.is_empty() && text.len() <= 2_000));
        assert!(error.status().is_none_or(|status| (400..600).contains(&status)));
        // In our words it is one event, and whoever reads it reads the same.
        let (kind, code) = (kind.as_deref().unwrap_or("server_error"), code.as_deref().unwrap_or("backend_error"));
        let event = openai::error_event(message, kind, code, None, "req_1", false);
        let mut decoder = Decoder::new(64 * 1024);
        decoder.feed(&event).unwrap();
        let events: Vec<Event> = decoder.collect();
        assert_eq!(events.len(), 1);
        let again = reply::backend_error(events[0].data.as_bytes()).unwrap();
        assert_eq!((&again.message, again.kind.as_deref(), again.code.as_deref()), (message, Some(kind), Some(code)));
    });
}

/// The members of a body without those that the gateway may write.
fn others(body: &[u8]) -> Value {
    let mut body: Value = serde_json::from_slice(body).unwrap();
    let members = body.as_object_mut().unwrap();
    members.remove("model");
    if let Some(options) = members.remove("stream_options").filter(Value::is_object) {
        let mut options = options;
        options.as_object_mut().unwrap().remove("include_usage");
        members.insert("other options".to_owned(), options);
    }
    members.entry("other options").or_insert_with(|| Value::Object(Default::default()));
    body
}

#[test]
fn fuzz_call_parsing() {
    fuzz(CALL, |body| {
        for op in Op::ALL {
            let Ok(call) = Call::parse(op, Bytes::copy_from_slice(body)) else { continue };
            assert!((1..=256).contains(&call.model.chars().count()));
            assert_eq!(call.body_for(None, false), body, "it is sent as it came");
            let sent = call.body_for(Some("other \"one\""), true);
            let read = Call::parse(op, sent.clone()).unwrap();
            assert_eq!((read.model.as_str(), read.stream, read.choices), ("other \"one\"", call.stream, call.choices));
            assert_eq!(read.include_usage, call.include_usage || call.stream);
            // A number beyond any float is sent on as it is, and no value here.
            if serde_json::from_slice::<Value>(body).is_ok() {
                assert_eq!(others(&sent), others(body), "nothing else has changed");
            }
        }
    });
}
