//! What a proxy is told to do, in JSON: `{"to_client": {"delay": "20ms", "end": {"after": 1000, "how": "reset"}}}`.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Toward;

/// What happens to the bytes of each connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// From the client to the server.
    #[serde(skip_serializing_if = "Direction::is_clean")]
    pub to_server: Direction,
    /// From the server to the client.
    #[serde(skip_serializing_if = "Direction::is_clean")]
    pub to_client: Direction,
}

/// What happens to the bytes of one direction. By default they pass as they come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Direction {
    /// Every chunk is held this long, as in `"20ms"`.
    #[serde(with = "humantime_text", skip_serializing_if = "Duration::is_zero")]
    pub delay: Duration,
    /// Every chunk is held longer by up to this, evenly drawn; chunks never overtake each other.
    #[serde(with = "humantime_text", skip_serializing_if = "Duration::is_zero")]
    pub jitter: Duration,
    /// The most bytes of one write; 1 sends every byte alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<NonZeroU64>,
    /// The most bytes in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<NonZeroU64>,
    /// Bytes that arrive as others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Corrupt>,
    /// How it ends before its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// An end that comes too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// So many bytes of the direction still pass, counted from the beginning of the connection.
    pub after: u64,
    /// What happens then.
    pub how: How,
}

/// How a direction, or the whole connection, ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Both ends are told that the connection is over, as if the other had closed it (FIN).
    Cut,
    /// Both ends get a reset (RST).
    Reset,
    /// Nothing passes any more and nobody is told, until the faults are changed.
    Stall,
    /// The receiver is told that the sender has finished (FIN); the other direction goes on.
    HalfClose,
}

/// Which bytes arrive as others: one bit of each is turned over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "CorruptBody")]
pub enum Corrupt {
    /// The byte at this offset from the beginning of the connection; the first is 0.
    At(u64),
    /// This share of all bytes, each drawn for itself.
    Share(Share),
}

/// [`Corrupt`] as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CorruptBody {
    at: Option<u64>,
    share: Option<Share>,
}

/// JSON that does not say what is to be done.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or has another shape.
    #[error(transparent)]
    Wrong(#[from] serde_json::Error),
    /// It has an array somewhere; one would be read as the members of an object in their order, and an empty one as none.
    #[error("faults are objects as in {{\"to_client\": {{\"slice\": 1}}}}; there are no arrays in them")]
    Array,
}

/// A share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(f64);

/// A share that is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("a share is a number from 0 to 1, not {0}")]
pub struct NoShare(f64);

/// Reads what a proxy is told.
///
/// # Errors
/// When it cannot be read as `T`, or has arrays.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Unreadable> {
    if has_array(&serde_json::from_slice(text)?) {
        return Err(Unreadable::Array);
    }
    // Read again, so that a fault has its line and column.
    Ok(serde_json::from_slice(text)?)
}

fn has_array(value: &Value) -> bool {
    match value {
        Value::Array(_) => true,
        Value::Object(members) => members.values().any(has_array),
        _ => false,
    }
}

// === impl Corrupt ===

impl TryFrom<CorruptBody> for Corrupt {
    type Error = &'static str;

    fn try_from(body: CorruptBody) -> Result<Self, &'static str> {
        match (body.at, body.share) {
            (Some(at), None) => Ok(Self::At(at)),
            (None, Some(share)) => Ok(Self::Share(share)),
            _ => Err("`corrupt` has either `at` or `share`"),
        }
    }
}

// === impl Faults ===

impl Faults {
    /// The same in both directions.
    pub fn both(direction: Direction) -> Self {
        Self { to_server: direction.clone(), to_client: direction }
    }

    /// Only towards the client.
    pub fn to_client(direction: Direction) -> Self {
        Self { to_client: direction, ..Self::default() }
    }

    /// Only towards the server.
    pub fn to_server(direction: Direction) -> Self {
        Self { to_server: direction, ..Self::default() }
    }

    pub(super) fn toward(&self, direction: Toward) -> &Direction {
        match direction {
            Toward::Server => &self.to_server,
            Toward::Client => &self.to_client,
        }
    }
}

