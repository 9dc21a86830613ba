//! Looks at every event of a stream and knows in the end how the stream ended and what it cost.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::Call;
use crate::openai;
use crate::reply::{BackendError, Usage, backend_error, usage_from_value};
use crate::sse::{Block, Keep, Mould, Skimmed, Visit};

/// Choices of one stream whose ends are tracked; a backend that invents more indexes is not given more memory.
const CHOICES_MAX: usize = 4_096;

// A quote inside a JSON string is escaped, so a quoted key followed by a colon is a key and never generated text.
static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""finish_reason""#));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""usage""#));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""error""#));

/// How a stream ended, as far as its events tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every choice was finished.
    Complete {
        /// Whether the backend also sent `[DONE]`; when not, the gateway writes it.
        done_seen: bool,
    },
    /// The stream ended before its choices did, cleanly or not.
    Truncated,
    /// The backend reported an error, whatever it sent afterwards.
    Failed(BackendError),
}

/// Where vLLM puts it, the last brace can only be the chunk's own.
const USAGE_NULL: &[u8] = br#","usage":null}"#;

/// Follows one stream; for most events it does no more than see that they are like the last one, or look for three byte
/// strings.
#[derive(Debug)]
pub struct Watch {
    choices: Choices,
    strip_usage: bool,
    usage: Option<Usage>,
    finish_reason: Option<String>,
    error: Option<BackendError>,
    done: bool,
    events: u64,
    tokens: u64,
    /// A token, none of whose members ends anything: what is like it is one, too.
    mould: Mould,
    /// What is left out of those that are like it: bytes before the last brace.
    stripped: usize,
}

/// Which choices are finished.
#[derive(Debug)]
enum Choices {
    One { finished: bool },
    Many { expected: Option<usize>, finished: BTreeMap<u32, bool> },
}

/// How many tokens the payload of one event holds, as [`Watch::tokens`] counts them.
pub fn tokens_in(data: &[u8]) -> u64 {
    let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else { return 1 };
    chunk.choices.iter().flatten().map(|choice| u64::from(choice.has_output())).sum()
}

// === impl Watch ===

impl Watch {
    /// Watches the answer to `call`.
    ///
    /// With `asked_usage_for_us` the call was sent with `include_usage` although the client did not want it; what the
    /// backend adds for that reason is taken out again.
    pub fn new(call: &Call, asked_usage_for_us: bool) -> Self {
        let choices = match call.choices {
            Some(1) => Choices::One { finished: false },
            expected => {
                let expected = expected.map(|count| count as usize).filter(|count| *count <= CHOICES_MAX);
                Choices::Many { expected, finished: BTreeMap::new() }
            }
        };
        Self {
            choices,
            strip_usage: asked_usage_for_us && !call.include_usage,
            usage: None,
            finish_reason: None,
            error: None,
            done: false,
            events: 0,
            tokens: 0,
            mould: Mould::default(),
            stripped: 0,
        }
    }

    /// Looks at the next event and says what to do with it.
    ///
    /// An error event is stopped, so that the gateway can say it in its own words; so is a `[DONE]` that comes too
    /// early, because clients would take it for success. Blocks without payload are dropped: some clients fail on them.
    pub fn event(&mut self, block: &Block<'_>) -> Keep {
        if self.done || self.error.is_some() {
            return Keep::Stop;
        }
        if !block.is_single_data_line()
            && let Some(error) = named_error(block)
        {
            return self.fail(error);
        }
        let data = block.data();
        if data.is_empty() {
            return Keep::Drop;
        }
        // The clients of OpenAI take whatever begins with it for the end.
        if let Some(rest) = data.trim_ascii_start().strip_prefix(b"[DONE]") {
            return self.finish(rest.trim_ascii().is_empty());
        }
        let signs = Signs::of(&data);
        if signs.error
            && let Some(error) = backend_error(&data)
        {
            return self.fail(error);
        }
        // The first event of a stream is often only the role: a closer look tells it from a token.
        if signs.finish_reason || signs.usage || self.choices.are_many() || self.tokens == 0 {
            return self.look_inside(block, &data);
        }
        let is_stripped = signs.usage_null && self.strip_usage;
        let keep = if is_stripped {
            // No need to parse every token.
            let Some(start) = data.strip_suffix(USAGE_NULL) else { return self.look_inside(block, &data) };
            Keep::Replace(with_data(block, start, b"}"))
        } else {
            Keep::Forward
        };
        self.token();
        self.mould.cast(block);
        self.stripped = if is_stripped { USAGE_NULL.len() - 1 } else { 0 };
        keep
    }

