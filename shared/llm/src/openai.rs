//! Writes what a gateway says itself in the OpenAI dialect: errors before and inside a stream, model lists.

use bytes::Bytes;
use serde::Serialize;

/// The last event of a stream that is complete.
pub const DONE: &[u8] = b"data: [DONE]\n\n";
/// Keeps a silent stream alive. One line end only: with two, clients that saw an `id` dispatch an empty event.
pub const HEARTBEAT: &[u8] = b":\n";

/// The `error` object of the OpenAI API with our two members more.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ErrorObject<'a> {
    /// The text for people.
    pub message: &'a str,
    /// The class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The stable word for programs, such as `model_not_found`.
    pub code: &'a str,
    /// The member of the request at fault.
    pub param: Option<&'a str>,
    /// The id under which the log knows this exchange.
    pub request_id: &'a str,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// One entry of a model list.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// What a client puts into `model`.
    pub id: &'a str,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Who runs it.
    pub owned_by: &'a str,
}

/// The body of an error answer.
pub fn error_body(
    message: &str,
    kind: &str,
    code: &str,
    param: Option<&str>,
    request_id: &str,
    retryable: bool,
) -> Bytes {
    json(&Envelope { error: ErrorObject { message, kind, code, param, request_id, retryable } }).into()
}

/// The event that ends a stream with an error; no `[DONE]` follows it.
pub fn error_event(
    message: &str,
    kind: &str,
    code: &str,
    param: Option<&str>,
    request_id: &str,
    retryable: bool,
) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend(json(&Envelope { error: ErrorObject { message, kind, code, param, request_id, retryable } }));
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// The body of `GET /v1/models`.
pub fn models_body<'a>(models: impl IntoIterator<Item = Model<'a>>) -> Bytes {
    json(&ModelList { object: "list", data: models.into_iter().map(ModelEntry::from).collect() }).into()
}

/// The body of `GET /v1/models/{id}`.
pub fn model_body(model: Model<'_>) -> Bytes {
    json(&ModelEntry::from(model)).into()
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ModelList<'a> {
    object: &'static str,
    data: Vec<ModelEntry<'a>>,
}

#[derive(Serialize)]
struct ModelEntry<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

// === impl ModelEntry ===

impl<'a> From<Model<'a>> for ModelEntry<'a> {
    fn from(model: Model<'a>) -> Self {
        Self { id: model.id, object: "model", created: model.created, owned_by: model.owned_by }
    }
}

/// Strings, numbers and lists of them always serialise, so there is no error to hand on.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_has_all_members_and_escapes_the_message() {
        let body = error_body("no \"x\"\n", "invalid_request_error", "model_not_found", Some("model"), "r-1", false);
        let expected = concat!(
            r#"{"error":{"message":"no \"x\"\n","type":"invalid_request_error","code":"model_not_found","#,
            r#""param":"model","request_id":"r-1","retryable":false}}"#,
        );
        assert_eq!(body, expected);
    }

    #[test]
    fn an_error_event_is_one_data_line_with_the_same_object() {
        let event = error_event("line\nbreak", "server_error", "upstream_reset", None, "r-2", true);
        let body = error_body("line\nbreak", "server_error", "upstream_reset", None, "r-2", true);
        assert_eq!(event, [b"data: ", body.as_ref(), b"\n\n"].concat());
        assert_eq!(event.iter().filter(|byte| **byte == b'\n').count(), 2);
    }

    #[test]
    fn a_model_list_names_each_model_in_the_given_order() {
        let models = ["b", "a/x:1"].map(|id| Model { id, created: 7, owned_by: "ntonix" });
        let expected = concat!(
            r#"{"object":"list","data":[{"id":"b","object":"model","created":7,"owned_by":"ntonix"},"#,
            r#"{"id":"a/x:1","object":"model","created":7,"owned_by":"ntonix"}]}"#,
        );
        assert_eq!(models_body(models), expected);
        assert_eq!(model_body(models[0]), r#"{"id":"b","object":"model","created":7,"owned_by":"ntonix"}"#);
        assert_eq!(models_body([]), r#"{"object":"list","data":[]}"#);
    }
}
