//! Checks one stream while its client reads it: what came, whether it was right, and how it ended. No token is kept.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use ntonix_llm::reply::backend_error;
use serde::Serialize;

use super::token::{Corrupt, Token};
use super::violation::Invariant;
use crate::mock_llm::now_ns;

static TEXTS: LazyLock<[Finder<'static>; 2]> =
    LazyLock::new(|| [Finder::new(r#""content":""#), Finder::new(r#""text":""#)]);
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""finish_reason":"stop""#));

/// How a client speaks to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// HTTP/1.1 in plain text.
    Http1,
    /// HTTP/2 in plain text.
    Http2,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 over TLS.
    Http2Tls,
    /// `ntonix.v1` where the socket alone is the brake.
    SocketAuto,
    /// `ntonix.v1` where the client grants each stream its bytes.
    SocketCredit,
}

/// In which form an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Events that end with `[DONE]`, or frames that end with `done`.
    Streamed,
    /// One body.
    Whole,
}

/// How the transport of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// Cleanly: the body or the stream was said to be over.
    Clean,
    /// It broke, or the server closed it in the middle.
    Broken,
    /// We left.
    Left,
}

/// How a stream ended for its client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All came.
    Complete,
    /// The gateway told of an error of this code.
    Error(String),
    /// The transport broke.
    Abort,
    /// The client left before the end.
    Left,
    /// It looked like an end, and was none.
    Silent,
}

/// What one client stream got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, which its tokens carry.
    pub stream: String,
    /// The exchange, as the gateway named it; `None` when the client left, or was cut off, before it was told.
    pub exchange: Option<String>,
    /// How it was asked for.
    pub transport: Transport,
    /// In which form the answer was asked for.
    pub shape: Shape,
    /// The gateway answered: a head, or a frame of the stream.
    pub is_answered: bool,
    /// The attempt whose tokens came.
    pub attempt: Option<String>,
    /// Tokens that came.
    pub tokens: u64,
    /// When the first came, in ns since 1970.
    pub first_ns: Option<u64>,
    /// How it ended.
    pub ending: Ending,
    /// The first thing that was wrong with it.
    pub wrong: Option<(Invariant, String)>,
}

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    account: Account,
    has_finish: bool,
    is_done: bool,
    error: Option<String>,
}

// === impl Transport ===

impl Transport {
    /// Every transport.
    pub const ALL: [Self; 6] =
        [Self::Http1, Self::Http2, Self::Http1Tls, Self::Http2Tls, Self::SocketAuto, Self::SocketCredit];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Http1Tls => "http/1.1 tls",
            Self::Http2Tls => "http/2 tls",
            Self::SocketAuto => "websocket auto",
            Self::SocketCredit => "websocket credit",
        }
    }

    /// What the gateway's records call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http1Tls => "http1",
            Self::Http2 | Self::Http2Tls => "http2",
            Self::SocketAuto | Self::SocketCredit => "websocket",
        }
    }
}

// === impl Ending ===

impl Ending {
    /// Its name without the code of an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error(_) => "error",
            Self::Abort => "abort",
            Self::Left => "left",
            Self::Silent => "silent",
        }
    }
}

// === impl Reader ===

impl Reader {
    /// Of a stream that is asked for now.
    pub fn new(stream: impl Into<String>, transport: Transport, shape: Shape) -> Self {
        let account = Account {
            stream: stream.into(),
            exchange: None,
            transport,
            shape,
            is_answered: false,
            attempt: None,
            tokens: 0,
            first_ns: None,
            ending: Ending::Silent,
            wrong: None,
        };
        Self { account, has_finish: false, is_done: false, error: None }
    }

    /// Takes note of the exchange that the stream is.
    pub fn name(&mut self, exchange: &str) {
        self.account.exchange = Some(exchange.to_owned());
    }

    /// Takes note that the gateway answers.
    pub fn answered(&mut self) {
        self.account.is_answered = true;
    }

    /// Takes note that the stream has not ended although it should have long ago.
    pub fn endless(&mut self) {
        let tokens = self.account.tokens;
        self.wrong(Invariant::OneEnd, format!("has no end; {tokens} tokens came"));
    }

