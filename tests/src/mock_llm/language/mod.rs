//! The script language: what the mock does with a request, as a text of one step per line.
//!
//! ```text
//! # three tokens, and then the connection breaks
//! role
//! tokens 3 every 20ms
//! cut rst
//! ```

mod line;
mod words;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::Duration;

use self::line::Line;
pub use self::words::help;
use self::words::{H2_WORDS, H2Word, WORDS, Word};
use super::script::{End, ErrorForm, Garbage, GoAway, Headers, Pace, Script, Step};
use super::{ResetReason, TOKENS};

/// The forms of an error by the names of those that use them.
const ERROR_FORMS: &[(&str, ErrorForm)] = &[
    ("openai", ErrorForm::OpenAi),
    ("vllm", ErrorForm::NumericCode),
    ("sglang", ErrorForm::NumericCode),
    ("llama.cpp", ErrorForm::NumericCode),
    ("tgi", ErrorForm::Text),
    ("vllm-old", ErrorForm::Object),
    ("llama.cpp-old", ErrorForm::Field),
    ("named", ErrorForm::Named),
];

/// The most tokens of a step, bytes before a cut, and times that bytes are written.
const MOST: u64 = 1_000_000_000_000;
/// The most bytes of a bare part, which is held as a whole while it may be asked for.
const BARE_MOST: usize = 16 << 20;
/// The most empty frames of a step, which leave as one.
const FRAMES_MOST: u64 = 1_000_000;

/// Why a script cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// The column in letters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

/// Every fault of a script, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// A part of a script that is being read.
#[derive(Default)]
struct Part {
    headers: Headers,
    /// A whole reply, which stands alone.
    whole: Option<Script>,
    steps: Vec<Step>,
    has_head: bool,
    bare: Option<Bare>,
}

/// What goes to the bare connection.
#[derive(Default)]
struct Bare {
    bytes: Vec<u8>,
    end: Option<End>,
}

// === impl Faults ===

impl Display for Faults {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

// === impl Script ===

impl FromStr for Script {
    type Err = Faults;

    /// Reads a script and tells every line that is wrong.
    fn from_str(text: &str) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut parts = vec![Part::default()];
        let mut period = None;
        let mut is_first = true;
        for (index, text) in text.lines().enumerate() {
            let mut line = Line::new(index + 1, text);
            let Some(name) = line.word() else { continue };
            if name == "---" {
                parts.push(Part::default());
                faults.extend(line.ended().err());
                continue;
            }
            let read = match (name, is_first) {
                ("each", true) => line.time("the time of a turn").map(|time| period = Some(time)),
                ("each", false) => Err(line.fault("\"each\" is the first line of a script")),
                // `parts` begins with one part and only grows.
                _ => parts.last_mut().map_or(Ok(()), |part| part.line(name, &mut line)),
            };
            is_first = false;
            faults.extend(read.and_then(|()| line.ended()).err());
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let mut scripts: Vec<_> = parts.into_iter().map(Part::into_script).collect();
        Ok(if scripts.len() == 1 && period.is_none() { scripts.remove(0) } else { Self::turns(scripts, period) })
    }
}

// === impl Part ===

impl Part {
    fn line(&mut self, name: &str, line: &mut Line<'_>) -> Result<(), Fault> {
        let word = WORDS.iter().find(|entry| entry.name == name).map(|entry| entry.word);
        let Some(word) = word else {
            let hint = ntonix_config::nearest(name, WORDS.iter().map(|entry| entry.name))
                .map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            return Err(line.fault(format!("there is no step named {name:?}{hint}")));
        };
        if self.whole.is_some() {
            return Err(line.fault("a whole reply is the last step of its part"));
        }
        match word {
            Word::Answer | Word::Status | Word::Reply => self.reply(word, line),
            Word::Header | Word::Length | Word::Head => self.head(word, line),
            Word::Bare => self.begin_bare(line),
            _ if self.bare.is_some() => self.bare_step(word, line),
            _ => {
                let steps = steps(word, line)?;
                self.push(steps);
                Ok(())
            }
        }
    }

