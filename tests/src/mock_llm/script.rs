//! What the mock does with one request, from a well-behaved answer to no HTTP at all.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ResetReason;

/// Names and values of headers, in their order.
pub type Headers = Vec<(Cow<'static, str>, String)>;

/// What happens to one request.
#[derive(Debug, Clone)]
pub enum Script {
    /// A well-behaved answer of the operation, streamed or not, as the request asks.
    Answer {
        /// How many tokens; `max_tokens` of a request makes it fewer or more.
        tokens: u64,
        /// How fast they come.
        pace: Pace,
    },
    /// Exactly this reply, with its `content-length`.
    Reply {
        /// The status.
        status: u16,
        /// Header names and values.
        headers: Headers,
        /// The body.
        body: Bytes,
    },
    /// A streamed reply, step by step; its head leaves before the first step that writes.
    Stream(Vec<Step>),
    /// These bytes on the bare connection instead of a reply (below TLS, when there is TLS).
    Wire {
        /// What is written.
        bytes: Bytes,
        /// What becomes of the connection.
        end: End,
    },
    /// One of several, in turns.
    Turns(Turns),
}

/// Scripts that take turns; clones go on counting together.
#[derive(Debug, Clone)]
pub struct Turns {
    scripts: Arc<[Script]>,
    by: By,
}

#[derive(Debug, Clone)]
enum By {
    /// The next one with each request.
    Request(Arc<AtomicUsize>),
    /// The next one each time this much is over.
    Time { start: Instant, period: Duration },
}

/// One step of a streamed reply. After the last the body ends cleanly, whatever was or was not said.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends the head now, with these headers beside its own.
    Head {
        /// The status.
        status: u16,
        /// The headers.
        headers: Headers,
    },
    /// The chunk that gives each choice its role.
    Role,
    /// Numbered tokens; the numbers go on from those of the step before.
    Tokens {
        /// How many.
        count: u64,
        /// How fast.
        pace: Pace,
    },
    /// The chunk that finishes each choice for this reason.
    Finish(Cow<'static, str>),
    /// The usage chunk, when the request asked for it.
    Usage,
    /// `[DONE]`.
    Done,
    /// An error inside the stream.
    Error(ErrorForm),
    /// These bytes as they are, in a write of their own.
    Raw(Bytes),
    /// The same bytes so often, each time in a write of their own.
    Repeat {
        /// What is written.
        bytes: Bytes,
        /// How often.
        times: u64,
        /// The time between two writes.
        every: Option<Duration>,
    },
    /// Bytes that mean nothing, made while they are written.
    Garbage(Garbage),
    /// One event of this many bytes whose end never comes.
    Endless(usize),
    /// Waits.
    Pause(Duration),
    /// Waits until the test lets it pass.
    Gate(Gate),
    /// Waits for ever.
    Hang,
    /// Closes the connection in the middle (HTTP/2: resets the stream).
    Cut,
    /// Resets the connection in the middle.
    Reset,
    /// From here on: ends the connection when so many bytes of the body have left.
    CutAt {
        /// The bytes that still leave.
        byte: u64,
        /// How it ends.
        end: End,
    },
    /// Sends a FIN and reads on.
    HalfClose,
    /// From here on: no write has more bytes than this.
    Split {
        /// The most bytes of a write.
        bytes: usize,
        /// The time between two writes.
        every: Option<Duration>,
    },
    /// From here on: goes on although the client has left.
    Deaf,
    /// HTTP/2: says that no further stream will be looked at.
    GoAway(GoAway),
    /// HTTP/2: resets this stream alone.
    ResetStream(ResetReason),
    /// HTTP/2: so many DATA frames with nothing in them.
    EmptyFrames(usize),
    /// HTTP/2: from here on no DATA frame has more bytes than this.
    Frames(usize),
    /// HTTP/2: a request may send so many bytes and never more. Counts for connections that are opened while this is in
    /// the script for everything.
    Window(u32),
}

/// Bytes that are neither HTTP nor text: the same ones for each length.
#[derive(Debug, Clone)]
pub struct Garbage {
    left: usize,
    random: fastrand::Rng,
}

/// What a GOAWAY says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoAway {
    /// This stream and those before it go on.
    After,
    /// This stream was never looked at, nor any after it.
    Before,
    /// The client asked too much: `ENHANCE_YOUR_CALM`.
    Calm,
}

/// How fast tokens come.
#[derive(Debug, Clone)]
pub enum Pace {
    /// As fast as they are taken.
    Fast,
    /// The first at once, then one each such period.
    Every(Duration),
    /// One for each that the test releases.
    Gate(Gate),
}

/// Lets a test decide when the mock goes on; clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

/// What becomes of the connection after bytes on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It stays open and silent.
    KeepOpen,
}

