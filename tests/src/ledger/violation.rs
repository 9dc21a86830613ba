//! The promises that every run checks, and how a broken one is told.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

/// A promise that holds for every stream, whatever happens around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Invariant {
    /// A stream is complete, or ends in an explicit error, or its transport breaks; never a silent truncation.
    #[serde(rename = "I1")]
    OneEnd,
    /// What was delivered is a gapless prefix of the output of exactly one attempt.
    #[serde(rename = "I2")]
    OnePrefix,
    /// No attempt begins after the first token was delivered.
    #[serde(rename = "I3")]
    NoLateRetry,
    /// Every accepted request has exactly one usage record.
    #[serde(rename = "I4")]
    OneRecord,
    /// No secret stands outside its place.
    #[serde(rename = "I5")]
    NoSecrets,
    /// The memory of a stream is bounded.
    #[serde(rename = "I6")]
    BoundedMemory,
    /// The books of backend, gateway and client tell the same story.
    #[serde(rename = "books")]
    BooksAgree,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The stream, exchange or file in which it was broken.
    pub about: String,
    /// What was seen.
    pub what: String,
}

// === impl Invariant ===

impl Invariant {
    /// Every promise.
    pub const ALL: [Self; 7] = [
        Self::OneEnd,
        Self::OnePrefix,
        Self::NoLateRetry,
        Self::OneRecord,
        Self::NoSecrets,
        Self::BoundedMemory,
        Self::BooksAgree,
    ];

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneEnd => "I1",
            Self::OnePrefix => "I2",
            Self::NoLateRetry => "I3",
            Self::OneRecord => "I4",
            Self::NoSecrets => "I5",
            Self::BoundedMemory => "I6",
            Self::BooksAgree => "books",
        }
    }

    /// The promise in a few words.
    pub fn promise(self) -> &'static str {
        match self {
            Self::OneEnd => "every stream is complete, told of an error, or cut off by the transport",
            Self::OnePrefix => "what was delivered is a prefix of exactly one attempt",
            Self::NoLateRetry => "no attempt begins after the first token was delivered",
            Self::OneRecord => "one usage record for every accepted request",
            Self::NoSecrets => "no key, credential or prompt in logs, metrics, records or errors",
            Self::BoundedMemory => "memory of a stream stays within its bound",
            Self::BooksAgree => "backend, gateway and client count the same tokens and attempts",
        }
    }
}

impl Display for Invariant {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Violation ===

impl Violation {
    /// A broken promise.
    pub fn new(invariant: Invariant, about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { invariant, about: about.into(), what: what.into() }
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken by {}: {}", self.invariant, self.about, self.what)
    }
}
