//! Reads a call out of its body without building a tree of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Call, CallFault, Op, Spots, UsageSpot};

const DEPTH_MAX: usize = 64;
const MODEL_CHARS_MAX: usize = 256;
const CHOICES_MAX: u32 = 128;

pub(super) fn parse(op: Op, body: Bytes) -> Result<Call, CallFault> {
    let text = check_text(&body)?;
    let facts: Facts<'_> = serde_json::from_str(text).map_err(|error| fault_of(&error))?;
    let model = read_model(facts.model)?;
    let stream = read_bool(facts.stream, "stream")?;
    if stream && !op.streams() {
        return Err(bad(format!("{} cannot be streamed; leave `stream` out", op.name()), "stream"));
    }
    let n = read_n(facts.n)?;
    let (include_usage, usage) = read_options(text, facts.stream_options)?;
    let choices = match op {
        Op::ChatCompletions => Some(n),
        Op::Completions => facts.prompt.map_or(Some(1), count_prompts).and_then(|prompts| n.checked_mul(prompts)),
        Op::Embeddings => None,
    };
    // `read_model` has seen that it is there; an empty range would change nothing.
    let spots = Spots { model: facts.model.map_or(0..0, |model| range_in(text, model.get())), usage };
    let question = [facts.messages, facts.prompt, facts.input];
    let prompt_bytes = question.into_iter().flatten().map(|part| part.get().len()).sum();
    Ok(Call { op, model, stream, include_usage, choices, prompt_bytes, body, spots })
}

/// Rejects what the parser should not be shown.
fn check_text(body: &[u8]) -> Result<&str, CallFault> {
    let text = std::str::from_utf8(body).map_err(|_| invalid("the body is not UTF-8".to_owned()))?;
    if text.trim_ascii().is_empty() {
        return Err(invalid("the body is empty; send a JSON object".to_owned()));
    }
    if is_too_deep(body) {
        return Err(unusable(format!("it is nested deeper than {DEPTH_MAX} levels")));
    }
    let is_object = text.trim_ascii_start().starts_with('{');
    if !is_object && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        return Err(unusable("it is not a JSON object".to_owned()));
    }
    Ok(text)
}

/// Counts brackets outside strings; whether they match is the parser's business.
fn is_too_deep(body: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = body.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at += string_length(&body[at..]),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// Length of the rest of a string, closing quote included.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at = (at + 1).min(bytes.len());
    }
    bytes.len()
}

/// The members that matter, still as they were written.
#[derive(Default)]
struct Facts<'a> {
    model: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    n: Option<&'a RawValue>,
    prompt: Option<&'a RawValue>,
    messages: Option<&'a RawValue>,
    input: Option<&'a RawValue>,
}

// === impl Facts ===

impl<'de> Deserialize<'de> for Facts<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FactsVisitor)
    }
}

struct FactsVisitor;

impl<'de> Visitor<'de> for FactsVisitor {
    type Value = Facts<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Facts<'de>, A::Error> {
        let mut facts = Facts::default();
        let mut seen = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            let fact = match key.as_ref() {
                "model" => Some(&mut facts.model),
                "stream" => Some(&mut facts.stream),
                "stream_options" => Some(&mut facts.stream_options),
                "n" => Some(&mut facts.n),
                "prompt" => Some(&mut facts.prompt),
                "messages" => Some(&mut facts.messages),
                "input" => Some(&mut facts.input),
                _ => None,
            };
            match fact {
                Some(fact) => *fact = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            // Two readers of one body must not be able to take different values out of it.
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format_args!("the member `{}` is there twice", brief(&twice))));
            }
        }
        Ok(facts)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

fn read_model(value: Option<&RawValue>) -> Result<String, CallFault> {
    let Some(value) = value else {
        return Err(bad("`model` is missing; GET /v1/models lists the names".to_owned(), "model"));
    };
    let Ok(model) = serde_json::from_str::<String>(value.get()) else {
        return Err(bad("`model` must be a string".to_owned(), "model"));
    };
    if model.is_empty() {
        return Err(bad("`model` is empty; GET /v1/models lists the names".to_owned(), "model"));
    }
    if model.chars().nth(MODEL_CHARS_MAX).is_some() {
        return Err(bad(format!("`model` is longer than {MODEL_CHARS_MAX} characters"), "model"));
    }
    Ok(model)
}

