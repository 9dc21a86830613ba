//! A client's call: the few facts the gateway needs, and the body it came with.

mod parse;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// What a client may ask a model to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
}

/// One question to a model, read once and never changed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call {
    /// What is asked.
    pub op: Op,
    /// The model's name as the client wrote it, 1 to 256 characters.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether the client asked for the usage at the end of the stream.
    pub include_usage: bool,
    /// How many choices the answer has; `None` when the body does not tell.
    pub choices: Option<u32>,
    /// The bytes of `messages`, `prompt` or `input` as they were written; what
    /// [`estimate::tokens`](crate::estimate::tokens) makes a number of tokens of.
    pub prompt_bytes: usize,
    /// The body as it came.
    pub body: Bytes,
    spots: Spots,
}

/// Why a body is no call; the texts are for the client's developer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallFault {
    /// `invalid_json` or `bad_request`.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
    /// The member at fault.
    pub param: Option<&'static str>,
}

/// Where the body can be changed without touching its other bytes.
#[derive(Debug, Clone)]
struct Spots {
    model: Range<usize>,
    usage: UsageSpot,
}

/// What has to be written where, so that the backend reports usage.
#[derive(Debug, Clone)]
enum UsageSpot {
    /// Behind the brace that opens the body.
    NewOptions(usize),
    /// In place of `"stream_options": null`.
    NullOptions(Range<usize>),
    /// Behind the brace that opens `stream_options`.
    NewMember { at: usize, is_only_member: bool },
    /// In place of the value of `include_usage`.
    Value(Range<usize>),
}

// === impl Op ===

impl Op {
    /// Every operation.
    pub const ALL: [Self; 3] = [Self::ChatCompletions, Self::Completions, Self::Embeddings];

    /// The path of the HTTP API.
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    /// The name in `ntonix.v1` frames, metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat.completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    /// Finds the operation by its HTTP path.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.path() == path)
    }

    /// Finds the operation by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Whether the answer can be streamed.
    pub fn streams(self) -> bool {
        self != Self::Embeddings
    }
}

// === impl Call ===

impl Call {
    /// Reads a request body.
    ///
    /// # Errors
    /// [`CallFault`] when the body is not a JSON object, is nested deeper than 64 levels, repeats a member, or when
    /// `model`, `stream`, `n` or `stream_options` is not what the API says.
    pub fn parse(op: Op, body: Bytes) -> Result<Self, CallFault> {
        parse::parse(op, body)
    }

    /// The body to send to a backend: with its own name of the model, and asking for usage where the client did not.
    ///
    /// All other bytes stay as they are; without a change the body is not copied. Usage is only asked of a stream.
    pub fn body_for(&self, model: Option<&str>, ask_usage: bool) -> Bytes {
        let mut edits: Vec<(Range<usize>, String)> = Vec::with_capacity(2);
        if let Some(model) = model.filter(|model| *model != self.model) {
            edits.push((self.spots.model.clone(), serde_json::Value::from(model).to_string()));
        }
        if ask_usage && self.stream && !self.include_usage {
            edits.push(self.spots.usage.edit());
        }
        if edits.is_empty() { self.body.clone() } else { splice(&self.body, edits) }
    }
}

// === impl UsageSpot ===

impl UsageSpot {
    fn edit(&self) -> (Range<usize>, String) {
        match self {
            Self::NewOptions(at) => (*at..*at, r#""stream_options":{"include_usage":true},"#.to_owned()),
            Self::NullOptions(range) => (range.clone(), r#"{"include_usage":true}"#.to_owned()),
            Self::NewMember { at, is_only_member: true } => (*at..*at, r#""include_usage":true"#.to_owned()),
            Self::NewMember { at, is_only_member: false } => (*at..*at, r#""include_usage":true,"#.to_owned()),
            Self::Value(range) => (range.clone(), "true".to_owned()),
        }
    }
}

/// Replaces ranges that do not overlap.
fn splice(body: &[u8], mut edits: Vec<(Range<usize>, String)>) -> Bytes {
    edits.sort_by_key(|(range, _)| range.start);
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut spliced = BytesMut::with_capacity(body.len() + added);
    let mut at = 0;
    for (range, text) in edits {
        spliced.extend_from_slice(&body[at..range.start]);
        spliced.extend_from_slice(text.as_bytes());
        at = range.end;
    }
    spliced.extend_from_slice(&body[at..]);
    spliced.freeze()
}
