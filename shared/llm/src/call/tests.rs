//! What bodies are refused and why, what is read out of the others, and how they are re-written.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn chat(body: &str) -> Result<Call, CallFault> {
    Call::parse(Op::ChatCompletions, Bytes::copy_from_slice(body.as_bytes()))
}

fn fault(op: Op, body: impl AsRef<[u8]>) -> (&'static str, String, Option<&'static str>) {
    let CallFault { code, message, param } = Call::parse(op, Bytes::copy_from_slice(body.as_ref())).unwrap_err();
    (code, message, param)
}

fn chat_fault(body: impl AsRef<[u8]>) -> (&'static str, String, Option<&'static str>) {
    fault(Op::ChatCompletions, body)
}

#[test]
fn what_is_no_json_is_told_with_its_place() {
    for (body, told) in [
        ("", "the body is empty"),
        (" \n ", "the body is empty"),
        ("hello", "line 1 column 1"),
        (r#"{"model":"m""#, "EOF while parsing"),
        (r#"{"model":"m"} x"#, "trailing characters at line 1 column 15"),
        ("{\"model\":\"m\",\"x\":\"\u{1}\"}", "control character"),
        ("{\"model\":\"m\",}", "trailing comma"),
        ("\u{FEFF}{\"model\":\"m\"}", "line 1 column 1"),
        ("[1,", "EOF while parsing a value at line 1 column 3"),
        ("{\"model\":\"m\",\n\"\\ud800\":1}", "line 2 column 8"),
    ] {
        let (code, message, param) = chat_fault(body);
        assert_eq!((code, param), ("invalid_json", None), "{body}");
        assert!(message.contains(told), "{body}: {message}");
    }
    assert_eq!(chat_fault(b"{\"model\":\"\xFF\"}"), ("invalid_json", "the body is not UTF-8".to_owned(), None));
}

#[test]
fn what_is_no_object_is_refused_without_repeating_it() {
    for body in ["[]", "\"secret\"", "1", "true", "null", " [{\"model\":\"m\"}]"] {
        let told = "the body cannot be used: it is not a JSON object".to_owned();
        assert_eq!(chat_fault(body), ("bad_request", told, None));
    }
}

#[test]
fn depth_64_is_read_and_65_is_refused() {
    let nested = |levels: usize| format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(chat(&nested(63)).is_ok());
    let (code, message, _) = chat_fault(nested(64));
    assert_eq!(
        (code, message.as_str()),
        ("bad_request", "the body cannot be used: it is nested deeper than 64 levels")
    );
}

#[test]
fn a_hundred_thousand_levels_do_not_overflow_the_stack() {
    assert_eq!(chat_fault("[".repeat(100_000)).0, "bad_request");
    assert_eq!(chat_fault(format!(r#"{{"model":"m","x":{}"#, r#"{"y":"#.repeat(100_000))).0, "bad_request");
}

#[test]
fn brackets_inside_strings_are_no_levels() {
    let body = format!(r#"{{"model":"m","x":"{}\"{}\\"}}"#, "[".repeat(100), "{".repeat(100));
    assert!(chat(&body).is_ok());
}

#[test]
fn a_repeated_member_is_refused() {
    for body in [r#"{"model":"a","model":"b"}"#, r#"{"model":"a","\u006dodel":"b"}"#, r#"{"model":"a","x":1,"x":1}"#] {
        let (code, message, _) = chat_fault(body);
        assert_eq!(code, "bad_request");
        assert!(message.contains("is there twice"), "{message}");
    }
    let (_, message, _) = chat_fault(format!(r#"{{"model":"a","{0}":1,"{0}":1}}"#, "ä".repeat(10_000)));
    assert!(message.len() < 200, "{message}");
}

#[test]
fn members_of_the_wrong_kind_are_named() {
    for (body, param, told) in [
        (r#"{"x":1}"#, "model", "`model` is missing; GET /v1/models lists the names"),
        (r#"{"model":null}"#, "model", "`model` must be a string"),
        (r#"{"model":""}"#, "model", "`model` is empty; GET /v1/models lists the names"),
        (r#"{"model":"m","stream":1}"#, "stream", "`stream` must be true or false"),
        (r#"{"model":"m","stream":"true"}"#, "stream", "`stream` must be true or false"),
        (r#"{"model":"m","n":0}"#, "n", "`n` must be a whole number from 1 to 128"),
        (r#"{"model":"m","n":129}"#, "n", "`n` must be a whole number from 1 to 128"),
        (r#"{"model":"m","n":1.5}"#, "n", "`n` must be a whole number from 1 to 128"),
        (r#"{"model":"m","n":"2"}"#, "n", "`n` must be a whole number from 1 to 128"),
        (r#"{"model":"m","stream_options":[]}"#, "stream_options", "`stream_options` must be an object"),
        (
            r#"{"model":"m","stream_options":{"include_usage":1}}"#,
            "stream_options.include_usage",
            "`stream_options.include_usage` must be true or false",
        ),
    ] {
        assert_eq!(chat_fault(body), ("bad_request", told.to_owned(), Some(param)), "{body}");
    }
    let twice = chat_fault(r#"{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}"#);
    assert_eq!((twice.0, twice.2), ("bad_request", Some("stream_options")));
}

#[test]
fn a_model_name_has_at_most_256_characters() {
    assert_eq!(chat(&format!(r#"{{"model":"{}"}}"#, "ü".repeat(256))).unwrap().model.chars().count(), 256);
    assert_eq!(chat_fault(format!(r#"{{"model":"{}"}}"#, "u".repeat(257))).2, Some("model"));
}

#[test]
fn embeddings_do_not_stream() {
    let (code, message, param) = fault(Op::Embeddings, r#"{"model":"m","input":"x","stream":true}"#);
    assert_eq!((code, param), ("bad_request", Some("stream")));
    assert_eq!(message, "embeddings cannot be streamed; leave `stream` out");
    assert!(Call::parse(Op::Embeddings, Bytes::from_static(br#"{"model":"m","stream":false}"#)).is_ok());
}

#[test]
fn the_facts_are_read_wherever_they_stand() {
    let call = chat(r#" {"messages":[{"model":"no","stream":false}],"stream":true,"model":"a\/b","n":3} "#).unwrap();
    assert_eq!((call.model.as_str(), call.stream, call.include_usage, call.choices), ("a/b", true, false, Some(3)));
    let call = chat(r#"{"model":"m","stream":null,"n":null,"stream_options":{"include_usage":true}}"#).unwrap();
    assert_eq!((call.stream, call.include_usage, call.choices), (false, true, Some(1)));
}

#[test]
fn the_prompts_of_a_completion_multiply_its_choices() {
    for (prompt, choices) in [
        (r#""text""#, Some(2)),
        ("null", Some(2)),
        (r#"["a","b","c"]"#, Some(6)),
        ("[1, 2, 3]", Some(2)),
        ("[[1],[2, 3]]", Some(4)),
        ("[]", None),
        ("[true]", None),
        ("{}", None),
        ("7", None),
    ] {
        let body = format!(r#"{{"model":"m","n":2,"prompt":{prompt}}}"#);
        assert_eq!(Call::parse(Op::Completions, body.into()).unwrap().choices, choices, "{prompt}");
    }
    assert_eq!(Call::parse(Op::Completions, Bytes::from_static(br#"{"model":"m"}"#)).unwrap().choices, Some(1));
}

#[test]
fn a_body_that_needs_no_change_is_not_copied() {
    let call = chat(r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#).unwrap();
    for body in [call.body_for(None, false), call.body_for(Some("m"), true)] {
        assert_eq!(body.as_ptr(), call.body.as_ptr());
    }
    let unary = chat(r#"{"model":"m"}"#).unwrap();
    assert_eq!(unary.body_for(None, true).as_ptr(), unary.body.as_ptr());
}

#[test]
fn only_the_model_and_the_usage_option_are_rewritten() {
    for (before, after) in [
        (
            r#" { "model" : "m" , "stream":true, "x": 1.0e5 }"#,
            r#" {"stream_options":{"include_usage":true}, "model" : "b\"1" , "stream":true, "x": 1.0e5 }"#,
        ),
        (
            r#"{"stream_options":null,"stream":true,"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"b\"1"}"#,
        ),
        (
            r#"{"stream_options":{ },"stream":true,"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true },"stream":true,"model":"b\"1"}"#,
        ),
        (
            r#"{"stream_options":{"a":1},"stream":true,"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true,"a":1},"stream":true,"model":"b\"1"}"#,
        ),
        (
            r#"{"stream_options":{"a":1,"include_usage": false },"stream":true,"model":"m"}"#,
            r#"{"stream_options":{"a":1,"include_usage": true },"stream":true,"model":"b\"1"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":null},"stream":true,"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"b\"1"}"#,
        ),
    ] {
        assert_eq!(chat(before).unwrap().body_for(Some("b\"1"), true), after);
    }
}

#[test]
fn paths_and_names_lead_back_to_their_operation() {
    for op in Op::ALL {
        assert_eq!(Op::from_path(op.path()), Some(op));
        assert_eq!(Op::from_name(op.name()), Some(op));
    }
    assert_eq!(Op::from_path("/v1/responses"), None);
    assert_eq!(Op::from_name("responses"), None);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_rewritten_body_differs_only_where_it_should(
        others in prop::collection::btree_map("[a-z]{3}", values(), 0..5),
        model in "[^\u{0}]{1,40}",
        new in ".{0,40}",
        options in prop_oneof![Just(None), Just(Some(json!(null))), Just(Some(json!({}))), Just(Some(json!({"x": [1]})))],
    ) {
        let mut body: serde_json::Map<String, Value> = others.into_iter().collect();
        body.insert("model".into(), model.into());
        body.insert("stream".into(), true.into());
        if let Some(options) = &options {
            body.insert("stream_options".into(), options.clone());
        }
        let call = Call::parse(Op::ChatCompletions, Value::from(body.clone()).to_string().into()).unwrap();
        let sent: Value = serde_json::from_slice(&call.body_for(Some(&new), true)).unwrap();
        body.insert("model".into(), new.into());
        let mut expected = options.filter(Value::is_object).unwrap_or_else(|| json!({}));
        expected["include_usage"] = true.into();
        body.insert("stream_options".into(), expected);
        prop_assert_eq!(sent, Value::from(body));
    }

    #[test]
    fn no_bytes_upset_the_parser(body in prop::collection::vec(any::<u8>(), 0..200)) {
        for op in Op::ALL {
            let _ = Call::parse(op, Bytes::copy_from_slice(&body));
        }
    }

    #[test]
    fn what_the_parser_takes_is_json(body in r#"[{}\[\]",:\\ a0nul]{0,40}"#) {
        let text = format!(r#"{{"model":"m",{body}}}"#);
        if Call::parse(Op::ChatCompletions, text.clone().into()).is_ok() {
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}

#[test]
fn the_question_is_measured_whatever_its_operation_calls_it() {
    let bytes = |op, body: &str| Call::parse(op, Bytes::copy_from_slice(body.as_bytes())).unwrap().prompt_bytes;
    assert_eq!(bytes(Op::ChatCompletions, r#"{"model":"m","messages":[{"role":"user"}],"stream":true}"#), 17);
    assert_eq!(bytes(Op::Completions, r#"{"model":"m","prompt":"four"}"#), 6);
    assert_eq!(bytes(Op::Embeddings, r#"{"model":"m","input":[1,2]}"#), 5);
    assert_eq!(bytes(Op::Embeddings, r#"{"model":"m"}"#), 0);
}
