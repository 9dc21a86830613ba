//! A demo backend: speaks enough of the OpenAI API to see tokens arrive, and says what was said to it.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ntonix_runtime::{
    listen::{self, ReusePort},
    tasks,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};

/// The one model that it has.
pub(crate) const MODEL: &str = "demo";
/// Backends of this name are started by `ntonix` itself.
pub(crate) const NAME_PREFIX: &str = "demo-";
/// From one token to the next: about as fast as one reads.
const PAUSE: Duration = Duration::from_millis(40);
const BODY_MOST: usize = 1024 * 1024;
/// Numbers in an embedding.
const DIMENSIONS: u32 = 8;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves on `address` until the process ends. Returns the bound address.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) fn start(address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = listen::bind(address, ReusePort::No)?;
    let bound = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    tasks::spawn("demo-backend", async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Tokens are small: none waits for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            tasks::spawn("demo-connection", async move {
                let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
                // A client that leaves in the middle is what a gateway's cancel looks like.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(bound)
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/health") => whole(StatusCode::OK, &json!({ "status": "ok" })),
        (&Method::GET, "/v1/models") => {
            let model = json!({ "id": MODEL, "object": "model", "created": 0, "owned_by": "ntonix" });
            whole(StatusCode::OK, &json!({ "object": "list", "data": [model] }))
        }
        (&Method::POST, "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings") => {
            let body = Limited::new(request.into_body(), BODY_MOST).collect().await;
            let call = body.ok().and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
            match call {
                Some(call) if path == "/v1/embeddings" => whole(StatusCode::OK, &embeddings(&call)),
                Some(call) => complete(&call, path == "/v1/chat/completions"),
                None => fault(StatusCode::BAD_REQUEST, "the body is no JSON object of at most 1 MiB"),
            }
        }
        _ => fault(StatusCode::NOT_FOUND, "the demo backend has no such path"),
    }
}

/// One choice, in one piece or token by token.
fn complete(call: &Value, chat: bool) -> Response<Body> {
    let question = if chat { last_message(call) } else { text_of(&call["prompt"]) };
    let most = call["max_tokens"].as_u64().or(call["max_completion_tokens"].as_u64()).unwrap_or(u64::MAX);
    let mut tokens = reply_to(&question);
    let finish = if (tokens.len() as u64) > most { "length" } else { "stop" };
    tokens.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    let usage = json!({
        "prompt_tokens": question.split_whitespace().count(),
        "completion_tokens": tokens.len(),
        "total_tokens": question.split_whitespace().count() + tokens.len(),
    });
    let form = Form { chat, id: format!("demo-{:016x}", fastrand::u64(..)) };
    if call["stream"].as_bool() != Some(true) {
        return whole(StatusCode::OK, &form.whole(&tokens.concat(), finish, usage));
    }
    let mut events: Vec<String> = Vec::with_capacity(tokens.len() + 3);
    events.extend(tokens.iter().map(|token| form.chunk(token).to_string()));
    events.push(form.last(finish).to_string());
    if call["stream_options"]["include_usage"].as_bool() == Some(true) {
        events.push(form.usage(usage).to_string());
    }
    events.push("[DONE]".to_owned());
    paced(events)
}

/// The two shapes of a completion.
struct Form {
    chat: bool,
    id: String,
}

// === impl Form ===

impl Form {
    fn envelope(&self, part: &str, choices: Value) -> Value {
        let object = if self.chat { format!("chat.completion{part}") } else { "text_completion".to_owned() };
        json!({ "id": self.id, "object": object, "created": 0, "model": MODEL, "choices": choices })
    }

    fn whole(&self, text: &str, finish: &str, usage: Value) -> Value {
        let choice = if self.chat {
            json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": finish })
        } else {
            json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish })
        };
        let mut body = self.envelope("", json!([choice]));
        body["usage"] = usage;
        body
    }

    fn chunk(&self, token: &str) -> Value {
        let choice = if self.chat {
            json!({ "index": 0, "delta": { "role": "assistant", "content": token }, "finish_reason": null })
        } else {
            json!({ "index": 0, "text": token, "logprobs": null, "finish_reason": null })
        };
        self.envelope(".chunk", json!([choice]))
    }

    fn last(&self, finish: &str) -> Value {
        let choice = if self.chat {
            json!({ "index": 0, "delta": {}, "finish_reason": finish })
        } else {
            json!({ "index": 0, "text": "", "logprobs": null, "finish_reason": finish })
        };
        self.envelope(".chunk", json!([choice]))
    }

    fn usage(&self, usage: Value) -> Value {
        let mut chunk = self.envelope(".chunk", json!([]));
        chunk["usage"] = usage;
        chunk
    }
}

fn embeddings(call: &Value) -> Value {
    let inputs = match &call["input"] {
        Value::Array(inputs) => inputs.iter().map(text_of).collect(),
        input => vec![text_of(input)],
    };
    let vector = |text: &str| -> Vec<f32> {
        let sum = text.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        (0..DIMENSIONS).map(|place| ((sum.rotate_left(place * 4) % 2000) as f32 / 1000.0) - 1.0).collect()
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
        .collect();
    let tokens: usize = inputs.iter().map(|text| text.split_whitespace().count()).sum();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    json!({ "object": "list", "model": MODEL, "data": data, "usage": usage })
}

/// The answer, cut into tokens: words with the space before them.
fn reply_to(question: &str) -> Vec<String> {
    let text = format!(
        "You said: {question} -- This is the demo backend of NTONIX: it has no model, but its tokens arrive one by one, \
         through the same gateway that yours would."
    );
    text.split_inclusive(' ').map(str::to_owned).collect()
}

fn last_message(call: &Value) -> String {
    let messages = call["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = messages.iter().rev().find(|message| message["role"] == "user");
    last.map_or_else(String::new, |message| text_of(&message["content"]))
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text_of).collect::<Vec<_>>().join(" "),
        Value::Object(part) => part.get("text").map(text_of).unwrap_or_default(),
        _ => String::new(),
    }
}

fn paced(events: Vec<String>) -> Response<Body> {
    let frames = stream::iter(events).then(|event| async move {
        sleep(PAUSE).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(format!("data: {event}\n\n"))))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
    response
}

fn whole(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn fault(status: StatusCode, message: &str) -> Response<Body> {
    let error = json!({ "message": message, "type": "invalid_request_error", "code": null, "param": null });
    whole(status, &json!({ "error": error }))
}