    /// How the stream ended, asked after its last event.
    pub fn ending(&self) -> Ending {
        match &self.error {
            Some(error) => Ending::Failed(error.clone()),
            None if self.choices.are_finished(self.done) => Ending::Complete { done_seen: self.done },
            None => Ending::Truncated,
        }
    }

    /// The usage that the backend reported last.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Why the choice that finished last did so, such as `stop` or `length`.
    pub fn finish_reason(&self) -> Option<&str> {
        self.finish_reason.as_deref()
    }

    /// How many events with content went by; usage reports, errors and `[DONE]` are none.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How many tokens were generated, as far as events tell: those with text, tool calls or the like, which is one
    /// token each with most backends. The backend's own [`usage`](Self::usage) knows better.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Whether the backend sent `[DONE]`, deserved or not.
    pub fn done_seen(&self) -> bool {
        self.done
    }

    fn token(&mut self) {
        self.events += 1;
        self.tokens += 1;
    }

    fn fail(&mut self, error: BackendError) -> Keep {
        self.error = Some(error);
        Keep::Stop
    }

    fn finish(&mut self, is_bare: bool) -> Keep {
        self.done = true;
        match self.choices.are_finished(true) {
            true if is_bare => Keep::Forward,
            true => Keep::Replace(Bytes::from_static(openai::DONE)),
            false => Keep::Stop,
        }
    }

    /// The slow path: parses the event. What is no chunk as we know it passes untouched.
    fn look_inside(&mut self, block: &Block<'_>, data: &[u8]) -> Keep {
        let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(data) else {
            self.token();
            return Keep::Forward;
        };
        for choice in chunk.choices.iter().flatten() {
            let reason = choice.finish_reason.and_then(finish_reason);
            self.tokens += u64::from(choice.has_output());
            self.choices.note(choice.index.unwrap_or(0), reason.is_some());
            if let Some(reason) = reason {
                self.finish_reason = Some(reason.into_owned());
            }
        }
        self.usage = chunk.usage.and_then(|usage| usage_from_value(usage.get())).or(self.usage);
        let has_content = chunk.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        let has_usage = chunk.usage.is_some_and(|usage| usage.get() != "null");
        if has_content || !has_usage {
            self.events += 1;
        }
        match chunk.usage {
            Some(_) if self.strip_usage && has_usage && !has_content => Keep::Drop,
            Some(usage) if self.strip_usage => Keep::Replace(without_member(block, data, usage)),
            Some(_) | None => Keep::Forward,
        }
    }
}

impl Visit for Watch {
    fn visit(&mut self, block: Block<'_>) -> Keep {
        self.event(&block)
    }

    fn skim(&mut self, bytes: &[u8]) -> Option<Skimmed> {
        if self.done || self.error.is_some() {
            return None;
        }
        let casting = self.mould.fits(bytes)?;
        self.token();
        let brace = casting.payload.end - 1;
        Some(Skimmed { length: casting.length, without: brace - self.stripped..brace })
    }
}

// === impl Choices ===

impl Choices {
    fn are_many(&self) -> bool {
        matches!(self, Self::Many { .. })
    }

    fn note(&mut self, index: u32, is_finished: bool) {
        match self {
            Self::One { finished } => *finished |= is_finished,
            Self::Many { finished, .. } => {
                if finished.len() < CHOICES_MAX || finished.contains_key(&index) {
                    *finished.entry(index).or_default() |= is_finished;
                }
            }
        }
    }

    /// Some backends ignore `n` and answer with one choice; they are believed when they say `[DONE]`.
    fn are_finished(&self, done_seen: bool) -> bool {
        match self {
            Self::One { finished } => *finished,
            Self::Many { expected, finished } => {
                let all_seen = done_seen || expected.is_none_or(|expected| finished.len() >= expected);
                !finished.is_empty() && all_seen && finished.values().all(|finished| *finished)
            }
        }
    }
}

/// What the bytes of an event hint at; each hint costs a closer look.
struct Signs {
    finish_reason: bool,
    usage: bool,
    usage_null: bool,
    error: bool,
}

// === impl Signs ===

