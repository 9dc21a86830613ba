//! What the mock reads out of a request, and the chunks it answers with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ntonix_llm::Op;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::ledger::token::{self, Token};

/// Prompt tokens that the mock always reports.
pub const PROMPT_TOKENS: u64 = 7;

/// The members of a request that matter to the mock; what cannot be read counts as absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ask {
    pub(super) model: Option<String>,
    pub(super) stream: Option<bool>,
    pub(super) n: Option<u32>,
    pub(super) max_tokens: Option<u64>,
    /// The name of the stream: repeated in every token, so that a reader knows whose it is.
    pub(super) user: Option<String>,
    /// The pause between tokens in µs, in place of the script's.
    pub(super) mock_pause_us: Option<u64>,
    /// Tokens that leave together, when there is no pause between them; without it, as many as can.
    pub(super) mock_events: Option<u64>,
    /// The pause before the first token, or before an answer in one piece, in µs.
    pub(super) mock_first_us: Option<u64>,
    pub(super) stream_options: Option<StreamOptions>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    include_usage: Option<bool>,
}

/// Writes the chunks and bodies of one answer.
#[derive(Debug)]
pub(super) struct Chunks {
    op: Op,
    choices: u32,
    /// Whose tokens these are, for a reader that checks; `None` writes plain ones.
    stream: Option<String>,
    attempt: String,
    model: String,
    /// Everything of a chunk up to its choices.
    start: String,
}

// === impl Ask ===

impl Ask {
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    pub(super) fn pause(&self) -> Option<Duration> {
        self.mock_pause_us.map(Duration::from_micros)
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.mock_first_us.map(Duration::from_micros)
    }
}

// === impl Chunks ===

impl Chunks {
    pub(super) fn new(op: Op, ask: &Ask, attempt: &str) -> Self {
        let model = ask.model.clone().unwrap_or_default();
        let object = if op == Op::ChatCompletions { "chat.completion.chunk" } else { "text_completion" };
        let quoted = Value::from(model.as_str());
        let start =
            format!(r#"data: {{"id":"mock-1","object":"{object}","created":1700000000,"model":{quoted},"choices":["#);
        let stream = ask.user.clone().filter(|user| token::is_name(user));
        Self { op, choices: ask.n.unwrap_or(1).clamp(1, 128), stream, attempt: attempt.to_owned(), model, start }
    }

    pub(super) fn role(&self) -> Bytes {
        match self.op {
            Op::ChatCompletions => self.each_choice(r#""delta":{"role":"assistant","content":""}"#, None),
            Op::Completions | Op::Embeddings => self.each_choice(r#""text":"""#, None),
        }
    }

    pub(super) fn token(&self, number: u64) -> Bytes {
        // Neither part needs an escape: `text` makes sure.
        let text = self.text(number);
        match self.op {
            Op::ChatCompletions => self.each_choice(&format!(r#""delta":{{"content":"{text}"}}"#), None),
            Op::Completions | Op::Embeddings => self.each_choice(&format!(r#""text":"{text}""#), None),
        }
    }

    pub(super) fn finish(&self, reason: &str) -> Bytes {
        match self.op {
            Op::ChatCompletions => self.each_choice(r#""delta":{}"#, Some(reason)),
            Op::Completions | Op::Embeddings => self.each_choice(r#""text":"""#, Some(reason)),
        }
    }

    pub(super) fn usage(&self, tokens: u64) -> Bytes {
        format!("{}],\"usage\":{}}}\n\n", self.start, usage(tokens * u64::from(self.choices))).into()
    }

    /// The body of an answer that is not streamed.
    pub(super) fn whole(&self, tokens: u64) -> Bytes {
        let text: String = (0..tokens).map(|number| self.text(number)).collect();
        let usage = usage(tokens * u64::from(self.choices));
        let choice = |index: u32| match self.op {
            Op::ChatCompletions => {
                let message = json!({ "role": "assistant", "content": text });
                json!({ "index": index, "message": message, "finish_reason": "stop" })
            }
            Op::Completions | Op::Embeddings => json!({ "index": index, "text": text, "finish_reason": "stop" }),
        };
        let choices: Vec<Value> = (0..self.choices).map(choice).collect();
        let body = match self.op {
            Op::Embeddings => {
                let data = json!([{ "object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0] }]);
                let usage = json!({ "prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS });
                json!({ "object": "list", "data": data, "model": self.model, "usage": usage })
            }
            Op::ChatCompletions | Op::Completions => {
                let object = if self.op == Op::ChatCompletions { "chat.completion" } else { "text_completion" };
                json!({
                    "id": "mock-1", "object": object, "created": 1_700_000_000, "model": self.model,
                    "choices": choices, "usage": usage,
                })
            }
        };
        body.to_string().into()
    }

    /// `t<number> `, or what the ledger's token says for a reader that checks.
    fn text(&self, number: u64) -> String {
        match &self.stream {
            Some(stream) => Token { stream, attempt: &self.attempt, number, sent_ns: now_ns() }.to_string(),
            None => format!("t{number} "),
        }
    }

    fn each_choice(&self, content: &str, reason: Option<&str>) -> Bytes {
        let reason = reason.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
        let mut events = String::with_capacity((self.start.len() + content.len() + 64) * self.choices as usize);
        for index in 0..self.choices {
            events.push_str(&self.start);
            events.push_str("{\"index\":");
            events.push_str(&index.to_string());
            events.push(',');
            events.push_str(content);
            events.push_str(",\"finish_reason\":");
            events.push_str(&reason);
            events.push_str("}]}\n\n");
        }
        events.into()
    }
}

fn usage(completion_tokens: u64) -> Value {
    json!({
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
    })
}

/// Nanoseconds since 1970, which the processes of one machine agree on.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