/// How backends tell of an error inside a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorForm {
    /// `{"error":{"message","type","param","code"}}` with a word as its code.
    OpenAi,
    /// The same with a number as its code: vLLM, SGLang, llama.cpp.
    NumericCode,
    /// `{"object":"error",…}`: older vLLM.
    Object,
    /// An `error:` field instead of a `data:` one: older llama.cpp.
    Field,
    /// `{"error":"text","error_type":"…"}`: TGI.
    Text,
    /// An event named `error`.
    Named,
}

// === impl Script ===

impl Script {
    /// The names that [`Self::named`] knows, beside those of statuses.
    pub const NAMES: [&'static str; 6] = ["cut", "silent-end", "stream-error", "garbage", "html", "no-reply"];

    /// A well-behaved answer of so many tokens without pauses.
    pub fn answer(tokens: u64) -> Self {
        Self::Answer { tokens, pace: Pace::Fast }
    }

    /// A well-behaved answer, one token each time the gate is opened.
    pub fn gated(tokens: u64, gate: &Gate) -> Self {
        Self::Answer { tokens, pace: Pace::Gate(gate.clone()) }
    }

    /// So many tokens without pauses, and then these steps instead of a proper end.
    pub fn broken(tokens: u64, then: impl IntoIterator<Item = Step>) -> Self {
        let mut steps = vec![Step::Head { status: 200, headers: vec![] }];
        if tokens > 0 {
            steps.extend([Step::Role, Step::Tokens { count: tokens, pace: Pace::Fast }]);
        }
        steps.extend(then);
        Self::Stream(steps)
    }

    /// These pieces, each in a write of its own, and the clean end of the body.
    pub fn raw(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        Self::Stream(pieces.into_iter().map(|piece| Step::Raw(Bytes::copy_from_slice(piece.as_ref()))).collect())
    }

    /// A status with an error object of the OpenAI API.
    pub fn status(status: u16, message: &str) -> Self {
        let error = serde_json::json!({ "message": message, "type": "mock_error", "param": null, "code": "mock" });
        let body = serde_json::json!({ "error": error }).to_string();
        Self::reply(status, [("content-type", "application/json")], body)
    }

    /// Exactly this reply.
    pub fn reply<'a>(
        status: u16,
        headers: impl IntoIterator<Item = (&'static str, &'a str)>,
        body: impl Into<Bytes>,
    ) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.into(), value.to_owned())).collect();
        Self::Reply { status, headers, body: body.into() }
    }

    /// Each request gets the next of these, round and round; with a period it is time that decides.
    pub fn turns(scripts: Vec<Self>, period: Option<Duration>) -> Self {
        let by = match period {
            None => By::Request(Arc::default()),
            Some(period) => By::Time { start: Instant::now(), period },
        };
        Self::Turns(Turns { scripts: scripts.into(), by })
    }

    /// A status that says when to come again.
    pub fn retry_after(status: u16, seconds: u32) -> Self {
        Self::status(status, "come again").header("retry-after", &seconds.to_string())
    }

    /// A 200 with a page for people.
    pub fn html() -> Self {
        Self::reply(200, [("content-type", "text/html")], "<!doctype html><title>Welcome</title>\n")
    }

    /// No reply at all: the connection closes instead.
    pub fn no_reply() -> Self {
        Self::Stream(vec![Step::Cut])
    }

    /// No reply and no end either.
    pub fn hang() -> Self {
        Self::Stream(vec![Step::Hang])
    }

    /// Bytes that are not HTTP, then the end of the connection.
    pub fn garbage() -> Self {
        Self::Wire { bytes: Bytes::from_static(b"\x16\x03\x01 this is not HTTP \x00\xFF\r\n\r\n"), end: End::Close }
    }

    /// A JSON reply that declares `declared` bytes and has those of `body`.
    ///
    /// One that is too short ends with the connection; after one that is too long the connection stays open.
    pub fn wrong_length(declared: usize, body: &str) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {declared}\r\n\r\n");
        let end = if declared > body.len() { End::Close } else { End::KeepOpen };
        Self::Wire { bytes: [head.as_str(), body].concat().into(), end }
    }

    /// The script that goes by this name, for those who need no more: `status-NNN`, `cut`, `silent-end` and
    /// `stream-error` after three tokens, `garbage`, `html`, `no-reply`.
    pub fn named(name: &str) -> Option<Self> {
        let text = match name {
            "cut" => "role\ntokens 3\ncut fin",
            "silent-end" => "role\ntokens 3",
            "stream-error" => "role\ntokens 3\nerror openai",
            "garbage" => "bare\ngarbage 200",
            "html" => r#"reply 200 text/html "<!doctype html><title>Welcome</title>\n""#,
            "no-reply" => "cut fin",
            _ => {
                let status = name.strip_prefix("status-")?.parse().ok().filter(|status| (400..600).contains(status))?;
                return Some(Self::status(status, "the mock was told to fail"));
            }
        };
        text.parse().ok()
    }

    /// The same script with one more header in its reply.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: &str) -> Self {
        let header = (name.into(), value.to_owned());
        match &mut self {
            Self::Reply { headers, .. } => headers.push(header),
            Self::Stream(steps) => match steps.first_mut() {
                Some(Step::Head { headers, .. }) => headers.push(header),
                _ => steps.insert(0, Step::Head { status: 200, headers: vec![header] }),
            },
            Self::Answer { .. } | Self::Wire { .. } | Self::Turns(_) => {}
        }
        self
    }

    /// The script itself, or the one of several whose turn it is.
    pub(super) fn whose_turn(self) -> Self {
        match self {
            Self::Turns(turns) => turns.next(),
            script => script,
        }
    }

    /// The bytes that a request may send over HTTP/2 while this is the script for everything.
    pub(super) fn window(&self) -> Option<u32> {
        let Self::Stream(steps) = self else { return None };
        steps.iter().find_map(|step| if let Step::Window(bytes) = step { Some(*bytes) } else { None })
    }
}

