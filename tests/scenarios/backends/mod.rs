//! Backends that fail, row by row of the fault matrix: what the client gets, to the code and the byte, what is recorded and
//! counted, what the backend saw, and that the next request works. The scripts are those of `tests/faults`.

mod books;
mod connecting;
mod answers;
mod streams;
mod bytes;
mod http2;
mod crowds;
mod retries;

use ntonix_tests::client::Transcript;
use ntonix_tests::mock_llm::Script;

use crate::stage::Stage;

/// No failure keeps the backend from being asked again.
const PATIENT: &str = "breaker: { failures: 1000 }";
/// Nothing is tried twice.
const ONCE: &str = "retries: 0";

/// One backend that is asked once.
async fn stage() -> Stage {
    Stage::with(PATIENT, ONCE, "").await
}

/// The script of a row: `B04` is `tests/faults/B04.script`.
fn row(name: &str) -> Script {
    let path = format!("{}/faults/{name}.script", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.parse().unwrap_or_else(|faults| panic!("{path}: {faults}"))
}

/// What came stays, an error follows, and neither a `[DONE]` nor a clean-looking end.
#[track_caller]
fn assert_broken(transcript: &Transcript, content: &str, code: &str) {
    assert_eq!(transcript.status(), 200);
    assert_eq!((transcript.content().as_str(), transcript.code().as_str()), (content, code), "{}", transcript.text());
    assert!(!transcript.text().contains("[DONE]") && !transcript.text().contains("event:"), "{}", transcript.text());
    assert_eq!(transcript.error()["request_id"].as_str(), Some(transcript.header("x-request-id")));
}
