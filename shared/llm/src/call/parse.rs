//! Reads a call out of its body without building a tree of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Call, CallFault, Op, Spots, UsageSpot};
use crate::scan::{self, DEPTH_MAX, Outermost, Unfit};

const MODEL_CHARS_MAX: usize = 256;
const CHOICES_MAX: u32 = 128;

pub(super) fn parse(op: Op, body: Bytes) -> Result<Call, CallFault> {
    let text = std::str::from_utf8(&body).map_err(|_| invalid("the body is not UTF-8".to_owned()))?;
    let facts = Facts::read(text)?;
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
    let spots = Spots { model: facts.model.map_or(0..0, |model| range_in(text, model)), usage };
    let question = [facts.messages, facts.prompt, facts.input];
    let prompt_bytes = question.into_iter().flatten().map(str::len).sum();
    Ok(Call { op, model, stream, include_usage, choices, prompt_bytes, body, spots })
}

/// The members that matter, still as they were written.
#[derive(Default)]
struct Facts<'a> {
    model: Option<&'a str>,
    stream: Option<&'a str>,
    stream_options: Option<&'a str>,
    n: Option<&'a str>,
    prompt: Option<&'a str>,
    messages: Option<&'a str>,
    input: Option<&'a str>,
}

// === impl Facts ===

impl<'a> Facts<'a> {
    fn read(text: &'a str) -> Result<Self, CallFault> {
        let mut facts = Self::default();
        let mut names = Vec::with_capacity(16);
        let mut has_bad_name = false;
        let outermost = scan::members(text, |key, value| match scan::name_of(key) {
            Some(name) => {
                facts.take(&name, value);
                names.push(name);
            }
            None => has_bad_name = true,
        });
        match outermost {
            Ok(Outermost::Object) if has_bad_name => Err(malformed(text)),
            Ok(Outermost::Object) => repeated(names).map_or(Ok(facts), Err),
            Ok(Outermost::Other) => Err(unusable("it is not a JSON object".to_owned())),
            Err(Unfit::TooDeep) => Err(unusable(format!("it is nested deeper than {DEPTH_MAX} levels"))),
            Err(Unfit::Malformed) => Err(malformed(text)),
        }
    }

    fn take(&mut self, name: &str, value: &'a str) {
        let fact = match name {
            "model" => &mut self.model,
            "stream" => &mut self.stream,
            "stream_options" => &mut self.stream_options,
            "n" => &mut self.n,
            "prompt" => &mut self.prompt,
            "messages" => &mut self.messages,
            "input" => &mut self.input,
            _ => return,
        };
        *fact = Some(value);
    }
}

/// Two readers of one body must not be able to take different values out of it.
fn repeated(mut names: Vec<Cow<'_, str>>) -> Option<CallFault> {
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(unusable(format!("the member `{}` is there twice", brief(&twice[0]))))
}

fn read_model(value: Option<&str>) -> Result<String, CallFault> {
    let Some(value) = value else {
        return Err(bad("`model` is missing; GET /v1/models lists the names".to_owned(), "model"));
    };
    let Ok(model) = serde_json::from_str::<String>(value) else {
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

fn read_bool(value: Option<&str>, name: &'static str) -> Result<bool, CallFault> {
    match value {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(bad(format!("`{name}` must be true or false"), name)),
    }
}

fn read_n(value: Option<&str>) -> Result<u32, CallFault> {
    let Some(text) = value.filter(|text| *text != "null") else { return Ok(1) };
    let n = text.parse().ok().filter(|n| (1..=CHOICES_MAX).contains(n));
    n.ok_or_else(|| bad(format!("`n` must be a whole number from 1 to {CHOICES_MAX}"), "n"))
}

/// Whether the client asks for usage, and where we would ask for it.
fn read_options(text: &str, value: Option<&str>) -> Result<(bool, UsageSpot), CallFault> {
    #[derive(Deserialize)]
    struct Options<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        include_usage: Option<&'a RawValue>,
    }
    let Some(value) = value else {
        // A parsed object begins with its brace, after white space.
        return Ok((false, UsageSpot::NewOptions(text.len() - text.trim_ascii_start().len() + 1)));
    };
    let range = range_in(text, value);
    if value == "null" {
        return Ok((false, UsageSpot::NullOptions(range)));
    }
    if !value.starts_with('{') {
        return Err(bad("`stream_options` must be an object".to_owned(), "stream_options"));
    }
    let options: Options<'_> = serde_json::from_str(value)
        .map_err(|error| bad(format!("`stream_options` cannot be read: {error}"), "stream_options"))?;
    match options.include_usage {
        None => {
            let is_only_member = value[1..].trim_ascii_start().starts_with('}');
            Ok((false, UsageSpot::NewMember { at: range.start + 1, is_only_member }))
        }
        Some(asked) => {
            let include_usage = read_bool(Some(asked.get()), "stream_options.include_usage")?;
            Ok((include_usage, UsageSpot::Value(range_in(text, asked.get()))))
        }
    }
}

/// Keeps a null as it is written, where an `Option` would swallow it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A prompt is a text, a list of token numbers, or a list of either; `None` when it is neither.
fn count_prompts(prompt: &str) -> Option<u32> {
    match prompt.as_bytes().first()? {
        b'"' | b'n' => Some(1),
        b'[' => serde_json::from_str::<Prompts>(prompt).ok()?.0,
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

/// Why it is not JSON, in the words of serde_json, which knows the place.
fn malformed(text: &str) -> CallFault {
    if text.trim_ascii().is_empty() {
        return invalid("the body is empty; send a JSON object".to_owned());
    }
    let error = if text.trim_ascii_start().starts_with('{') {
        serde_json::from_str::<BTreeMap<Name, IgnoredAny>>(text).err()
    } else {
        serde_json::from_str::<IgnoredAny>(text).err()
    };
    let place = error.map_or_else(String::new, |error| format!(": {error}"));
    invalid(format!("the body is not valid JSON{place}"))
}

/// The name of a member, of which nothing is kept.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(from = "Cow<str>")]
struct Name;

impl From<Cow<'_, str>> for Name {
    fn from(_: Cow<'_, str>) -> Self {
        Self
    }
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
