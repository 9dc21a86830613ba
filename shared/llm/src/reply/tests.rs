//! Usage that makes no sense, and errors in every form that a backend is known to use.

use super::*;

fn error(body: &str) -> Option<(String, Option<String>, Option<String>)> {
    backend_error(body.as_bytes()).map(|error| (error.message, error.kind, error.code))
}

fn told(message: &str, kind: Option<&str>, code: Option<&str>) -> Option<(String, Option<String>, Option<String>)> {
    Some((message.to_owned(), kind.map(str::to_owned), code.map(str::to_owned)))
}

#[test]
fn usage_that_makes_no_sense_is_ignored() {
    for usage in [
        r#"{"prompt_tokens":-1,"completion_tokens":2}"#,
        r#"{"prompt_tokens":1.5,"completion_tokens":2}"#,
        r#"{"prompt_tokens":"1","completion_tokens":2}"#,
        r#"{"prompt_tokens":1,"completion_tokens":99999999999999999999}"#,
        r#"{"prompt_tokens":1,"completion_tokens":1000000001}"#,
        "{}",
        "null",
        "[]",
        "7",
    ] {
        assert_eq!(usage_of(format!(r#"{{"usage":{usage}}}"#).as_bytes()), None, "{usage}");
    }
    for body in [r#"{"choices":[]}"#, "not json", "", r#"{"usage":{"prompt_tokens":1}"#] {
        assert_eq!(usage_of(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn usage_is_read_beside_half_a_character_and_beside_what_is_nested_deep() {
    let usage = br#","usage":{"prompt_tokens":3,"completion_tokens":5}}"#;
    let deep = ["{\"x\":".as_bytes(), &b"[".repeat(90), &b"]".repeat(90), usage].concat();
    for body in [[&b"{\"x\":\"\xe4\xb8\""[..], usage].concat(), deep] {
        assert_eq!(usage_of(&body), Some(Usage { prompt_tokens: 3, completion_tokens: 5 }));
    }
    assert_eq!(usage_of(br#"{"usage":{"prompt_tokens":3},"us\u0061ge":{"prompt_tokens":4}}"#), None, "there are two");
}

#[test]
fn usage_is_read_with_or_without_completion_tokens() {
    let body =
        br#"{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"total_tokens":8,"completion_tokens":5,"d":{}}}"#;
    assert_eq!(usage_of(body), Some(Usage { prompt_tokens: 3, completion_tokens: 5 }));
    let body = br#"{"data":[],"usage":{"prompt_tokens":3,"total_tokens":3}}"#;
    assert_eq!(usage_of(body), Some(Usage { prompt_tokens: 3, completion_tokens: 0 }));
}

#[test]
fn every_known_form_of_error_is_read() {
    for (body, expected) in [
        (
            r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
            told("no", Some("invalid_request_error"), Some("model_not_found")),
        ),
        (
            r#"{"error":{"code":500,"message":"oh","type":"server_error"}}"#,
            told("oh", Some("server_error"), Some("500")),
        ),
        (
            r#"{"object":"error","message":"long","type":"BadRequestError","param":null,"code":400}"#,
            told("long", Some("BadRequestError"), Some("400")),
        ),
        (r#"{"error":"overloaded","error_type":"overloaded"}"#, told("overloaded", Some("overloaded"), None)),
        (r#"{"error":"model \"x\" not found"}"#, told("model \"x\" not found", None, None)),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"},"request_id":"r"}"#,
            told("busy", Some("overloaded_error"), None),
        ),
        (
            r#"{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}"#,
            told("slow", Some("RESOURCE_EXHAUSTED"), Some("429")),
        ),
        (r#"{"error":{}}"#, told("the backend reported an error without a message", None, None)),
        (r#"{"error":{"message":{"a":1}}}"#, told(r#"{"a":1}"#, None, None)),
    ] {
        assert_eq!(error(body), expected, "{body}");
    }
}

#[test]
fn what_is_no_error_is_none() {
    for body in [
        r#"{"error":null,"choices":[]}"#,
        r#"{"error":""}"#,
        r#"{"error":false}"#,
        r#"{"object":"chat.completion"}"#,
        r#"{"message":"hi"}"#,
        r#"["error"]"#,
        "<html>error</html>",
        "",
    ] {
        assert_eq!(error(body), None, "{body}");
    }
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let body = format!(r#"{{"error":"{}"}}"#, "€".repeat(5_000));
    let message = backend_error(body.as_bytes()).unwrap().message;
    assert_eq!(message, "€".repeat(TEXT_MAX / 3));
}

#[test]
fn only_a_numeric_code_is_a_status() {
    let with = |code: &str| BackendError { code: Some(code.to_owned()), ..BackendError::default() }.status();
    assert_eq!(
        [with("429"), with("599"), with("200"), with("600"), with("busy")],
        [Some(429), Some(599), None, None, None]
    );
    assert_eq!(BackendError::default().status(), None);
}

#[test]
fn model_ids_come_in_the_order_of_the_list() {
    let body = br#"{"object":"list","data":[{"id":"b","object":"model"},{"id":"a/x"}],"models":[{"name":"b"}]}"#;
    assert_eq!(model_ids(body), Some(vec!["b".to_owned(), "a/x".to_owned()]));
    assert_eq!(model_ids(br#"{"object":"list","data":[]}"#), Some(vec![]));
    assert_eq!(model_ids(br#"{"data":[{"name":"b"}]}"#), None);
    assert_eq!(model_ids(b"<html>"), None);
}

#[test]
fn the_text_of_a_reply_is_measured_over_all_of_its_choices() {
    let text = |body: &str| text_bytes(body.as_bytes());
    assert_eq!(text(r#"{"choices":[{"text":"abc"},{"text":"de"}]}"#), r#""abc""de""#.len());
    assert_eq!(text(r#"{"choices":[{"message":{"content":"abc"}}]}"#), r#"{"content":"abc"}"#.len());
    assert_eq!((text(r#"{"data":[]}"#), text("no JSON")), (0, 0));
}