    /// A reply that is whole by itself.
    fn reply(&mut self, word: Word, line: &mut Line<'_>) -> Result<(), Fault> {
        if !self.steps.is_empty() || self.bare.is_some() {
            return Err(line.fault("a whole reply stands alone, but for headers before it"));
        }
        let script = match word {
            Word::Status => {
                let status = status(line)?;
                let message = if line.has_quote() { line.quoted()? } else { "the mock was told to fail".into() };
                Script::status(status, &String::from_utf8_lossy(&message))
            }
            Word::Reply => {
                let (status, media_type) = (status(line)?, line.needed("the content-type")?);
                Script::reply(status, [("content-type", media_type)], line.quoted()?)
            }
            _ if !self.headers.is_empty() => return Err(line.fault("\"answer\" has its own headers")),
            _ => {
                let has_count = line.clone().word().is_some_and(|word| word != "every");
                let tokens = if has_count { line.number("the number of tokens", MOST)? } else { TOKENS };
                Script::Answer { tokens, pace: pace(line.every()?) }
            }
        };
        let headers = std::mem::take(&mut self.headers);
        self.whole = Some(headers.into_iter().fold(script, |script, (name, value)| script.header(name, &value)));
        Ok(())
    }

    fn head(&mut self, word: Word, line: &mut Line<'_>) -> Result<(), Fault> {
        if self.has_head || self.bare.is_some() {
            return Err(line.fault("the head has left already"));
        }
        match word {
            Word::Length => {
                let length = line.size("the content-length")?;
                self.headers.push(("content-length".into(), length.to_string()));
            }
            Word::Head => {
                let status = if line.clone().word().is_some() { status(line)? } else { 200 };
                let headers = std::mem::take(&mut self.headers);
                self.steps.push(Step::Head { status, headers });
                self.has_head = true;
            }
            _ => self.headers.push(header(line)?),
        }
        Ok(())
    }

    fn begin_bare(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        if !self.steps.is_empty() || !self.headers.is_empty() {
            return Err(line.fault("\"bare\" is the first step of its part"));
        }
        self.bare = Some(Bare::default());
        Ok(())
    }

    fn bare_step(&mut self, word: Word, line: &mut Line<'_>) -> Result<(), Fault> {
        let Some(bare) = &mut self.bare else { return Ok(()) };
        if bare.end.is_some() {
            return Err(line.fault("the connection has ended already"));
        }
        match word {
            Word::Raw => bare.bytes.extend_from_slice(&line.quoted()?),
            Word::Garbage => {
                let length = line.size("the number of bytes")?;
                if length > BARE_MOST.saturating_sub(bare.bytes.len()) {
                    return Err(line.fault("a bare part has 16 MiB at most"));
                }
                bare.bytes.extend_from_slice(&Garbage::new(length).take(length));
            }
            Word::Hang => bare.end = Some(End::KeepOpen),
            Word::Cut => bare.end = Some(end(line)?),
            _ => return Err(line.fault("after \"bare\" there are only raw, garbage, cut and hang")),
        }
        Ok(())
    }

    fn push(&mut self, steps: Vec<Step>) {
        for step in steps {
            // Headers that no "head" has sent leave before the first bytes.
            if !self.has_head && !step.is_silent() {
                self.has_head = true;
                let headers = std::mem::take(&mut self.headers);
                self.steps.push(Step::Head { status: 200, headers });
            }
            self.steps.push(step);
        }
    }

