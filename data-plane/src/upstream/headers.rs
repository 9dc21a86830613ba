//! Which headers cross the gateway: everything but what belongs to one hop, to credentials, or to us.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What names an exchange on every hop.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Is it one that means something between two neighbours only (RFC 9110 §7.6.1), or that we set ourselves?
fn stays_with_client(name: &str) -> bool {
    match name {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings"
        | "host"
        | "content-length"
        | "expect" => true,
        // The client's credentials are for us.
        "authorization" | "x-api-key" | "cookie" => true,
        // Streams are watched as they pass: identity only.
        "accept-encoding" => true,
        // A page's origin is judged here, not at the backend.
        "origin" => true,
        // llama.cpp goes on generating for a client that has left when it sees this one.
        "x-conversation-id" => true,
        "content-type" | "x-forwarded-host" | "forwarded" | "x-forwarded-proto" | "x-request-id" => true,
        _ => name.starts_with("sec-websocket-"),
    }
}

/// Is it a header of a backend that the client never sees?
fn stays_with_backend(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "set-cookie"
            | "server"
            | "date"
            | "www-authenticate"
            | "access-control-allow-origin"
            | "access-control-allow-credentials"
            | "alt-svc"
            | "x-request-id"
    )
}

/// The headers of a request to a backend: those of the client that it may see, and ours.
pub(crate) fn upstream(client: &HeaderMap, hop: &HeaderValue, id: &str) -> HeaderMap {
    let mut headers = crossing(client, stays_with_client);
    let chain = headers.get(&X_FORWARDED_FOR).map(|before| [before.as_bytes(), b", ", hop.as_bytes()].concat());
    let chain = chain.and_then(|chain| HeaderValue::try_from(chain).ok());
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| hop.clone()));
    set(&mut headers, X_REQUEST_ID, id);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// The backend's headers as the client may see them.
pub(crate) fn downstream(backend: &HeaderMap) -> HeaderMap {
    crossing(backend, stays_with_backend)
}

fn crossing(from: &HeaderMap, stays: impl Fn(&str) -> bool) -> HeaderMap {
    // RFC 9110 §7.6.1: what Connection names is for this hop, too.
    let named: Vec<&str> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let mut headers = HeaderMap::with_capacity(from.keys_len());
    for (name, value) in from {
        let for_this_hop = named.iter().any(|other| name.as_str().eq_ignore_ascii_case(other));
        if !for_this_hop && !stays(name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    headers
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Both come from an address or a checked id: always printable.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_and_hop_by_hop_headers_never_reach_the_backend() {
        // Conformance item 86.
        let client = map(&[
            ("authorization", "Bearer secret"),
            ("x-api-key", "secret"),
            ("cookie", "a=b"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("x-conversation-id", "c"),
            ("te", "trailers"),
            ("openai-organization", "org"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let seen = upstream(&client, &HeaderValue::from_static("127.0.0.1"), "req-1");
        let mut names: Vec<_> = seen.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "openai-organization", "x-forwarded-for", "x-request-id"]);
        assert_eq!(seen["x-forwarded-for"], "192.0.2.1, 127.0.0.1");
        assert_eq!(seen["x-request-id"], "req-1");
    }

    #[test]
    fn what_a_backend_says_of_itself_stays_behind_the_gateway_and_rate_limits_pass() {
        let backend = map(&[
            ("set-cookie", "a=b"),
            ("server", "uvicorn"),
            ("content-length", "3"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("retry-after", "7"),
            ("x-ratelimit-remaining-requests", "9"),
        ]);
        let seen = downstream(&backend);
        let mut names: Vec<_> = seen.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["retry-after", "x-ratelimit-remaining-requests"]);
    }
}
