//! A refusal as the client reads it: an HTTP answer, an event inside a stream, or a frame of a WebSocket.
//!
//! The only place that knows a status code of ours. Bodies have the form of the OpenAI API's errors.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use ntonix_llm::openai;

use super::body::EdgeBody;
use crate::{
    refusal::{Kind, Refusal},
    upstream::headers::X_REQUEST_ID,
};

/// Tells SDKs whether to try again, whatever the status says.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The status that a refusal has, or would have had before the stream began.
pub(crate) fn status(refusal: &Refusal) -> StatusCode {
    let own = status_of(refusal.kind());
    // A backend that reports an error with a status inside of a 200 means that status.
    let backends = refusal.backend().and_then(|error| StatusCode::from_u16(error.status()?).ok());
    refusal.status_of_backend().or(backends).unwrap_or(own)
}

/// The status of what the gateway refuses by itself.
pub(crate) fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::BadRequest | Kind::InvalidJson => StatusCode::BAD_REQUEST,
        Kind::InvalidApiKey => StatusCode::UNAUTHORIZED,
        Kind::Forbidden | Kind::OriginNotAllowed => StatusCode::FORBIDDEN,
        Kind::ModelNotFound | Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::RequestTimeout | Kind::ClientStalled => StatusCode::REQUEST_TIMEOUT,
        Kind::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UnsupportedMediaType | Kind::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::UpstreamConnect
        | Kind::UpstreamReset
        | Kind::UpstreamProtocol
        | Kind::UpstreamTls
        | Kind::UpstreamError => StatusCode::BAD_GATEWAY,
        Kind::Overloaded | Kind::NoHealthyBackend | Kind::Draining | Kind::NotConfigured => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Kind::UpstreamTimeout | Kind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The class of the error, as the SDKs know it.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    }
}

/// The parts of the error object.
struct Parts<'a> {
    message: &'a str,
    class: Cow<'a, str>,
    code: Cow<'a, str>,
}

fn parts(refusal: &Refusal) -> Parts<'_> {
    let status = status(refusal);
    let backend = refusal.backend();
    let class = backend.and_then(|error| error.kind.as_deref()).map_or(Cow::Borrowed(class(status)), Cow::Borrowed);
    let code = backend.and_then(|error| error.code.as_deref());
    let code = code.map_or(Cow::Borrowed(refusal.kind().as_label()), Cow::Borrowed);
    Parts { message: refusal.public(), class, code }
}

/// The refusal as an answer, before any event has left.
pub(crate) fn response(refusal: &Refusal, id: &str) -> Response<EdgeBody> {
    let Parts { message, class, code } = parts(refusal);
    let retryable = refusal.kind().is_retryable();
    let body = openai::error_body(message, &class, &code, refusal.param(), id, retryable);
    let mut response = Response::new(EdgeBody::whole(body));
    *response.status_mut() = status(refusal);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some(after) = refusal.retry_in() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil().max(1.0) as u64));
    }
    if let Some(methods) = refusal.allow() {
        // RFC 9110 §15.5.6: a 405 names what would have been allowed.
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    if refusal.is_spent() {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if refusal.kind() == Kind::InvalidApiKey {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The refusal as the last event of a stream; no `[DONE]` follows it.
pub(crate) fn event(refusal: &Refusal, id: &str) -> Bytes {
    let Parts { message, class, code } = parts(refusal);
    openai::error_event(message, &class, &code, refusal.param(), id, refusal.kind().is_retryable())
}

/// The `error` frame of `ntonix.v1` that ends the stream `id`; `seq` counts on from its last `delta`.
pub(crate) fn frame(refusal: &Refusal, id: &str, seq: u64, request_id: &str) -> String {
    let Parts { message, class, code } = parts(refusal);
    let retryable = refusal.kind().is_retryable() && !refusal.is_spent();
    let mut frame = serde_json::json!({
        "t": "error",
        "id": id,
        "seq": seq,
        "status": status(refusal).as_u16(),
        "retryable": retryable,
        "error": {
            "message": message,
            "type": class,
            "code": code,
            "param": refusal.param(),
            "request_id": request_id,
        },
    });
    if let Some(after) = refusal.retry_in() {
        frame["retry_after_ms"] = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into();
    }
    frame.to_string()
}
