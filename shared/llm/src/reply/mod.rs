//! Reads what backends answer outside a stream: token usage, errors in all their forms, model lists.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::scan;

/// More tokens than any context holds; a larger number is a backend's mistake.
const TOKENS_MAX: u64 = 1_000_000_000;
/// A backend's text is passed to clients and logs up to this many bytes.
const TEXT_MAX: usize = 2_000;
/// Models of one backend that are looked at; the rest of a longer list is ignored.
const MODELS_MAX: usize = 10_000;

/// How many tokens an exchange took, as the backend counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens read, at most 10⁹.
    pub prompt_tokens: u64,
    /// Tokens generated, at most 10⁹; 0 for embeddings.
    pub completion_tokens: u64,
}

/// What a backend said went wrong, whatever form it used.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    /// The text for people, at most 2,000 bytes.
    pub message: String,
    /// The class, such as `server_error`; OpenAI's `type`.
    pub kind: Option<String>,
    /// The code, in decimal when the backend sent a number.
    pub code: Option<String>,
}

// === impl BackendError ===

impl BackendError {
    /// The HTTP status hidden in a numeric code, 400 to 599.
    pub fn status(&self) -> Option<u16> {
        self.code.as_deref()?.parse().ok().filter(|status| (400..600).contains(status))
    }

    /// Reads the value of an `error` member: an object, or just the text.
    pub(crate) fn from_value(value: &str) -> Option<Self> {
        if let Ok(fields) = serde_json::from_str::<ErrorFields<'_>>(value) {
            return Some(fields.into_error());
        }
        let text: Cow<'_, str> = serde_json::from_str::<Text<'_>>(value).ok()?.0;
        (!text.is_empty()).then(|| Self { message: bounded(&text), ..Self::default() })
    }

    /// An error of which only a text is known.
    pub(crate) fn from_text(text: &[u8]) -> Self {
        let message = String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]);
        Self { message: bounded(message.trim()), ..Self::default() }.or_silent()
    }

    fn or_silent(mut self) -> Self {
        if self.message.is_empty() {
            self.message = "the backend reported an error without a message".to_owned();
        }
        self
    }
}

/// Reads the usage out of a whole reply body; `None` when there is none, there are two, or none that makes sense.
pub fn usage_of(body: &[u8]) -> Option<Usage> {
    let (mut usage, mut count) = (None, 0);
    let text = str::from_utf8(body).unwrap_or_default();
    let stepped_over = scan::members(text, |key, value| {
        if scan::name_of(key).is_some_and(|name| name == "usage") {
            (usage, count) = (Some(value), count + 1);
        }
    });
    match stepped_over {
        Ok(_) => usage_from_value(usage.filter(|_| count == 1)?),
        Err(_) => usage_of_odd(body),
    }
}

/// The same of a body with half a character in a text, as some backends cut them, or that is nested very deep.
fn usage_of_odd(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    usage_from_value(serde_json::from_slice::<Body<'_>>(body).ok()?.usage?.get())
}

/// How many bytes of text a whole reply body holds, over all of its choices; 0 when it has none.
pub fn text_bytes(body: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        choices: Vec<Choice<'a>>,
    }
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        message: Option<&'a RawValue>,
        #[serde(borrow)]
        text: Option<&'a RawValue>,
    }
    let Ok(body) = serde_json::from_slice::<Body<'_>>(body) else { return 0 };
    let parts = body.choices.iter().flat_map(|choice| [choice.message, choice.text]).flatten();
    parts.map(|part| part.get().len()).sum()
}

/// Reads the value of a `usage` member; negative, fractional and absurd numbers make it `None`.
pub(crate) fn usage_from_value(value: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Fields {
        prompt_tokens: Option<u64>,
        completion_tokens: Option<u64>,
    }
    let fields: Fields = serde_json::from_str(value).ok()?;
    if fields.prompt_tokens.is_none() && fields.completion_tokens.is_none() {
        return None;
    }
    let usage = Usage {
        prompt_tokens: fields.prompt_tokens.unwrap_or(0),
        completion_tokens: fields.completion_tokens.unwrap_or(0),
    };
    (usage.prompt_tokens <= TOKENS_MAX && usage.completion_tokens <= TOKENS_MAX).then_some(usage)
}

/// Reads the error out of a body or of an event's payload; `None` when it holds none.
///
/// Known forms: `{"error":{…}}` of OpenAI, vLLM, SGLang, llama.cpp, Anthropic and Gemini; `{"object":"error",…}` of older
/// vLLM; `{"error":"text","error_type":"…"}` of TGI and Ollama.
pub fn backend_error(body: &[u8]) -> Option<BackendError> {
    let body: ErrorBody<'_> = serde_json::from_slice(body).ok()?;
    if let Some(value) = body.error {
        let error = BackendError::from_value(value.get())?;
        return Some(BackendError {
            kind: error.kind.or_else(|| body.error_type.map(|kind| bounded(&kind.0))),
            ..error
        });
    }
    if body.object.is_some_and(|object| object.get() == r#""error""#) {
        let fields = ErrorFields { message: body.message, kind: body.kind, status: None, code: body.code };
        return Some(fields.into_error());
    }
    None
}

/// Reads the ids out of a `GET /v1/models` body; `None` when it is no such list.
pub fn model_ids(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    Some(list.data.into_iter().take(MODELS_MAX).map(|model| model.id).collect())
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    error_type: Option<Text<'a>>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
}

/// The members of an error object; raw, because backends disagree about their types.
#[derive(Deserialize)]
struct ErrorFields<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

// === impl ErrorFields ===

impl ErrorFields<'_> {
    fn into_error(self) -> BackendError {
        BackendError {
            message: self.message.and_then(scalar).unwrap_or_default(),
            kind: self.kind.or(self.status).and_then(scalar),
            code: self.code.and_then(scalar),
        }
        .or_silent()
    }
}

/// A string's text, or a number or structure as it was written; `None` for null and the empty string.
fn scalar(value: &RawValue) -> Option<String> {
    let text = match serde_json::from_str::<Text<'_>>(value.get()) {
        Ok(text) => text.0,
        Err(_) if value.get() == "null" => return None,
        Err(_) => Cow::Borrowed(value.get()),
    };
    (!text.is_empty()).then(|| bounded(&text))
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_MAX)].to_owned()
}

#[cfg(test)]
mod tests;