// === impl Direction ===

impl Direction {
    /// Bytes pass as they come until so many have passed.
    pub fn ending(after: u64, how: How) -> Self {
        Self { end: Some(End { after, how }), ..Self::default() }
    }

    /// Every chunk is held this long, and up to `jitter` longer.
    pub fn delayed(delay: Duration, jitter: Duration) -> Self {
        Self { delay, jitter, ..Self::default() }
    }

    /// No write has more bytes than this; 0 is taken as 1.
    pub fn sliced(bytes: u64) -> Self {
        Self { slice: Some(NonZeroU64::new(bytes).unwrap_or(NonZeroU64::MIN)), ..Self::default() }
    }

    /// No second has more bytes than this; 0 is taken as 1.
    pub fn at_rate(bytes_per_second: u64) -> Self {
        Self { rate: Some(NonZeroU64::new(bytes_per_second).unwrap_or(NonZeroU64::MIN)), ..Self::default() }
    }

    /// These bytes arrive as others.
    pub fn corrupted(corrupt: Corrupt) -> Self {
        Self { corrupt: Some(corrupt), ..Self::default() }
    }

    /// Whether bytes pass as they come.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Share ===

impl Share {
    /// The share as a number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = NoShare;

    fn try_from(share: f64) -> Result<Self, NoShare> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(NoShare(share)) }
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.0
    }
}

/// Durations as people write them.
mod humantime_text {
    use std::borrow::Cow;
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}, as in \"20ms\"")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        let text = r#"{"to_server":{"delay":"20ms","jitter":"5ms","slice":1,"rate":1000},
            "to_client":{"corrupt":{"share":0.001},"end":{"after":1000,"how":"half-close"}}}"#;
        let faults: Faults = serde_json::from_str(text).unwrap();
        assert_eq!(faults.to_server.delay, Duration::from_millis(20));
        assert_eq!(faults.to_client.end, Some(End { after: 1000, how: How::HalfClose }));
        let again = serde_json::from_str(&serde_json::to_string(&faults).unwrap()).unwrap();
        assert_eq!(faults, again);
        assert_eq!(serde_json::to_string(&Faults::default()).unwrap(), "{}");
    }

    #[test]
    fn faults_are_objects_all_through() {
        for text in ["[]", "[{}]", r#"{"to_client":[]}"#, r#"{"to_client":{"end":[5,"cut"]}}"#] {
            assert!(matches!(from_json::<Faults>(text.as_bytes()), Err(Unreadable::Array)), "{text}");
        }
        for text in ["null", "1", "", r#"{"to_client":null}"#, r#"{"to_client":{},"to_client":{}}"#] {
            assert!(matches!(from_json::<Faults>(text.as_bytes()), Err(Unreadable::Wrong(_))), "{text}");
        }
        assert_eq!(from_json::<Faults>(b"{}").unwrap(), Faults::default());
    }

    #[test]
    fn wrong_faults_say_what_is_wrong() {
        let wrong = |text: &str| serde_json::from_str::<Faults>(text).unwrap_err().to_string();
        assert!(wrong(r#"{"to_clients":{}}"#).contains("expected `to_server` or `to_client`"));
        assert!(wrong(r#"{"to_client":{"delay":"soon"}}"#).contains("\"soon\""));
        assert!(wrong(r#"{"to_client":{"slice":0}}"#).contains("nonzero"));
        assert!(wrong(r#"{"to_client":{"corrupt":{"share":1.5}}}"#).contains("from 0 to 1, not 1.5"));
        for neither in ["{}", r#"{"at":1,"share":0.5}"#] {
            let told = wrong(&format!(r#"{{"to_client":{{"corrupt":{neither}}}}}"#));
            assert!(told.contains("`corrupt` has either `at` or `share`"), "{told}");
        }
        assert!(wrong(r#"{"to_client":{"corrupt":{"att":1}}}"#).contains("expected `at` or `share`"));
        assert!(wrong(r#"{"to_client":{"end":{"after":1,"how":"bang"}}}"#).contains("half-close"));
    }
}
