//! Counts and times of a run, and the check that every token came once, in order and to the right reader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use hdrhistogram::Histogram;
use memchr::memmem::Finder;
use ntonix_tests::ledger::token::Token;
use ntonix_tests::mock_llm::now_ns;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

static CONTENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""content":""#));
static STOP: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""finish_reason":"stop""#));

/// What came of all requests.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Requests whose answer was complete; those that were left, when that is what was to be done.
    pub(crate) complete: u64,
    /// Requests that failed, by what went wrong.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Tokens that arrived.
    pub(crate) tokens: u64,
    /// Answers that have begun and not ended, now and at most.
    open: u64,
    pub(crate) open_most: u64,
    pub(crate) wrong: Wrong,
    /// From the request to the end of its answer.
    pub(crate) request: Times,
    /// From the request to its first token.
    pub(crate) first_token: Times,
    /// From the mock's write of a token to our read.
    pub(crate) travel: Times,
    /// From our leaving to the mock's seeing it.
    pub(crate) cut: Times,
}

/// Tokens that did not come as they were sent.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wrong {
    /// Numbers that never came although later ones did, or the answer was complete.
    pub(crate) lost: u64,
    /// Numbers that came again.
    pub(crate) doubled: u64,
    /// Numbers that came after a later one.
    pub(crate) reordered: u64,
    /// Tokens of somebody else's answer or of another attempt, and texts that are no token of the mock.
    pub(crate) foreign: u64,
    /// Answers that ended cleanly before they were complete.
    pub(crate) truncated: u64,
}

/// A histogram of times in µs.
#[derive(Debug)]
pub(crate) struct Times(Histogram<u64>);

/// The check of one answer.
#[derive(Debug)]
pub(crate) struct Check {
    nonce: String,
    tokens: u64,
    /// The attempt that wrote the first token; all others must be of it too.
    attempt: Option<String>,
    next: u64,
    missing: BTreeSet<u64>,
    begun: Instant,
    has_token: bool,
    has_stop: bool,
    is_done: bool,
    /// The client has left, with all that it wanted.
    has_left: bool,
    error: Option<String>,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            complete: 0,
            failed: BTreeMap::new(),
            tokens: 0,
            open: 0,
            open_most: 0,
            wrong: Wrong::default(),
            request: Times::new()?,
            first_token: Times::new()?,
            travel: Times::new()?,
            cut: Times::new()?,
        })
    }

    pub(crate) fn fail(&mut self, reason: impl Into<String>) {
        *self.failed.entry(reason.into()).or_default() += 1;
    }
}

// === impl Wrong ===

impl Wrong {
    pub(crate) fn total(&self) -> u64 {
        self.lost + self.doubled + self.reordered + self.foreign + self.truncated
    }
}

// === impl Times ===

impl Times {
    fn new() -> anyhow::Result<Self> {
        let hour = 3_600_000_000;
        Ok(Self(Histogram::new_with_bounds(1, hour, 3)?))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of all did not pass, in µs.
    pub(crate) fn quantile_us(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }
}

// === impl Check ===

impl Check {
    /// The check of an answer that was asked for just now.
    pub(crate) fn new(nonce: String, tokens: u64) -> Self {
        Self {
            nonce,
            tokens,
            attempt: None,
            next: 0,
            missing: BTreeSet::new(),
            begun: Instant::now(),
            has_token: false,
            has_stop: false,
            is_done: false,
            has_left: false,
            error: None,
        }
    }

    pub(crate) fn has_token(&self) -> bool {
        self.has_token
    }

    /// Leaves when there are so many tokens; says whether it has.
    pub(crate) fn leave(&mut self, tokens: u64) -> bool {
        self.has_left = self.error.is_none() && self.next >= tokens;
        self.has_left
    }

    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Looks at the payload of one event, or at a whole body.
    pub(crate) fn event(&mut self, data: &[u8], tally: &mut Tally) {
        if data == b"[DONE]" {
            self.is_done = true;
        } else if data.starts_with(b"{\"error\":") {
            self.fail(data);
        } else {
            if let Some(at) = CONTENT.find(data) {
                let text = &data[at + CONTENT.needle().len()..];
                self.text(&text[..memchr::memchr(b'"', text).unwrap_or(text.len())], tally);
            }
            self.has_stop |= self.next >= self.tokens && STOP.find(data).is_some();
        }
    }

    /// Takes note of an error that the gateway told.
    pub(crate) fn fail(&mut self, body: &[u8]) {
        let error = ntonix_llm::reply::backend_error(body).unwrap_or_default();
        self.error = Some(error.code.or(error.kind).unwrap_or_else(|| "error without a code".to_owned()));
    }

    /// Takes note of an answer's proper end where no `[DONE]` tells of it.
    pub(crate) fn done(&mut self) {
        self.is_done = true;
    }

    /// Adds the answer to the tally; `lost` says what broke the connection, if something did.
    pub(crate) fn settle(self, lost: Option<String>, tally: &mut Tally) {
        tally.wrong.lost += self.missing.len() as u64;
        tally.open -= u64::from(self.has_token);
        if let Some(reason) = self.error.or(lost) {
            tally.fail(reason);
        } else if self.has_left {
            tally.complete += 1;
        } else if !self.is_done {
            tally.wrong.truncated += 1;
        } else if self.next < self.tokens {
            tally.wrong.lost += self.tokens - self.next;
        } else if !self.has_stop {
            tally.wrong.truncated += 1;
        } else {
            tally.complete += 1;
            tally.request.add(self.begun.elapsed());
        }
    }

    fn text(&mut self, text: &[u8], tally: &mut Tally) {
        for token in Token::all(text) {
            if !std::mem::replace(&mut self.has_token, true) {
                tally.first_token.add(self.begun.elapsed());
                tally.open += 1;
                tally.open_most = tally.open_most.max(tally.open);
            }
            tally.tokens += 1;
            match token {
                Ok(token) if self.is_ours(&token) => {
                    tally.travel.add(Duration::from_nanos(now_ns().saturating_sub(token.sent_ns)));
                    self.number(token.number, tally);
                }
                Ok(_) | Err(_) => tally.wrong.foreign += 1,
            }
        }
    }

    fn number(&mut self, number: u64, tally: &mut Tally) {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
        } else if self.missing.remove(&number) {
            tally.wrong.reordered += 1;
        } else {
            tally.wrong.doubled += 1;
        }
    }

    /// Whether the token belongs to this answer and to the same attempt as those before.
    fn is_ours(&mut self, token: &Token<'_>) -> bool {
        if token.stream != self.nonce || token.number >= self.tokens {
            return false;
        }
        token.attempt == *self.attempt.get_or_insert_with(|| token.attempt.to_owned())
    }
}
