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
    let chain = chain(&headers, hop);
    headers.insert(X_FORWARDED_FOR, chain);
    set(&mut headers, X_REQUEST_ID, id);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// All hops so far, whether they stand on one line or on several, and this one. What is empty or no text tells of no hop.
fn chain(headers: &HeaderMap, hop: &HeaderValue) -> HeaderValue {
    let lines =
        headers.get_all(&X_FORWARDED_FOR).iter().filter(|line| line.to_str().is_ok_and(|line| !line.trim().is_empty()));
    let hops: Vec<&[u8]> = lines.chain([hop]).map(HeaderValue::as_bytes).collect();
    match &hops[..] {
        [_] => hop.clone(),
        hops => HeaderValue::from_bytes(&hops.join(&b", "[..])).unwrap_or_else(|_| hop.clone()),
    }
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
    fn each_hop_before_this_one_is_told_on_however_many_lines_they_came() {
        let mut client = map(&[("x-forwarded-for", "192.0.2.1"), ("x-forwarded-for", "192.0.2.2, 192.0.2.3")]);
        client.append("x-forwarded-for", HeaderValue::from_bytes(b"\xff").unwrap());
        client.append("x-forwarded-for", HeaderValue::from_static(""));
        let seen = upstream(&client, &HeaderValue::from_static("127.0.0.1"), "req-1");
        let lines: Vec<_> = seen.get_all("x-forwarded-for").iter().collect();
        assert_eq!(lines, ["192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"]);
        let seen = upstream(&map(&[("x-forwarded-for", " ")]), &HeaderValue::from_static("::1"), "req-1");
        assert_eq!(seen["x-forwarded-for"], "::1");
    }

    #[test]
    fn no_name_of_either_list_crosses() {
        // Conformance item 86, each name by itself: a typing error in a list would send a credential on.
        const OF_CLIENTS: [&str; 26] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "host",
            "content-length",
            "expect",
            "authorization",
            "x-api-key",
            "cookie",
            "accept-encoding",
            "origin",
            "x-conversation-id",
            "x-forwarded-host",
            "x-forwarded-proto",
            "forwarded",
            "sec-websocket-key",
            "sec-websocket-protocol",
            "sec-websocket-version",
            "sec-websocket-extensions",
        ];
        const OF_BACKENDS: [&str; 17] = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "content-length",
            "set-cookie",
            "server",
            "date",
            "www-authenticate",
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "alt-svc",
            "x-request-id",
        ];
        for name in OF_CLIENTS {
            let seen = upstream(&map(&[(name, "secret"), ("accept", "a")]), &HeaderValue::from_static("::1"), "req-1");
            assert!(!seen.contains_key(name) && seen.contains_key("accept"), "{name}");
        }
        for name in OF_BACKENDS {
            let seen = downstream(&map(&[(name, "secret"), ("retry-after", "1")]));
            assert!(!seen.contains_key(name) && seen.contains_key("retry-after"), "{name}");
        }
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