// === impl Step ===

impl Step {
    /// One `data` event with this payload.
    pub fn event(data: &str) -> Self {
        Self::Raw(format!("data: {data}\n\n").into())
    }

    /// The chunk that finishes each choice.
    pub fn finish(reason: &'static str) -> Self {
        Self::Finish(reason.into())
    }

    /// Whether the step can be taken before the head has left.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Self::Pause(_) | Self::Gate(_) | Self::Hang | Self::Cut | Self::Reset | Self::HalfClose => true,
            Self::CutAt { .. } | Self::Split { .. } | Self::Deaf | Self::Frames(_) | Self::Window(_) => true,
            Self::GoAway(_) | Self::ResetStream(_) => true,
            Self::Head { .. } | Self::Role | Self::Tokens { .. } | Self::Finish(_) | Self::Usage | Self::Done => false,
            Self::Error(_) | Self::Raw(_) | Self::Repeat { .. } | Self::Garbage(_) => false,
            Self::Endless(_) | Self::EmptyFrames(_) => false,
        }
    }
}

// === impl Garbage ===

impl Garbage {
    /// So many bytes.
    pub fn new(length: usize) -> Self {
        Self { left: length, random: fastrand::Rng::with_seed(length as u64) }
    }

    /// The next bytes, at most so many; none at the end.
    pub(super) fn take(&mut self, most: usize) -> Bytes {
        let length = most.min(self.left);
        self.left -= length;
        std::iter::repeat_with(|| self.random.u8(128..)).take(length).collect()
    }

    /// Whether nothing is left.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }
}

// === impl Turns ===

impl Turns {
    /// Whose turn it is.
    pub(super) fn next(&self) -> Script {
        let turn = match &self.by {
            By::Request(count) => count.fetch_add(1, Ordering::Relaxed),
            By::Time { start, period } => {
                let periods = start.elapsed().as_nanos() / period.as_nanos().max(1);
                usize::try_from(periods).unwrap_or(usize::MAX)
            }
        };
        // A script without any part does nothing.
        let count = self.scripts.len().max(1);
        self.scripts.get(turn % count).cloned().unwrap_or(Script::Stream(vec![]))
    }
}

// === impl Gate ===

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `count` steps pass, now or when they come.
    pub fn open(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Lets everything pass from now on.
    pub fn open_for_good(&self) {
        self.0.close();
    }

    pub(super) async fn pass(&self) {
        // A closed semaphore is an open gate.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

// === impl ErrorForm ===

impl ErrorForm {
    /// Every form.
    pub const ALL: [Self; 6] = [Self::OpenAi, Self::NumericCode, Self::Object, Self::Field, Self::Text, Self::Named];

    /// The event; its message is always `the mock broke`.
    pub fn event(self) -> &'static str {
        match self {
            Self::OpenAi => {
                concat!(
                    r#"data: {"error":{"message":"the mock broke","type":"server_error","param":null,"code":"broken"}}"#,
                    "\n\n"
                )
            }
            Self::NumericCode => {
                concat!(r#"data: {"error":{"code":500,"message":"the mock broke","type":"server_error"}}"#, "\n\n")
            }
            Self::Object => {
                concat!(r#"data: {"object":"error","message":"the mock broke","type":"Error","code":500}"#, "\n\n")
            }
            Self::Field => {
                concat!(r#"error: {"code":500,"message":"the mock broke","type":"server_error"}"#, "\n\n")
            }
            Self::Text => concat!(r#"data: {"error":"the mock broke","error_type":"generation"}"#, "\n\n"),
            Self::Named => concat!("event: error\n", r#"data: {"message":"the mock broke"}"#, "\n\n"),
        }
    }
}
