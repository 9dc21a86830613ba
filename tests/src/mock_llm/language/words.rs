//! The words of the script language: how each is written and what it means, once for the parser and for the help.

/// What a line begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Answer,
    Status,
    Reply,
    Header,
    Length,
    Head,
    Role,
    Tokens,
    Finish,
    Usage,
    Done,
    Error,
    Event,
    Raw,
    Garbage,
    Endless,
    Pause,
    Hang,
    Cut,
    HalfClose,
    Split,
    Deaf,
    Bare,
    H2,
    Frames,
    Each,
}

/// A word, how its line is written, and what it does.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) word: Word,
    pub(super) arguments: &'static str,
    pub(super) meaning: &'static str,
}

const fn entry(name: &'static str, word: Word, arguments: &'static str, meaning: &'static str) -> Entry {
    Entry { name, word, arguments, meaning }
}

/// All words, in the order in which the help tells of them.
pub(super) const WORDS: &[Entry] = &[
    entry("answer", Word::Answer, "[COUNT] [every TIME]", "a sound answer, streamed or not as the request asks"),
    entry("status", Word::Status, "STATUS [\"MESSAGE\"]", "a whole reply: this status and an error as OpenAI tells it"),
    entry("reply", Word::Reply, "STATUS TYPE \"BODY\"", "a whole reply with this content-type and body"),
    entry("header", Word::Header, "NAME: VALUE", "one more header for the head or the whole reply that follows"),
    entry("length", Word::Length, "BYTES", "a content-length for the head that follows, right or wrong"),
    entry("head", Word::Head, "[STATUS]", "sends the head now; without it, it leaves with the first bytes"),
    entry("role", Word::Role, "", "the chunk that gives each choice its role"),
    entry("tokens", Word::Tokens, "COUNT [every TIME]", "numbered tokens"),
    entry("finish", Word::Finish, "REASON", "the chunk that finishes each choice: stop, length, tool_calls, …"),
    entry("usage", Word::Usage, "", "the usage chunk, when the request asked for it"),
    entry("done", Word::Done, "", "data: [DONE]"),
    entry("error", Word::Error, "FORM", "an error in the stream, as one of these tells it (see below)"),
    entry("event", Word::Event, "TEXT…", "one data event with the rest of the line as it stands"),
    entry("raw", Word::Raw, "\"BYTES\" [times COUNT] [every TIME]", "these bytes; \\n \\r \\t \\0 \\\" \\\\ \\xNN"),
    entry("garbage", Word::Garbage, "BYTES", "so many bytes that mean nothing, always the same ones"),
    entry("endless", Word::Endless, "SIZE", "one data event of so many bytes whose end never comes"),
    entry("pause", Word::Pause, "TIME", "waits"),
    entry("hang", Word::Hang, "", "waits for ever"),
    entry(
        "cut",
        Word::Cut,
        "fin|rst [at byte COUNT]",
        "ends the connection; `at byte`: after so many bytes of the body",
    ),
    entry("half-close", Word::HalfClose, "", "sends a FIN and reads on"),
    entry("split", Word::Split, "BYTES [every TIME]", "from here on each write has at most so many bytes"),
    entry("deaf", Word::Deaf, "", "from here on goes on although the client has left"),
    entry("bare", Word::Bare, "", "raw and garbage go to the bare connection, below HTTP"),
    entry("h2", Word::H2, "FAULT [COUNT]", "a fault of HTTP/2 (see below)"),
    entry("frames", Word::Frames, "BYTES", "HTTP/2: from here on DATA frames of at most so many bytes"),
    entry("each", Word::Each, "TIME", "first line: the parts between --- take turns by time, not by request"),
];

/// A fault of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum H2Word {
    Goaway,
    GoawayBefore,
    Calm,
    Refuse,
    Reset,
    Empty,
    Window,
}

/// The faults of HTTP/2, and what each means.
pub(super) const H2_WORDS: &[(&str, H2Word, &str)] = &[
    ("goaway", H2Word::Goaway, "GOAWAY; this stream and those before it go on"),
    ("goaway-before", H2Word::GoawayBefore, "GOAWAY that says this stream was never looked at"),
    ("calm", H2Word::Calm, "GOAWAY with ENHANCE_YOUR_CALM"),
    ("refuse", H2Word::Refuse, "RST_STREAM with REFUSED_STREAM"),
    ("reset", H2Word::Reset, "RST_STREAM with INTERNAL_ERROR"),
    ("empty", H2Word::Empty, "so many empty DATA frames"),
    ("window", H2Word::Window, "connections opened from now on give a request so small a window, and never more"),
];

/// All that can be said, for people.
pub fn help() -> String {
    let mut help = String::from("A script has one step per line, from top to bottom; # begins a comment.\n\n");
    let mut line = |left: &str, right: &str| help.push_str(&format!("  {left:<42} {right}\n"));
    for entry in WORDS {
        line(&format!("{} {}", entry.name, entry.arguments), entry.meaning);
    }
    line("---", "the next request gets the part below, in turns");
    help.push_str("\nForms of `error`: ");
    let forms: Vec<_> = super::ERROR_FORMS.iter().map(|(name, _)| *name).collect();
    help.push_str(&forms.join(", "));
    help.push_str("\n\nFaults of `h2`:\n");
    for (name, _, meaning) in H2_WORDS {
        help.push_str(&format!("  {name:<14} {meaning}\n"));
    }
    help
}
