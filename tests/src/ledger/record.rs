//! The gateway's usage record, as far as the books need it.

use serde::Deserialize;

/// One line of a usage log. What the books do not compare is not read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// The exchange: the `x-request-id` that client and backend saw.
    pub id: String,
    /// `http1`, `http2` or `websocket`.
    pub transport: String,
    /// The backend that was asked last.
    pub backend: Option<String>,
    /// How often a backend was asked, connections that failed included.
    pub attempts: u64,
    /// How it ended, in a word.
    pub outcome: String,
    /// Tokens that the gateway saw from the backend.
    pub generated: u64,
    /// Tokens that it handed to the client's connection.
    pub delivered: u64,
}

// === impl Record ===

impl Record {
    /// Reads a usage log; the second half are the numbers of lines that are none, from 1.
    pub fn read_all(log: &str) -> (Vec<Self>, Vec<usize>) {
        let (mut records, mut wrong) = (Vec::new(), Vec::new());
        for (index, line) in log.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(record) => records.push(record),
                Err(_) => wrong.push(index + 1),
            }
        }
        (records, wrong)
    }

    /// Whether the gateway says that the answer was whole.
    pub fn is_completed(&self) -> bool {
        self.outcome == "completed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_records_are_told() {
        let good =
            r#"{"id":"a","at":"2026-01-01T00:00:00Z","transport":"http1","backend":"b","attempts":1,"status":200,
            "outcome":"completed","generated":3,"delivered":3}"#
                .replace('\n', "");
        let (records, wrong) = Record::read_all(&format!("{good}\n{{\"id\":\"b\"\n{good}\n"));
        assert_eq!((records.len(), wrong), (2, vec![2]));
        assert!(records[0].is_completed());
    }
}
