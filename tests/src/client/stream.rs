//! Reads a streamed answer event by event and keeps the bytes as they came.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ntonix_llm::sse::Decoder;
use serde_json::Value;

use super::text_of;
use crate::wait::soon;

/// More than any event of a test.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// A streamed answer that is being read. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub struct EventStream {
    transcript: Transcript,
    body: Incoming,
    decoder: Decoder,
    read: usize,
}

/// A streamed answer, as far as it was read.
#[derive(Debug, Clone)]
pub struct Transcript {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
    events: Vec<String>,
    is_cut: bool,
}

// === impl EventStream ===

impl EventStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let transcript = Transcript {
            status: head.status,
            headers: head.headers,
            bytes: Vec::new(),
            events: Vec::new(),
            is_cut: false,
        };
        Self { transcript, body, decoder: Decoder::new(EVENT_MAX), read: 0 }
    }

    /// What was read so far.
    pub fn so_far(&self) -> &Transcript {
        &self.transcript
    }

    /// The payload of the next event; `None` at the end, clean or not.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn next(&mut self) -> anyhow::Result<Option<String>> {
        while self.read == self.transcript.events.len() {
            if self.pull().await?.is_none() {
                return Ok(None);
            }
        }
        self.read += 1;
        Ok(self.transcript.events.get(self.read - 1).cloned())
    }

    /// Reads `count` events.
    ///
    /// # Errors
    /// When the stream ends before, or nothing comes.
    pub async fn take(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            match self.next().await? {
                Some(event) => events.push(event),
                None => anyhow::bail!("the stream ended after {} of {count} events", events.len()),
            }
        }
        Ok(events)
    }

    /// Reads on until `wanted` holds for what was read.
    ///
    /// # Errors
    /// When the stream ends before, or nothing comes.
    pub async fn until(&mut self, mut wanted: impl FnMut(&Transcript) -> bool) -> anyhow::Result<()> {
        while !wanted(&self.transcript) {
            anyhow::ensure!(self.pull().await?.is_some(), "the stream ended: {}", self.transcript.text());
        }
        Ok(())
    }

    /// Reads to the end, clean or not.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn rest(mut self) -> anyhow::Result<Transcript> {
        while self.pull().await?.is_some() {}
        Ok(self.transcript)
    }

    async fn pull(&mut self) -> anyhow::Result<Option<Bytes>> {
        let bytes = match soon("the next bytes of the stream", self.body.frame()).await? {
            None => return Ok(None),
            Some(Err(_)) => {
                self.transcript.is_cut = true;
                return Ok(None);
            }
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        self.transcript.bytes.extend_from_slice(&bytes);
        self.decoder.feed(&bytes)?;
        self.transcript.events.extend(self.decoder.by_ref().map(|event| event.data));
        Ok(Some(bytes))
    }
}

// === impl Transcript ===

impl Transcript {
    /// The status as a number.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// A header; "" when it is not there.
    pub fn header(&self, name: &str) -> &str {
        text_of(&self.headers, name)
    }

    /// The bytes of the body.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body as text.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The payloads of the events.
    pub fn events(&self) -> &[String] {
        &self.events
    }

    /// The body ended with an error of the transport.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// `[DONE]` is the last event, and it is there once.
    pub fn is_done(&self) -> bool {
        let dones = self.events.iter().filter(|event| *event == "[DONE]").count();
        dones == 1 && self.events.last().is_some_and(|event| event == "[DONE]")
    }

    /// The text that the model generated, of the first choice.
    pub fn content(&self) -> String {
        let chunks = self.events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let texts = chunks.filter_map(|chunk| {
            let choice = chunk["choices"].as_array()?.iter().find(|choice| choice["index"] == 0)?.clone();
            choice["delta"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned)
        });
        texts.collect()
    }

    /// The error object of the last event; null when it is none.
    pub fn error(&self) -> Value {
        let last = self.events.last().and_then(|event| serde_json::from_str::<Value>(event).ok());
        last.map_or(Value::Null, |last| last["error"].clone())
    }

    /// The `code` of the error that ended the stream; "" when there was none.
    pub fn code(&self) -> String {
        self.error()["code"].as_str().unwrap_or_default().to_owned()
    }
}