    fn into_script(self) -> Script {
        match (self.whole, self.bare) {
            (Some(whole), _) => whole,
            (None, Some(bare)) => Script::Wire { bytes: bare.bytes.into(), end: bare.end.unwrap_or(End::Close) },
            (None, None) => Script::Stream(self.steps),
        }
    }
}

fn steps(word: Word, line: &mut Line<'_>) -> Result<Vec<Step>, Fault> {
    let step = match word {
        Word::Role => Step::Role,
        Word::Tokens => {
            let count = line.number("the number of tokens", MOST)?;
            Step::Tokens { count, pace: pace(line.every()?) }
        }
        Word::Finish => Step::Finish(line.needed("the reason")?.to_owned().into()),
        Word::Usage => Step::Usage,
        Word::Done => Step::Done,
        Word::Error => Step::Error(line.one_of("form of an error", ERROR_FORMS)?),
        Word::Event => Step::event(line.rest()),
        Word::Raw => raw(line)?,
        Word::Garbage => Step::Garbage(Garbage::new(line.size("the number of bytes")?)),
        Word::Endless => Step::Endless(line.size("the size")?),
        Word::Pause => Step::Pause(line.time("the pause")?),
        Word::Hang => Step::Hang,
        Word::Cut => cut(line)?,
        Word::HalfClose => Step::HalfClose,
        Word::Split => {
            let bytes = line.size("the number of bytes")?;
            if bytes == 0 {
                return Err(line.fault("a write has one byte at least"));
            }
            Step::Split { bytes, every: line.every()? }
        }
        Word::Deaf => Step::Deaf,
        Word::H2 => h2(line)?,
        Word::Frames => Step::Frames(line.size("the size of a frame")?),
        Word::Answer
        | Word::Status
        | Word::Reply
        | Word::Header
        | Word::Length
        | Word::Head
        | Word::Bare
        | Word::Each => {
            return Ok(vec![]);
        }
    };
    Ok(vec![step])
}

fn h2(line: &mut Line<'_>) -> Result<Step, Fault> {
    let known: Vec<_> = H2_WORDS.iter().map(|(name, word, _)| (*name, *word)).collect();
    Ok(match line.one_of("fault of HTTP/2", &known)? {
        H2Word::Goaway => Step::GoAway(GoAway::After),
        H2Word::GoawayBefore => Step::GoAway(GoAway::Before),
        H2Word::Calm => Step::GoAway(GoAway::Calm),
        H2Word::Refuse => Step::ResetStream(ResetReason::Refused),
        H2Word::Reset => Step::ResetStream(ResetReason::Internal),
        H2Word::Empty => {
            Step::EmptyFrames(usize::try_from(line.number("the number of frames", FRAMES_MOST)?).unwrap_or(0))
        }
        // RFC 9113 §6.5.2: at most 2^31 - 1.
        H2Word::Window => Step::Window(u32::try_from(line.number("the window", 0x7FFF_FFFF)?).unwrap_or(0)),
    })
}

fn raw(line: &mut Line<'_>) -> Result<Step, Fault> {
    let bytes = line.quoted()?;
    let times = if line.has("times") { line.number("the number of times", MOST)? } else { 1 };
    if times == 0 {
        return Err(line.fault("bytes are written once at least"));
    }
    let every = line.every()?;
    Ok(if times == 1 { Step::Raw(bytes) } else { Step::Repeat { bytes, times, every } })
}

fn cut(line: &mut Line<'_>) -> Result<Step, Fault> {
    let end = end(line)?;
    if line.has("at") {
        if !line.has("byte") {
            return Err(line.fault("after \"at\" comes \"byte COUNT\""));
        }
        return Ok(Step::CutAt { byte: line.number("the byte", MOST)?, end });
    }
    Ok(if end == End::Reset { Step::Reset } else { Step::Cut })
}

fn end(line: &mut Line<'_>) -> Result<End, Fault> {
    line.one_of("end of a connection", &[("fin", End::Close), ("rst", End::Reset)])
}

fn header(line: &mut Line<'_>) -> Result<(std::borrow::Cow<'static, str>, String), Fault> {
    let rest = line.rest();
    let Some((name, value)) = rest.split_once(':') else { return Err(line.fault("a header is NAME: VALUE")) };
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let is_name = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if !is_name || http::HeaderValue::from_str(value).is_err() {
        return Err(line.fault("HTTP allows no such header"));
    }
    Ok((name.into(), value.to_owned()))
}

fn status(line: &mut Line<'_>) -> Result<u16, Fault> {
    let status = line.number("the status", 599)?;
    let status = u16::try_from(status).ok().filter(|status| *status >= 200);
    status.ok_or_else(|| line.fault("the status is a number from 200 to 599"))
}

fn pace(every: Option<Duration>) -> Pace {
    every.map_or(Pace::Fast, Pace::Every)
}