impl Signs {
    fn of(data: &[u8]) -> Self {
        let mut signs = Self { finish_reason: false, usage: false, usage_null: false, error: false };
        for at in FINISH_REASON.find_iter(data) {
            // Some backends write "" where others write null.
            let value = member_value(&data[at + FINISH_REASON.needle().len()..]);
            signs.finish_reason |=
                value.is_some_and(|value| !value.starts_with(b"null") && !value.starts_with(b"\"\""));
        }
        for at in USAGE.find_iter(data) {
            match member_value(&data[at + USAGE.needle().len()..]) {
                Some(value) if value.starts_with(b"null") => signs.usage_null = true,
                Some(_) => signs.usage = true,
                None => {}
            }
        }
        for at in ERROR.find_iter(data) {
            // Not a key: then it may be the value in {"object":"error",…}.
            let value = member_value(&data[at + ERROR.needle().len()..]);
            signs.error |= value.is_none_or(|value| !value.starts_with(b"null"));
        }
        signs
    }
}

/// A chunk of a completion, as little of it as matters here.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    // Not an `Option` of the value: null must keep its place in the bytes.
    #[serde(borrow, default, deserialize_with = "present")]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

// === impl Choice ===

impl Choice<'_> {
    /// Was something generated for it? A role, a finish reason and empty texts are nothing.
    fn has_output(&self) -> bool {
        let says = |value: &RawValue| !matches!(value.get(), "null" | "\"\"" | "[]" | "{}");
        let delta =
            self.delta.and_then(|delta| serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(delta.get()).ok());
        self.text.is_some_and(says)
            || delta.is_some_and(|delta| delta.iter().any(|(name, value)| name != "role" && says(value)))
    }
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a finish reason; null and the empty string are none.
fn finish_reason(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text = match serde_json::from_str::<Text<'_>>(value.get()) {
        Ok(text) => text.0,
        Err(_) if value.get() == "null" => return None,
        // Neither text nor null: the backend did say that it finished.
        Err(_) => Cow::Borrowed("other"),
    };
    (!text.is_empty()).then_some(text)
}

/// An error that is told by the lines of the block rather than by its payload.
fn named_error(block: &Block<'_>) -> Option<BackendError> {
    // Old llama.cpp: a field named `error` that holds the object.
    if let Some(value) = block.field(b"error") {
        let text = String::from_utf8_lossy(value);
        return Some(BackendError::from_value(&text).unwrap_or_else(|| BackendError::from_text(value)));
    }
    if block.name() != Some(b"error") {
        return None;
    }
    let data = block.data();
    let bare = || BackendError::from_value(std::str::from_utf8(&data).ok()?);
    Some(backend_error(&data).or_else(bare).unwrap_or_else(|| BackendError::from_text(&data)))
}

/// What follows a quoted key: its value and the rest; `None` when no colon follows, so that it is no key.
fn member_value(after_key: &[u8]) -> Option<&[u8]> {
    after_key.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start)
}

/// Writes the block again without the member whose value is given; `value` must point into `data`.
fn without_member(block: &Block<'_>, data: &[u8], value: &RawValue) -> Bytes {
    let start = value.get().as_ptr().addr() - data.as_ptr().addr();
    let (before, after) = cut_member(&data[..start], &data[start + value.get().len()..]);
    with_data(block, before, after)
}

/// Writes the block again with this payload, in two parts, in place of its own; the closing blank line included.
fn with_data(block: &Block<'_>, before: &[u8], after: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(block.raw().len() + 2);
    match block.data() {
        Cow::Borrowed(line) => {
            let start = line.as_ptr().addr() - block.raw().as_ptr().addr();
            bytes.put_slice(&block.raw()[..start]);
            bytes.put_slice(before);
            bytes.put_slice(after);
            bytes.put_slice(&block.raw()[start + line.len()..]);
        }
        // Several data lines: line ends are white space in JSON, so one line says the same.
        Cow::Owned(_) => {
            bytes.put_slice(b"data: ");
            bytes.extend(before.iter().chain(after).map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
            bytes.put_slice(block.line_end());
        }
    }
    bytes.put_slice(block.line_end());
    bytes.freeze()
}

/// Takes the key before a value away, and one comma beside it.
fn cut_member<'a>(before: &'a [u8], after: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let key = before.trim_ascii_end();
    let key = key.strip_suffix(b":").unwrap_or(key).trim_ascii_end();
    let before = key.strip_suffix(USAGE.needle()).unwrap_or(key);
    if let Some(rest) = after.trim_ascii_start().strip_prefix(b",") {
        return (before, rest);
    }
    let trimmed = before.trim_ascii_end();
    (trimmed.strip_suffix(b",").unwrap_or(trimmed), after)
}

#[cfg(test)]
mod tests;