fn read_bool(value: Option<&RawValue>, name: &'static str) -> Result<bool, CallFault> {
    match value.map(RawValue::get) {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(format!("`{name}` must be true or false"), name)),
    }
}

fn read_n(value: Option<&RawValue>) -> Result<u32, CallFault> {
    let Some(text) = value.map(RawValue::get).filter(|text| *text != "null") else { return Ok(1) };
    let n = text.parse().ok().filter(|n| (1..=CHOICES_MAX).contains(n));
    n.ok_or_else(|| bad(format!("`n` must be a whole number from 1 to {CHOICES_MAX}"), "n"))
}

/// Whether the client asks for usage, and where we would ask for it.
fn read_options(text: &str, value: Option<&RawValue>) -> Result<(bool, UsageSpot), CallFault> {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        include_usage: Option<&'a RawValue>,
    }
    let Some(value) = value else {
        // A parsed object begins with its brace, after white space.
        return Ok((false, UsageSpot::NewOptions(text.len() - text.trim_ascii_start().len() + 1)));
    };
    let range = range_in(text, value.get());
    if value.get() == "null" {
        return Ok((false, UsageSpot::NullOptions(range)));
    }
    if !value.get().starts_with('{') {
        return Err(bad("`stream_options` must be an object".to_owned(), "stream_options"));
    }
    let options: Options<'_> = serde_json::from_str(value.get())
        .map_err(|error| bad(format!("`stream_options` cannot be read: {error}"), "stream_options"))?;
    match options.include_usage {
        None => {
            let is_only_member = value.get()[1..].trim_ascii_start().starts_with('}');
            Ok((false, UsageSpot::NewMember { at: range.start + 1, is_only_member }))
        }
        Some(asked) => {
            let include_usage = read_bool(Some(asked), "stream_options.include_usage")?;
            Ok((include_usage, UsageSpot::Value(range_in(text, asked.get()))))
        }
    }
}

/// Keeps a null as it is written, where an `Option` would swallow it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A prompt is a text, a list of token numbers, or a list of either; `None` when it is neither.
fn count_prompts(prompt: &RawValue) -> Option<u32> {
    match prompt.get().as_bytes().first()? {
        b'"' | b'n' => Some(1),
        b'[' => serde_json::from_str::<Prompts>(prompt.get()).ok()?.0,
        _ => None,
    }
}

struct Prompts(Option<u32>);

// === impl Prompts ===

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(PromptsVisitor)
    }
}

struct PromptsVisitor;

impl<'de> Visitor<'de> for PromptsVisitor {
    type Value = Prompts;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of prompts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
        let Some(first) = list.next_element::<&RawValue>()? else { return Ok(Prompts(None)) };
        let mut count = 1_u32;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count = count.saturating_add(1);
        }
        Ok(Prompts(match first.get().as_bytes().first() {
            Some(b'"' | b'[') => Some(count),
            Some(b'0'..=b'9') => Some(1),
            _ => None,
        }))
    }
}

/// Where a part of `text` stands in it.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

fn fault_of(error: &serde_json::Error) -> CallFault {
    if error.is_data() {
        return unusable(error.to_string());
    }
    invalid(format!("the body is not valid JSON: {error}"))
}

fn unusable(reason: String) -> CallFault {
    CallFault { code: "bad_request", message: format!("the body cannot be used: {reason}"), param: None }
}

fn invalid(message: String) -> CallFault {
    CallFault { code: "invalid_json", message, param: None }
}

fn bad(message: String, param: &'static str) -> CallFault {
    CallFault { code: "bad_request", message, param: Some(param) }
}

/// The beginning of a name that may be of any length.
fn brief(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}
