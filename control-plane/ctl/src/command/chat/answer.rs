//! What one answer is made of, and whether it was complete; the same for both ways of transport.

use serde::Deserialize;

/// One chunk of a streamed chat completion, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<Problem>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

/// The error object of the OpenAI API, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    message: String,
    code: Option<String>,
}

/// An answer on its way.
#[derive(Debug, Default)]
pub(super) struct Answer {
    finished: bool,
}

// === impl Answer ===

impl Answer {
    /// Takes a chunk in: its text, or why the answer failed.
    pub(super) fn take(&mut self, chunk: Chunk) -> Result<String, String> {
        if let Some(problem) = chunk.error {
            return Err(problem.describe());
        }
        self.finished |= chunk.choices.iter().any(|choice| choice.finish_reason.is_some());
        Ok(chunk.choices.into_iter().filter_map(|choice| choice.delta.content).collect())
    }

    /// The same with a chunk still to be read; `[DONE]` ends the answer.
    pub(super) fn read(&mut self, data: &str) -> Result<String, String> {
        if data == "[DONE]" {
            self.finished = true;
            return Ok(String::new());
        }
        let chunk = serde_json::from_str(data).map_err(|error| format!("an event is not as it should be: {error}"))?;
        self.take(chunk)
    }

    /// What the end of the stream means.
    pub(super) fn end(self) -> Result<(), String> {
        if self.finished { Ok(()) } else { Err("the stream ended before the answer was complete".to_owned()) }
    }
}

// === impl Problem ===

impl Problem {
    /// In one line, as in "rate_limited: too many requests".
    pub(super) fn describe(&self) -> String {
        match (&self.code, self.message.as_str()) {
            (Some(code), message) => format!("{code}: {message}"),
            (None, "") => "it failed without saying why".to_owned(),
            (None, message) => message.to_owned(),
        }
    }

    /// The problem in the body of an answer; the body itself when it is not one.
    pub(super) fn in_body(body: &[u8]) -> String {
        #[derive(Deserialize)]
        struct Body {
            error: Problem,
        }
        match serde_json::from_slice::<Body>(body) {
            Ok(body) => body.error.describe(),
            Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_its_finish_is_an_error() {
        let mut answer = Answer::default();
        assert_eq!(
            answer.read(r#"{"choices":[{"delta":{"content":"hi"},"finish_reason":null}]}"#),
            Ok("hi".to_owned())
        );
        assert!(answer.end().is_err());
        assert!(Answer::default().end().is_err());
    }

    #[test]
    fn an_error_in_the_stream_is_told() {
        let mut answer = Answer::default();
        let event = r#"{"error":{"message":"the backend went away","code":"backend_failed"}}"#;
        assert_eq!(answer.read(event), Err("backend_failed: the backend went away".to_owned()));
        assert!(answer.read("{").is_err());
    }

    #[test]
    fn a_finish_reason_or_done_completes_an_answer() {
        let mut answer = Answer::default();
        assert_eq!(answer.read(r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#), Ok(String::new()));
        assert_eq!(answer.read(r#"{"choices":[],"usage":{}}"#), Ok(String::new()));
        assert_eq!(answer.end(), Ok(()));
        let mut answer = Answer::default();
        assert_eq!(answer.read("[DONE]"), Ok(String::new()));
        assert_eq!(answer.end(), Ok(()));
    }

    #[test]
    fn the_problem_of_a_refusal_is_found_in_its_body() {
        assert_eq!(
            Problem::in_body(br#"{"error":{"message":"no such model","code":"model_not_found"}}"#),
            "model_not_found: no such model"
        );
        assert_eq!(Problem::in_body(br#"{"error":{"message":"no"}}"#), "no");
        assert_eq!(Problem::in_body(b"<html>"), "<html>");
    }
}