    /// Takes note of something that belongs to no stream, or to none that is under way.
    pub fn stray(&mut self, what: &str) {
        self.wrong(Invariant::OneEnd, what.to_owned());
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.account.tokens
    }

    /// Whether the stream has said how it ends.
    pub fn is_over(&self) -> bool {
        self.is_done || self.error.is_some()
    }

    /// Looks at the payload of an event, at the `d` of a frame, or at a whole body.
    pub fn event(&mut self, data: &[u8]) {
        if self.is_over() {
            let after = String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
            self.wrong(Invariant::OneEnd, format!("something came after the end: {after}"));
        } else if data == b"[DONE]" {
            self.done();
        } else if data.starts_with(b"{\"error\":") {
            self.failed(data);
        } else {
            for finder in TEXTS.iter() {
                if let Some(at) = finder.find(data) {
                    let text = &data[at + finder.needle().len()..];
                    self.text(&text[..memchr::memchr(b'"', text).unwrap_or(text.len())]);
                }
            }
            self.has_finish |= FINISH.find(data).is_some();
        }
    }

    /// Takes note of an error that the gateway told: an error body, event or frame.
    pub fn failed(&mut self, body: &[u8]) {
        let error = backend_error(body).unwrap_or_default();
        self.error = Some(error.code.or(error.kind).unwrap_or_else(|| "without a code".to_owned()));
    }

    /// Takes note of the proper end: `[DONE]`, a `done` frame, or the end of a whole body.
    pub fn done(&mut self) {
        if self.account.shape == Shape::Streamed && !self.has_finish {
            self.wrong(Invariant::OneEnd, "called done before the model had finished".to_owned());
        }
        self.is_done = true;
    }

    /// Closes the account.
    pub fn close(mut self, close: Close) -> Account {
        self.account.ending = match (close, self.error.take()) {
            // What came is what counts, whatever the transport did afterwards.
            (_, Some(code)) => Ending::Error(code),
            (_, None) if self.is_done && self.has_finish => Ending::Complete,
            (Close::Left, None) => Ending::Left,
            (Close::Broken, None) => Ending::Abort,
            (Close::Clean, None) => Ending::Silent,
        };
        if self.account.ending == Ending::Silent {
            let tokens = self.account.tokens;
            self.wrong(Invariant::OneEnd, format!("ended cleanly after {tokens} tokens without being complete"));
        }
        self.account
    }

    fn text(&mut self, text: &[u8]) {
        for token in Token::all(text) {
            match token {
                Ok(token) => self.token(token),
                Err(Corrupt::Check) => self.wrong(Invariant::OnePrefix, "a token with a wrong checksum".to_owned()),
                Err(Corrupt::Form) => {
                    let text = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
                    self.wrong(Invariant::OnePrefix, format!("what is no token: {text}"));
                }
            }
        }
    }

    fn token(&mut self, token: Token<'_>) {
        let account = &mut self.account;
        let wrong = if token.stream != account.stream {
            Some(format!("a token of the stream {}", token.stream))
        } else if account.attempt.as_deref().is_some_and(|attempt| attempt != token.attempt) {
            Some(format!("a token of the attempt {} after those of another", token.attempt))
        } else if token.number != account.tokens {
            Some(format!("the token {} where {} was due", token.number, account.tokens))
        } else {
            None
        };
        if account.attempt.is_none() {
            account.attempt = Some(token.attempt.to_owned());
            account.first_ns = Some(now_ns());
        }
        // After a gap the count goes on from there, so that one loss is told once.
        account.tokens = token.number + 1;
        if let Some(wrong) = wrong {
            self.wrong(Invariant::OnePrefix, wrong);
        }
    }

