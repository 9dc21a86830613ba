//! How streams end, which events pass, and what is taken out of them.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::call::Op;
use crate::sse::{Splitter, TooLong};

const TOKEN: &str = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE_CHUNK: &str = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}"#;

fn call(body: &str) -> Call {
    Call::parse(Op::ChatCompletions, Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

fn watch() -> Watch {
    Watch::new(&call(r#"{"model":"m","stream":true}"#), false)
}

fn stripping_watch() -> Watch {
    Watch::new(&call(r#"{"model":"m","stream":true}"#), true)
}

fn watch_n(n: u32) -> Watch {
    Watch::new(&call(&format!(r#"{{"model":"m","stream":true,"n":{n}}}"#)), false)
}

/// Sends one `data` event for each payload and returns what is forwarded.
fn send(watch: &mut Watch, payloads: &[&str]) -> String {
    let stream: String = payloads.iter().map(|payload| format!("data: {payload}\n\n")).collect();
    send_raw(watch, &stream)
}

fn send_raw(watch: &mut Watch, stream: &str) -> String {
    let forwarded = Splitter::new(100_000).scan_for(Bytes::copy_from_slice(stream.as_bytes()), watch);
    String::from_utf8(forwarded.unwrap().to_vec()).unwrap()
}

fn failure(watch: &Watch) -> BackendError {
    match watch.ending() {
        Ending::Failed(error) => error,
        other => panic!("not failed but {other:?}"),
    }
}

fn choice(index: u32, reason: &str) -> String {
    format!(r#"{{"choices":[{{"index":{index},"delta":{{}},"finish_reason":{reason}}}]}}"#)
}

// --- endings

#[test]
fn what_only_begins_with_done_is_the_end_as_clients_see_it() {
    // openai-python and openai-node stop at any payload that begins so: forwarded early, it would hide a truncation.
    for done in ["[DONE]", "[DONE] ", "[DONE]\u{b}", "[DONE]{}"] {
        let mut cut = watch();
        assert!(!send(&mut cut, &[TOKEN, done]).contains("DONE"), "{done:?}");
        assert_eq!(cut.ending(), Ending::Truncated);
        let mut complete = watch();
        assert_eq!(send(&mut complete, &[STOP, done]).trim_end().lines().last().unwrap().trim(), "data: [DONE]");
        assert_eq!(complete.ending(), Ending::Complete { done_seen: true });
    }
}

#[test]
fn a_stream_without_a_finish_reason_is_truncated() {
    assert_eq!(watch().ending(), Ending::Truncated);
    let mut watch = watch();
    send(&mut watch, &[TOKEN, TOKEN]);
    assert_eq!((watch.ending(), watch.events()), (Ending::Truncated, 2));
}

#[test]
fn done_without_a_finish_reason_is_truncated_and_not_forwarded() {
    let mut watch = watch();
    assert_eq!(send(&mut watch, &[TOKEN, "[DONE]"]), format!("data: {TOKEN}\n\n"));
    assert_eq!(watch.ending(), Ending::Truncated);
    assert!(watch.done_seen());
}

#[test]
fn an_error_is_a_failure_even_when_done_follows() {
    let mut watch = watch();
    let error = r#"{"error":{"message":"out of memory","type":"server_error","param":null,"code":500}}"#;
    assert_eq!(send(&mut watch, &[TOKEN, error, STOP, "[DONE]"]), format!("data: {TOKEN}\n\n"));
    let error = failure(&watch);
    assert_eq!((error.message.as_str(), error.status()), ("out of memory", Some(500)));
    assert!(!watch.done_seen());
}

#[test]
fn an_error_after_the_finish_is_still_a_failure() {
    let mut watch = watch();
    send(&mut watch, &[STOP, r#"{"error":{"message":"late"}}"#]);
    assert_eq!(failure(&watch).message, "late");
}

#[test]
fn every_form_of_error_is_seen_in_a_stream() {
    for (stream, message) in [
        ("data: {\"object\":\"error\",\"message\":\"old vllm\",\"code\":400}\n\n", "old vllm"),
        ("data: {\"error\" : {\"code\":500,\"message\":\"llama\",\"type\":\"server_error\"}}\n\n", "llama"),
        ("data:{\"error\":\"tgi\",\"error_type\":\"generation\"}\n\n", "tgi"),
        ("error: {\"code\":500,\"message\":\"old llama\",\"type\":\"server_error\"}\n\n", "old llama"),
        ("error: plain\n\n", "plain"),
        ("event: error\ndata: {\"error\":{\"message\":\"named\"}}\n\n", "named"),
        ("event: error\ndata: {\"message\":\"bare\"}\n\n", "bare"),
        ("data: text only\nevent: error\n\n", "text only"),
        ("event: error\n\n", "the backend reported an error without a message"),
        ("data: {\"choices\":[],\ndata: \"error\":{\"message\":\"two lines\"}}\n\n", "two lines"),
    ] {
        let mut watch = watch();
        assert_eq!(send_raw(&mut watch, stream), "", "{stream}");
        assert_eq!(failure(&watch).message, message, "{stream}");
    }
}

#[test]
fn a_finish_reason_then_the_end_is_complete() {
    let mut watch = watch();
    assert_eq!(send(&mut watch, &[TOKEN, STOP]), format!("data: {TOKEN}\n\ndata: {STOP}\n\n"));
    assert_eq!(watch.ending(), Ending::Complete { done_seen: false });
    assert_eq!(send(&mut watch, &["[DONE]"]), "data: [DONE]\n\n");
    assert_eq!(watch.ending(), Ending::Complete { done_seen: true });
    assert_eq!(watch.finish_reason(), Some("stop"));
}

#[test]
fn nothing_passes_after_done() {
    let mut watch = watch();
    assert_eq!(send(&mut watch, &[STOP, "[DONE]", TOKEN]), format!("data: {STOP}\n\ndata: [DONE]\n\n"));
}

#[test]
fn a_finish_reason_is_seen_however_it_is_written() {
    for data in [
        r#"{"choices":[{"finish_reason" : "length"}]}"#,
        r#"{"choices":[{"index":0,"finish_reason":"\u006cength","delta":{}}],"usage":null}"#,
        r#"{"choices":[{"finish_reason":"length","delta":{"content":"\"finish_reason\":null"}}]}"#,
    ] {
        let mut watch = watch();
        send(&mut watch, &[data]);
        assert_eq!(watch.finish_reason(), Some("length"), "{data}");
        assert_eq!(watch.ending(), Ending::Complete { done_seen: false }, "{data}");
    }
}

#[test]
fn generated_text_and_empty_reasons_end_nothing() {
    for data in [
        r#"{"choices":[{"delta":{"content":"\"finish_reason\":\"stop\""},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"content":"finish_reason"},"finish_reason":""}]}"#,
        r#"{"choices":[{"delta":{"content":"error"},"finish_reason": null}]}"#,
        r#"{"choices":[{"delta":{"content":"{\"error\":{\"message\":\"x\"}}"},"finish_reason":null}],"error":null}"#,
        r#"{"choices":[{"delta":{},"meta":{"finish_reason":"stop"},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"content":"usage"}}]}"#,
        "not json \"finish_reason\":1",
    ] {
        let mut watch = watch();
        assert_eq!(send(&mut watch, &[data]), format!("data: {data}\n\n"));
        assert_eq!((watch.ending(), watch.events()), (Ending::Truncated, 1), "{data}");
    }
}

#[test]
fn blocks_without_a_payload_are_dropped() {
    let mut watch = watch();
    assert_eq!(
        send_raw(&mut watch, "retry: 3000\n\nid: 1\n\ndata:\n\nevent: ping\n\ndata: x [DONE]\n\n"),
        "data: x [DONE]\n\n"
    );
    assert_eq!(watch.events(), 1);
}

// --- several choices

#[test]
fn several_choices_are_complete_when_each_is_finished() {
    let mut watch = watch_n(2);
    send(&mut watch, &[&choice(0, "null"), &choice(1, "null"), &choice(1, "\"stop\"")]);
    assert_eq!(watch.ending(), Ending::Truncated);
    send(&mut watch, &[&choice(0, "\"length\"")]);
    assert_eq!(watch.ending(), Ending::Complete { done_seen: false });
    assert_eq!(watch.events(), 4);
}

#[test]
fn a_choice_that_never_came_is_missed_unless_the_backend_says_done() {
    let mut watch = watch_n(2);
    send(&mut watch, &[&choice(0, "\"stop\"")]);
    assert_eq!(watch.ending(), Ending::Truncated);
    assert_eq!(send(&mut watch, &["[DONE]"]), "data: [DONE]\n\n");
    assert_eq!(watch.ending(), Ending::Complete { done_seen: true });
}

#[test]
fn done_does_not_excuse_a_choice_that_broke_off() {
    let mut watch = watch_n(2);
    assert_eq!(send(&mut watch, &[&choice(0, "\"stop\""), &choice(1, "null"), "[DONE]"]).matches("DONE").count(), 0);
    assert_eq!(watch.ending(), Ending::Truncated);
}

#[test]
fn an_unknown_number_of_choices_is_complete_when_all_seen_are_finished() {
    let call = Call::parse(Op::Completions, Bytes::from_static(br#"{"model":"m","prompt":{},"stream":true}"#)).unwrap();
    let mut watch = Watch::new(&call, false);
    assert_eq!(watch.ending(), Ending::Truncated);
    send(&mut watch, &[&choice(0, "\"stop\""), &choice(7, "null")]);
    assert_eq!(watch.ending(), Ending::Truncated);
    send(&mut watch, &[&choice(7, "\"stop\"")]);
    assert_eq!(watch.ending(), Ending::Complete { done_seen: false });
}

#[test]
fn invented_choice_indexes_take_bounded_memory() {
    let mut watch = watch_n(2);
    for index in 0..5_000 {
        send(&mut watch, &[&choice(index, "\"stop\"")]);
    }
    let Choices::Many { finished, .. } = &watch.choices else { panic!("one choice") };
    assert_eq!(finished.len(), CHOICES_MAX);
}

// --- usage

#[test]
fn usage_that_the_client_asked_for_passes_untouched() {
    let mut watch = Watch::new(&call(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#), true);
    let with_null = r#"{"choices":[{"index":0,"delta":{},"finish_reason":null}],"usage":null}"#;
    let sent = [with_null, STOP, USAGE_CHUNK, "[DONE]"];
    let expected: String = sent.iter().map(|data| format!("data: {data}\n\n")).collect();
    assert_eq!(send(&mut watch, &sent), expected);
    assert_eq!(watch.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 5 }));
    assert_eq!(watch.events(), 2);
}

#[test]
fn usage_that_nobody_asked_for_passes_untouched_too() {
    let mut watch = watch();
    assert_eq!(send(&mut watch, &[USAGE_CHUNK]), format!("data: {USAGE_CHUNK}\n\n"));
    assert!(watch.usage().is_some());
}

#[test]
fn usage_that_we_asked_for_is_noted_and_taken_out() {
    let mut watch = stripping_watch();
    assert_eq!(send(&mut watch, &[TOKEN, STOP, USAGE_CHUNK]), format!("data: {TOKEN}\n\ndata: {STOP}\n\n"));
    assert_eq!(watch.usage(), Some(Usage { prompt_tokens: 3, completion_tokens: 5 }));
}

#[test]
fn a_usage_member_is_cut_out_of_an_event_with_content() {
    for (before, after) in [
        (r#"{"choices":[{"index":0}],"usage":null}"#, r#"{"choices":[{"index":0}]}"#),
        (r#"{"usage": null , "choices":[{"index":0}]}"#, r#"{ "choices":[{"index":0}]}"#),
        (r#"{"choices":[{"index":0}], "usage" : {"prompt_tokens":1},"x":2}"#, r#"{"choices":[{"index":0}], "x":2}"#),
        (r#"{ "usage":null }"#, r#"{ }"#),
        (r#"{"choices":[],"usage":null,"prompt_filter_results":[]}"#, r#"{"choices":[],"prompt_filter_results":[]}"#),
    ] {
        let mut watch = stripping_watch();
        let cut = send(&mut watch, &[before]);
        assert_eq!(cut.replace(" }", "}"), format!("data: {after}\n\n").replace(" }", "}"), "{before}");
        assert_eq!(watch.events(), 1);
    }
}

#[test]
fn usage_in_the_event_that_finishes_is_noted_and_the_event_kept() {
    let mut watch = stripping_watch();
    let last = r#"{"choices":[{"index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    let kept = r#"{"choices":[{"index":0,"finish_reason":"stop"}]}"#;
    assert_eq!(send(&mut watch, &[last]), format!("data: {kept}\n\n"));
    assert_eq!(watch.usage(), Some(Usage { prompt_tokens: 1, completion_tokens: 2 }));
    assert_eq!(watch.ending(), Ending::Complete { done_seen: false });
}

#[test]
fn cutting_keeps_the_other_lines_and_the_line_ends() {
    let mut watch = stripping_watch();
    let cut = send_raw(&mut watch, "id: 1\r\ndata: {\"choices\":[{}],\"usage\":null}\r\n: c\r\n\r\n");
    assert_eq!(cut, "id: 1\r\ndata: {\"choices\":[{}]}\r\n: c\r\n\r\n");
    let cut = send_raw(&mut watch, "data: {\"choices\":[{}],\ndata: \"usage\":null}\n\n");
    assert_eq!(cut, "data: {\"choices\":[{}]}\n\n");
}

#[test]
fn the_last_sane_usage_counts() {
    let mut watch = watch();
    let usage =
        |tokens: &str| format!(r#"{{"choices":[{{}}],"usage":{{"prompt_tokens":1,"completion_tokens":{tokens}}}}}"#);
    send(&mut watch, &[&usage("1"), &usage("2"), &usage("-5"), &usage("1e99")]);
    assert_eq!(watch.usage(), Some(Usage { prompt_tokens: 1, completion_tokens: 2 }));
}

// --- any bytes

proptest! {
    #[test]
    fn a_stripped_event_is_the_same_json_without_its_usage(
        text in ".*",
        usage in prop_oneof![Just(json!(null)), Just(json!({"prompt_tokens": 1})), Just(json!([1, "}"]))],
        before in prop::collection::btree_map("[a-t]{1,5}", ".*", 0..3),
        after in prop::collection::btree_map("[v-z]{1,5}", ".*", 0..3),
        pretty: bool,
    ) {
        let mut chunk: serde_json::Map<String, Value> =
            before.into_iter().chain(after).map(|(key, value)| (key, value.into())).collect();
        chunk.insert("choices".into(), json!([{"index": 0, "delta": {"content": text}}]));
        let expected = Value::from(chunk.clone());
        chunk.insert("usage".into(), usage);
        let json = if pretty { serde_json::to_string_pretty(&chunk) } else { serde_json::to_string(&chunk) }.unwrap();
        let stream = format!("data: {}\n\n", json.replace('\n', "\ndata: "));
        let sent = send_raw(&mut stripping_watch(), &stream);
        let sent: Value = serde_json::from_str(sent.strip_prefix("data: ").unwrap()).unwrap();
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn no_bytes_upset_the_watch(
        parts in prop::collection::vec(prop_oneof![
            Just("\"finish_reason\"".to_owned()), Just("\"usage\"".to_owned()), Just("\"error\"".to_owned()),
            Just(":".to_owned()), Just("null".to_owned()), Just("{\"choices\":[".to_owned()), Just("}".to_owned()),
            Just("data: ".to_owned()), Just("event: error\n".to_owned()), Just("\n".to_owned()), ".{0,5}",
        ], 0..30),
    ) {
        for mut watch in [watch(), stripping_watch(), watch_n(3)] {
            watch.event(&Block::new(parts.concat().as_bytes()));
            watch.ending();
        }
    }
}

// --- tokens

#[test]
fn a_role_a_finish_a_usage_and_done_are_no_tokens() {
    let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let mut watch = watch();
    send(&mut watch, &[role, TOKEN, TOKEN, STOP, USAGE_CHUNK, "[DONE]"]);
    assert_eq!((watch.tokens(), watch.events()), (2, 4));
}

#[test]
fn whatever_a_model_puts_out_is_a_token_also_with_the_role_or_the_finish_in_the_same_event() {
    let with = |members: &str, reason: &str| {
        format!(r#"{{"choices":[{{"index":0,"delta":{{"role":"assistant",{members}}},"finish_reason":{reason}}}]}}"#)
    };
    for members in [r#""content":"x""#, r#""reasoning_content":"x""#, r#""content":null,"tool_calls":[{"index":0}]"#] {
        let mut watch = watch();
        send(&mut watch, &[&with(members, "null"), &with(members, r#""stop""#)]);
        assert_eq!(watch.tokens(), 2, "{members}");
    }
    let mut watch = watch();
    send(
        &mut watch,
        &[r#"{"choices":[{"index":0,"text":"x"}]}"#, r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#],
    );
    assert_eq!(watch.tokens(), 1, "of a completion");
}

#[test]
fn tokens_of_several_choices_are_counted_each() {
    let both = r#"{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#;
    let mut watch = watch_n(2);
    send(&mut watch, &[both, both]);
    assert_eq!(watch.tokens(), 4);
}

// --- known events

/// What a watch says of a stream that comes in two pieces.
fn watched(stripping: bool, stream: &str, cut: usize, scan: Scan) -> (Vec<u8>, Ending, Option<Usage>, u64, u64) {
    let mut watch = if stripping { stripping_watch() } else { watch() };
    let (mut splitter, mut forwarded) = (Splitter::new(100_000), Vec::new());
    for piece in [&stream[..cut], &stream[cut..]] {
        forwarded.extend(scan(&mut splitter, &mut watch, Bytes::copy_from_slice(piece.as_bytes())).unwrap());
    }
    (forwarded, watch.ending(), watch.usage(), watch.tokens(), watch.events())
}

type Scan = fn(&mut Splitter, &mut Watch, Bytes) -> Result<Bytes, TooLong>;

#[test]
fn a_walk_through_streams_says_the_same_of_events_that_are_known_and_of_those_that_are_not() {
    const FORMS: [&str; 7] = [
        r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"index":0,"text":"TEXT","logprobs":{"usage":["content","x"]}}]}"#,
        r#"{"object":"TEXT","content":"TEXT","choices":[{"index":0,"delta":{"reasoning_content":"TEXT"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":"stop"}]}"#,
        r#"{"error":{"message":"TEXT","text":"TEXT"}}"#,
        "[DONE]TEXT",
    ];
    const TEXTS: [&str; 9] =
        ["", "a", "error", "usage", "finish_reason", "[DONE]", r"a\n", r#"\",\"usage\":null}"#, "\u{e4} and more"];
    const ENDS: [&str; 6] = ["\n\n", "\n\n", "\n\n", "\r\n\r\n", "\r\r", "\n\r\n"];
    ntonix_fuzz::walks(|rng| {
        let most = if rng.bool() { 4 } else { FORMS.len() };
        let mut stream = String::new();
        for _ in 0..rng.usize(1..12) {
            let form = FORMS[rng.usize(0..most)];
            for _ in 0..rng.usize(1..4) {
                let text = rng.choice(&TEXTS).unwrap();
                stream += &format!("data: {}{}", form.replace("TEXT", text), rng.choice(&ENDS).unwrap());
            }
        }
        let mut cut = rng.usize(0..=stream.len());
        cut = (cut..=stream.len()).find(|at| stream.is_char_boundary(*at)).unwrap();
        let stripping = rng.bool();
        let known = watched(stripping, &stream, cut, |splitter, watch, piece| splitter.scan_for(piece, watch));
        let one_by_one = watched(stripping, &stream, cut, |splitter, watch, piece| {
            splitter.scan(piece, &mut |block| watch.event(&block))
        });
        assert_eq!(known, one_by_one, "of {stream:?}, cut at {cut}");
    });
}

#[test]
fn tokens_that_are_like_one_before_are_known_with_and_without_a_usage_that_is_null() {
    let token = |usage: &str| format!("data: {}{usage}}}\n\n", &TOKEN[..TOKEN.len() - 1]);
    for (mut watch, usage, kept) in [
        (watch(), r#","usage":null"#, r#","usage":null"#),
        (stripping_watch(), r#","usage":null"#, ""),
        (stripping_watch(), "", ""),
    ] {
        send_raw(&mut watch, &token(usage).repeat(2));
        let event = token(usage).replace("\"x\"", "\"yz\"");
        let Skimmed { length, without } = watch.skim(event.as_bytes()).unwrap();
        assert_eq!(length, event.len());
        let rest = [&event[..without.start], &event[without.end..]].concat();
        assert_eq!(rest, token(kept).replace("\"x\"", "\"yz\""));
        assert_eq!(watch.tokens(), 3);
        send(&mut watch, &[STOP, "[DONE]"]);
        assert_eq!(watch.skim(event.as_bytes()), None, "nothing comes after the end");
    }
}
