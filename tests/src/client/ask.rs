//! What a client sends: a request that can be written for either version of HTTP.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::mock_llm::MODEL;

/// The path of chat completions.
pub const CHAT: &str = "/v1/chat/completions";
/// The path of completions.
pub const COMPLETIONS: &str = "/v1/completions";
/// The path of embeddings.
pub const EMBEDDINGS: &str = "/v1/embeddings";
/// The path of the list of models.
pub const MODELS: &str = "/v1/models";

/// The host that requests name; nobody looks at it.
const HOST: &str = "gateway.test";

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

// === impl Ask ===

impl Ask {
    /// A request without headers and without a body.
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// A request for a page.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A body that is said to be JSON.
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::POST, path) }.header("content-type", "application/json")
    }

    /// A chat that is not streamed, of the mock's model.
    pub fn chat() -> Self {
        Self::chat_with(json!({}))
    }

    /// A streamed chat of the mock's model.
    pub fn streamed_chat() -> Self {
        Self::chat_with(json!({ "stream": true }))
    }

    /// A chat with these members beside (or instead of) `model` and `messages`.
    pub fn chat_with(members: Value) -> Self {
        let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }] });
        if let (Some(body), Value::Object(members)) = (body.as_object_mut(), members) {
            body.extend(members);
        }
        Self::post(CHAT, body.to_string())
    }

    /// The same request by another method.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// The same request with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same request without a header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }

    /// The same request with a key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("authorization", format!("Bearer {key}"))
    }

    /// The bytes of the request as HTTP/1.1, for a bare connection.
    pub fn wire(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {HOST}\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(format!("content-length: {}\r\n\r\n", self.body.len()).into_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(super) fn for_http1(self) -> http::Result<Request<Full<Bytes>>> {
        let target = self.path.clone();
        self.header("host", HOST).build(&target)
    }

    pub(super) fn for_http2(self) -> http::Result<Request<Full<Bytes>>> {
        let target = format!("http://{HOST}{}", self.path);
        self.build(&target)
    }

    fn build(self, target: &str) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(self.method).uri(target);
        for (name, value) in &self.headers {
            request = request.header(name, value.as_ref());
        }
        request.body(Full::new(self.body))
    }
}