    fn wrong(&mut self, invariant: Invariant, what: String) {
        self.account.wrong.get_or_insert((invariant, what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(stream: &str, attempt: &str, number: u64) -> Vec<u8> {
        let token = Token { stream, attempt, number, sent_ns: 1 };
        format!(r#"{{"choices":[{{"delta":{{"content":"{token}"}},"finish_reason":null}}]}}"#).into_bytes()
    }

    fn reader() -> Reader {
        Reader::new("s", Transport::Http1, Shape::Streamed)
    }

    fn read(tokens: &[Vec<u8>]) -> Reader {
        let mut reader = reader();
        for token in tokens {
            reader.event(token);
        }
        reader
    }

    fn finished(mut reader: Reader) -> Account {
        reader.event(br#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        reader.event(b"[DONE]");
        reader.close(Close::Clean)
    }

    #[test]
    fn a_whole_answer_is_complete() {
        let account = finished(read(&[token("s", "m-1", 0), token("s", "m-1", 1)]));
        assert_eq!((account.ending, account.tokens, account.wrong), (Ending::Complete, 2, None));
        assert_eq!(account.attempt.as_deref(), Some("m-1"));
        assert!(account.first_ns.is_some());
    }

    #[test]
    fn the_end_is_what_was_told_or_what_the_transport_did() {
        let end = |close| read(&[token("s", "m-1", 0)]).close(close).ending;
        assert_eq!((end(Close::Broken), end(Close::Left)), (Ending::Abort, Ending::Left));
        let mut failed = read(&[token("s", "m-1", 0)]);
        failed.event(br#"{"error":{"message":"m","type":"t","code":"upstream_reset","param":null}}"#);
        let account = failed.close(Close::Broken);
        assert_eq!((account.ending, account.wrong), (Ending::Error("upstream_reset".to_owned()), None));
    }

    /// I1.
    #[test]
    fn a_clean_end_before_the_end_is_a_silent_truncation() {
        let account = read(&[token("s", "m-1", 0)]).close(Close::Clean);
        assert_eq!(account.ending, Ending::Silent);
        assert_eq!(account.wrong.map(|(invariant, _)| invariant), Some(Invariant::OneEnd));
        let mut early = read(&[token("s", "m-1", 0)]);
        early.event(b"[DONE]");
        let account = early.close(Close::Clean);
        assert_eq!(account.wrong.map(|(invariant, _)| invariant), Some(Invariant::OneEnd));
    }

    /// I1.
    #[test]
    fn nothing_comes_after_an_end() {
        let mut reader = read(&[token("s", "m-1", 0)]);
        reader.event(br#"{"error":{"message":"m","code":"upstream_reset"}}"#);
        reader.event(b"[DONE]");
        let account = reader.close(Close::Clean);
        assert_eq!(account.wrong.map(|(invariant, _)| invariant), Some(Invariant::OneEnd));
    }

    /// I2: lost, doubled, reordered, another attempt's, another stream's, corrupted, and no token at all.
    #[test]
    fn every_wrong_token_is_seen() {
        let mut corrupt = token("s", "m-1", 1);
        let at = memchr::memmem::find(&corrupt, b"s.m-1").unwrap();
        corrupt[at] = b'S';
        let second = [
            token("s", "m-1", 2),
            token("s", "m-1", 0),
            token("s", "m-2", 1),
            token("other", "m-1", 1),
            corrupt,
            br#"{"choices":[{"delta":{"content":"hello "}}]}"#.to_vec(),
        ];
        for second in second {
            let account = finished(read(&[token("s", "m-1", 0), second.clone()]));
            let seen = account.wrong.map(|(invariant, _)| invariant);
            assert_eq!(seen, Some(Invariant::OnePrefix), "{}", String::from_utf8_lossy(&second));
        }
        // The first must be number 0.
        assert!(finished(read(&[token("s", "m-1", 1)])).wrong.is_some());
    }

    #[test]
    fn a_body_that_is_not_streamed_is_read_whole() {
        let text: String =
            (0..3).map(|number| Token { stream: "s", attempt: "m-1", number, sent_ns: 1 }.to_string()).collect();
        let body = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}},"finish_reason":"stop"}}]}}"#);
        let mut reader = Reader::new("s", Transport::Http2, Shape::Whole);
        reader.event(body.as_bytes());
        reader.done();
        let account = reader.close(Close::Clean);
        assert_eq!((account.ending, account.tokens, account.wrong), (Ending::Complete, 3, None));
    }
}
