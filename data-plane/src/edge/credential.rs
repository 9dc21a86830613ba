//! Finds the one credential that a client shows.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::live::WhyNot;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The item of `Sec-WebSocket-Protocol` that carries a key, for browsers, which can set no other header.
pub(crate) const BEARER_PROTOCOL: &str = "ntonix.bearer.";

/// What a client showed.
pub(crate) type Shown = Result<Option<String>, WhyNot>;

/// The key in `Authorization: Bearer` or `x-api-key`; two different ones are none.
pub(crate) fn of_headers(headers: &HeaderMap) -> Shown {
    let bearer = match one(headers, &header::AUTHORIZATION)? {
        Some(value) => Some(bearer(value)?),
        None => None,
    };
    let api_key = match one(headers, &X_API_KEY)? {
        Some(value) => Some(value.to_str().map_err(|_| WhyNot::Malformed)?.trim()),
        None => None,
    };
    match (bearer, api_key) {
        (Some(one), Some(other)) if one != other => Err(WhyNot::Malformed),
        (shown, other) => Ok(shown.or(other).map(str::to_owned)),
    }
}

/// The key in an offered WebSocket subprotocol, or in a header.
pub(crate) fn of_handshake(headers: &HeaderMap, offered: &[&str]) -> Shown {
    let Some(item) = offered.iter().find_map(|item| item.strip_prefix(BEARER_PROTOCOL)) else {
        return of_headers(headers);
    };
    let key = URL_SAFE_NO_PAD.decode(item.trim_end_matches('=')).map_err(|_| WhyNot::Malformed)?;
    String::from_utf8(key).map(Some).map_err(|_| WhyNot::Malformed)
}

/// The headers without what a client shows to prove who it is.
pub(crate) fn taken_out(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::AUTHORIZATION, X_API_KEY, header::COOKIE, header::SEC_WEBSOCKET_PROTOCOL] {
        headers.remove(name);
    }
    headers
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, WhyNot> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(WhyNot::Malformed) } else { Ok(first) }
}

fn bearer(value: &HeaderValue) -> Result<&str, WhyNot> {
    let value = value.to_str().map_err(|_| WhyNot::Malformed)?;
    // RFC 9110 §11.1: the scheme is case-insensitive.
    match value.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(WhyNot::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn two_credentials_are_none() {
        let twice = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(of_headers(&twice), Err(WhyNot::Malformed));
        let different = headers(&[("authorization", "Bearer a"), ("x-api-key", "b")]);
        assert_eq!(of_headers(&different), Err(WhyNot::Malformed));
    }

    #[test]
    fn a_key_comes_by_either_header_or_by_a_subprotocol() {
        assert_eq!(of_headers(&headers(&[])), Ok(None));
        assert_eq!(of_headers(&headers(&[("authorization", "bearer ntx_a")])), Ok(Some("ntx_a".into())));
        assert_eq!(of_headers(&headers(&[("x-api-key", "ntx_a")])), Ok(Some("ntx_a".into())));
        assert_eq!(of_headers(&headers(&[("authorization", "Basic YTpi")])), Err(WhyNot::Malformed));
        let offered = ["ntonix.v1", "ntonix.bearer.bnR4X2E"];
        assert_eq!(of_handshake(&headers(&[]), &offered), Ok(Some("ntx_a".into())));
        assert_eq!(of_handshake(&headers(&[]), &["ntonix.bearer.*"]), Err(WhyNot::Malformed));
    }
}
