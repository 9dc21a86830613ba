//! Golden transcripts: what a client and a backend write, and what each of them reads, byte for byte.
//!
//! A case is two files in `golden/openai`. `<case>.request.txt` has the body that the client sends and the one that the
//! backend sees; `<case>.response.txt` has the body that the backend sends and the one that the client sees. With
//! `NTONIX_GOLDEN=write` the two that are seen are written anew; look at the difference before you keep it.

use std::fs;
use std::path::{Path, PathBuf};

use ntonix_tests::client::{Ask, CHAT, COMPLETIONS, EMBEDDINGS};
use ntonix_tests::mock_llm::{MODEL, Script};

use crate::stage::Stage;

const SENT: &str = "=== sent\n";
const SEEN: &str = "=== seen\n";

/// The two bodies of one file.
struct Bodies {
    path: PathBuf,
    sent: String,
    seen: String,
}

// === impl Bodies ===

impl Bodies {
    fn read(case: &str, kind: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/openai");
        let path = folder.join(format!("{case}.{kind}.txt"));
        let text = fs::read_to_string(&path).unwrap();
        let (sent, seen) = text.strip_prefix(SENT).unwrap().split_once(SEEN).unwrap();
        Self { sent: sent.to_owned(), seen: seen.to_owned(), path }
    }

    fn check(&self, seen: &str) {
        if std::env::var_os("NTONIX_GOLDEN").is_some_and(|value| value == "write") {
            fs::write(&self.path, [SENT, &self.sent, SEEN, seen].concat()).unwrap();
        } else {
            assert_eq!(seen, self.seen, "{}", self.path.display());
        }
    }
}

/// A body that ends without a line end has one in its file all the same.
fn line(body: &[u8]) -> String {
    let body = std::str::from_utf8(body).unwrap();
    if body.ends_with('\n') { body.to_owned() } else { format!("{body}\n") }
}

async fn transcript(case: &str, path: &str) {
    let (request, response) = (Bodies::read(case, "request"), Bodies::read(case, "response"));
    let stage = Stage::with("", "aliases: [golden], retries: 0", "").await;
    let is_stream = response.sent.starts_with("data:") || response.sent.starts_with(':');
    stage.mock.next(if is_stream {
        Script::raw([response.sent.as_bytes()])
    } else {
        let headers = vec![("content-type".into(), "application/json".to_owned())];
        Script::Reply { status: 200, headers, body: response.sent.clone().into() }
    });
    let ask = Ask::post(path, request.sent.clone()).header("x-request-id", "golden");
    let answer = stage.connect().await.ask(ask).await.unwrap();
    let asked = stage.mock.requests().into_iter().find(|request| request.path == path).unwrap();
    assert!(asked.body.windows(MODEL.len()).any(|bytes| bytes == MODEL.as_bytes()));
    request.check(&line(&asked.body));
    response.check(&line(answer.body()));
}

#[tokio::test]
async fn a_stream_passes_as_it_is() {
    transcript("stream", CHAT).await;
}

#[tokio::test]
async fn usage_that_the_client_did_not_ask_for_is_taken_out() {
    transcript("usage-not-asked", CHAT).await;
}

#[tokio::test]
async fn usage_that_the_client_asked_for_stays() {
    transcript("usage-asked", CHAT).await;
}

#[tokio::test]
async fn tool_calls_and_members_that_nobody_knows_pass() {
    transcript("tools", CHAT).await;
}

#[tokio::test]
async fn a_stream_without_its_end_has_an_error() {
    transcript("truncated", CHAT).await;
}

#[tokio::test]
async fn an_error_inside_a_stream_is_told_in_the_form_of_the_api() {
    transcript("error", CHAT).await;
}

#[tokio::test]
async fn a_missing_done_is_added() {
    transcript("without-done", COMPLETIONS).await;
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_passes_as_it_is() {
    transcript("unary", CHAT).await;
}

#[tokio::test]
async fn embeddings_pass_as_they_are() {
    transcript("embeddings", EMBEDDINGS).await;
}
