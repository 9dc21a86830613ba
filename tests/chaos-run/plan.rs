//! What each stream asks for and what its client does to it: a pure function of the seed and the stream's number.

use std::time::Duration;

use fastrand::Rng;
use ntonix_llm::Op;
use ntonix_tests::ledger::{Shape, Transport};
use serde_json::{Value, json};

/// The keys of the run's clients.
pub(crate) const ALICE: &str = "ntx_chaosAliceKeyThatNobodyMustSee";
/// The key that pushes revoke and bring back.
pub(crate) const GUEST: &str = "ntx_chaosGuestKeyThatNobodyMustSee";
/// A part of every prompt.
pub(crate) const PROMPT: &str = "chaosPromptThatNobodyMustSee";
/// The name of the route, and the one that it has now and then.
pub(crate) const MODEL: &str = "chaos";
pub(crate) const ALIAS: &str = "chaos-alias";

/// One stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// The stream's name.
    pub(crate) stream: String,
    pub(crate) transport: Transport,
    pub(crate) shape: Shape,
    pub(crate) op: Op,
    pub(crate) key: &'static str,
    pub(crate) behaviour: Behaviour,
    model: &'static str,
    tokens: u64,
    pause: Duration,
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Reads to the end.
    Stays,
    /// Leaves this long after asking, if nothing has come by then.
    LeavesEarly(Duration),
    /// Leaves after so many tokens.
    Leaves(u64),
    /// Resets the connection after so many tokens.
    Resets(u64),
    /// Reads nothing for a while after so many tokens.
    Stalls(u64, Duration),
}

// === impl Behaviour ===

impl Behaviour {
    /// Its kind, for counting; `None` when it is no fault.
    pub(crate) fn kind(self) -> Option<&'static str> {
        match self {
            Self::Stays => None,
            Self::LeavesEarly(_) => Some(CLIENT_FAULTS[0]),
            Self::Leaves(_) => Some(CLIENT_FAULTS[1]),
            Self::Resets(_) => Some(CLIENT_FAULTS[2]),
            Self::Stalls(..) => Some(CLIENT_FAULTS[3]),
        }
    }
}

/// Every kind of fault of a client.
pub(crate) const CLIENT_FAULTS: [&str; 4] =
    ["client: leaves before the answer", "client: leaves midway", "client: resets", "client: stalls"];

// === impl Plan ===

impl Plan {
    /// The stream of this number among those of a transport.
    pub(crate) fn new(seed: u64, round: u8, transport: Transport, number: u64) -> Self {
        let lane = Transport::ALL.iter().position(|other| *other == transport).unwrap_or(0) as u64;
        let mut rng = Rng::with_seed(seed ^ (number * 8 + lane).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let tokens = match rng.u8(..20) {
            0 => rng.u64(500..3_000),
            1..5 => rng.u64(1..6),
            _ => rng.u64(6..200),
        };
        // At most a second and a half of pauses: a stream shall end.
        let pause = if rng.u8(..4) == 0 {
            Duration::from_micros(rng.u64(..1_500_000) / tokens.max(50))
        } else {
            Duration::ZERO
        };
        Self {
            stream: format!("r{round}-{lane}-{number}"),
            transport,
            shape: if rng.u8(..4) == 0 { Shape::Whole } else { Shape::Streamed },
            op: if rng.u8(..5) == 0 { Op::Completions } else { Op::ChatCompletions },
            key: if rng.u8(..4) == 0 { GUEST } else { ALICE },
            behaviour: behaviour(&mut rng, tokens),
            model: if rng.u8(..10) == 0 { ALIAS } else { MODEL },
            tokens,
            pause,
        }
    }

    /// The same stream, asked for by a client that does nothing wrong.
    pub(crate) fn calm(self) -> Self {
        Self { behaviour: Behaviour::Stays, key: ALICE, model: MODEL, pause: Duration::ZERO, ..self }
    }

    /// The body of its request.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "model": self.model,
            "stream": self.shape == Shape::Streamed,
            "max_tokens": self.tokens,
            "user": self.stream,
        });
        if !self.pause.is_zero() {
            body["mock_pause_us"] = json!(u64::try_from(self.pause.as_micros()).unwrap_or(u64::MAX));
        }
        match self.op {
            Op::ChatCompletions => body["messages"] = json!([{ "role": "user", "content": PROMPT }]),
            Op::Completions | Op::Embeddings => body["prompt"] = json!(PROMPT),
        }
        body
    }
}

fn behaviour(rng: &mut Rng, tokens: u64) -> Behaviour {
    let after = rng.u64(1..=tokens.max(1));
    match rng.u8(..20) {
        0 => Behaviour::LeavesEarly(Duration::from_millis(rng.u64(..30))),
        1 | 2 => Behaviour::Leaves(after),
        3 => Behaviour::Resets(after),
        4 => Behaviour::Stalls(after, Duration::from_millis(rng.u64(50..4_000))),
        _ => Behaviour::Stays,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_for_the_same_seed_and_number() {
        let plan = |seed, number| Plan::new(seed, 1, Transport::Http2, number);
        assert_eq!(plan(1, 5), plan(1, 5));
        assert_ne!(plan(1, 5).body(), plan(1, 6).body());
        assert_ne!(plan(1, 5).body(), plan(2, 5).body());
        assert_eq!(plan(1, 5).stream, "r1-1-5");
    }

    #[test]
    fn two_rounds_ask_for_the_same_under_other_names() {
        let (one, two) = (Plan::new(1, 1, Transport::Http1, 9), Plan::new(1, 2, Transport::Http1, 9));
        assert_eq!((one.tokens, one.behaviour, one.shape), (two.tokens, two.behaviour, two.shape));
        assert_ne!(one.stream, two.stream);
    }
}
