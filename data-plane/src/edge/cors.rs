//! Which pages may talk to us from a browser: those on a list, which is empty unless somebody fills it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::body::EdgeBody;

/// The list of `--allow-origin`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Vec<HeaderValue>);

// === impl Origins ===

impl Origins {
    /// The list.
    pub(crate) fn new(origins: Vec<HeaderValue>) -> Self {
        Self(origins)
    }

    /// Is it on the list?
    pub(crate) fn contains(&self, origin: &HeaderValue) -> bool {
        self.0.contains(origin)
    }

    /// The answer to a preflight of a page on the list (Fetch standard, "CORS-preflight fetch").
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<Response<EdgeBody>> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let origin = headers.get(header::ORIGIN).filter(|origin| asks && self.contains(origin))?;
        let mut response = Response::new(EdgeBody::whole(Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        self.allow(Some(origin), answer);
        Some(response)
    }

    /// Lets a page on the list read an answer.
    pub(crate) fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        let Some(origin) = origin.filter(|origin| self.contains(origin)) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id, retry-after, x-should-retry"),
        );
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}
