//! Heads of HTTP/1.1 (RFC 9112 §3 to §6): a request's is written, an answer's is read.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::framing::Framing;

/// The largest head of an answer, and the largest number of its headers.
pub(crate) const HEAD_MOST: usize = 64 * 1024;
const HEADERS_MOST: usize = 100;
/// How every answer begins.
const START: &[u8] = b"HTTP/1.";

/// An answer up to its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// As they came.
    pub(crate) headers: HeaderMap,
    /// The connection may serve another request afterwards.
    pub(crate) is_kept: bool,
}

/// What is wrong with a head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHead {
    /// It is not HTTP/1.
    #[error("the head of the answer is not HTTP/1")]
    Syntax(#[from] httparse::Error),
    /// A header that no HTTP message may have.
    #[error("the answer has a malformed header")]
    Header,
    /// Its lengths are no numbers, or differ.
    #[error("the length of the answer is no number, or there are several")]
    Length,
    /// Anything but chunks, or chunks in HTTP/1.0.
    #[error("the answer has a transfer coding that was not asked for")]
    Coding,
    /// 101.
    #[error("the backend switched to a protocol that was not asked for")]
    Switched,
    /// It is larger than is allowed.
    #[error("the head of the answer is larger than {HEAD_MOST} bytes")]
    TooLarge,
}

/// The head of `request`, with the length of its body.
pub(crate) fn write(request: &Request<Bytes>) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(512);
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| head.extend_from_slice(part));
    line([request.method().as_str().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    for (name, value) in request.headers() {
        line([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    if !request.body().is_empty() || request.method() == http::Method::POST {
        line([b"content-length: ", request.body().len().to_string().as_bytes(), b"\r\n", b""]);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Takes the head of an answer from the start of `ahead`, once it is all there; those of 1xx are passed over. `searched`
/// is how much of `ahead` was looked through before, from 0 on: a head that comes byte by byte is parsed once, not with
/// each byte.
pub(crate) fn read(ahead: &mut BytesMut, searched: &mut usize) -> Result<Option<(Head, Framing)>, BadHead> {
    loop {
        // Told at once: what is no HTTP may never have the end of a head.
        if !START.starts_with(&ahead[..ahead.len().min(START.len())]) {
            return Err(BadHead::Syntax(httparse::Error::Version));
        }
        let Some(end) = end_of_head(ahead, *searched) else {
            *searched = ahead.len();
            return if ahead.len() > HEAD_MOST { Err(BadHead::TooLarge) } else { Ok(None) };
        };
        if end > HEAD_MOST {
            return Err(BadHead::TooLarge);
        }
        *searched = 0;
        let parsed = parse(&ahead.split_to(end).freeze())?;
        match parsed.0.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(BadHead::Switched),
            status if status.is_informational() => {}
            _ => return Ok(Some(parsed)),
        }
    }
}

/// A head ends with an empty line; a lone LF ends a line, too (RFC 9112 §2.2).
fn end_of_head(ahead: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(2);
    memchr::memchr_iter(b'\n', &ahead[from..]).find_map(|at| match &ahead[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

fn parse(bytes: &Bytes) -> Result<(Head, Framing), BadHead> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MOST];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    // The end was found, so that what is only a part has an empty line where there should be none.
    if parser.parse_response_with_uninit_headers(&mut parsed, bytes, &mut headers)?.is_partial() {
        return Err(BadHead::Syntax(httparse::Error::NewLine));
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
    let is_newest = parsed.version == Some(1);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    for header in &*parsed.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| BadHead::Header)?;
        // No copy: the values share the bytes of the head.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value)).map_err(|_| BadHead::Header)?;
        headers.append(name, value);
    }
    let framing = framing(status, &headers, is_newest)?;
    let is_kept = framing != Framing::UntilClose && is_kept(&headers, is_newest);
    Ok((Head { status, headers, is_kept }, framing))
}

/// RFC 9112 §6.3. A length beside chunks is for the caller to judge.
fn framing(status: StatusCode, headers: &HeaderMap, is_newest: bool) -> Result<Framing, BadHead> {
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Ended);
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter().peekable();
    if codings.peek().is_some() {
        let is_chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return if is_newest && is_chunked && codings.next().is_none() {
            Ok(Framing::chunked())
        } else {
            Err(BadHead::Coding)
        };
    }
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for text in value.to_str().map_err(|_| BadHead::Length)?.split(',') {
            let text = text.trim();
            // `parse` would take a sign.
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let other: u64 = text.parse().ok().filter(|_| is_number).ok_or(BadHead::Length)?;
            if length.replace(other).is_some_and(|length| length != other) {
                return Err(BadHead::Length);
            }
        }
    }
    Ok(length.map_or(Framing::UntilClose, Framing::Length))
}

fn is_kept(headers: &HeaderMap, is_newest: bool) -> bool {
    let says = |wanted: &str| {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    !says("close") && (is_newest || says("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<(Head, Framing, String), BadHead> {
        let mut ahead = BytesMut::from(text);
        let (head, framing) = read(&mut ahead, &mut 0)?.expect("it is all there");
        Ok((head, framing, String::from_utf8(ahead.to_vec()).unwrap()))
    }

    #[test]
    fn a_request_has_its_length_and_nothing_else_added() {
        let mut request = Request::post("/v1/models?x=y").header(header::HOST, "gpu:8000").body(Bytes::new()).unwrap();
        assert_eq!(write(&request), b"POST /v1/models?x=y HTTP/1.1\r\nhost: gpu:8000\r\ncontent-length: 0\r\n\r\n");
        *request.method_mut() = http::Method::GET;
        assert_eq!(write(&request), b"GET /v1/models?x=y HTTP/1.1\r\nhost: gpu:8000\r\n\r\n");
        *request.body_mut() = Bytes::from_static(b"hello");
        assert_eq!(write(&request), b"GET /v1/models?x=y HTTP/1.1\r\nhost: gpu:8000\r\ncontent-length: 5\r\n\r\n");
    }

    #[test]
    fn where_a_body_ends_and_whether_the_connection_stays() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", Framing::Length(12), true),
            ("HTTP/1.1 200 OK\ncontent-length: 12\n\n", Framing::Length(12), true),
            ("HTTP/1.1 200\r\ncontent-length: 12, 12\r\nContent-Length: 12\r\n\r\n", Framing::Length(12), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\nconnection: x, Close\r\n\r\n", Framing::Length(12), false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::chunked(), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ncontent-length: 1\r\n\r\n", Framing::chunked(), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: Keep-Alive\r\n\r\n", Framing::Length(1), true),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Ended, true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", Framing::Ended, true),
        ];
        for (text, framing, is_kept) in cases {
            let (head, seen, after) = answer(text).unwrap();
            assert_eq!((seen, head.is_kept, &*after), (framing, is_kept, ""), "{text:?}");
        }
    }

    #[test]
    fn what_comes_before_is_passed_over_and_what_comes_after_stays() {
        let (head, _, after) = answer(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\na: 1\r\na: 2\r\n\r\nbody",
        )
        .unwrap();
        let seen: Vec<_> = head.headers.get_all("a").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((head.status, seen, &*after), (StatusCode::OK, vec!["1", "2"], "body"));
    }

    #[test]
    fn a_head_is_the_same_wherever_it_is_cut() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\na: 1\r\ncontent-length: 3\r\n\r\nabc";
        let (mut ahead, mut searched, mut seen) = (BytesMut::new(), 0, None);
        for (at, byte) in text.bytes().enumerate() {
            ahead.extend_from_slice(&[byte]);
            if seen.is_none() {
                seen = read(&mut ahead, &mut searched).unwrap().map(|(_, framing)| (at, framing));
            }
        }
        assert_eq!(seen, Some((text.len() - 4, Framing::Length(3))));
        assert_eq!(&*ahead, b"abc");
    }

    #[test]
    fn what_is_no_answer_of_http_is_told() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: 1\r\n".repeat(101));
        let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEAD_MOST));
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(HEAD_MOST));
        let cases = [
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1"),
            ("HTTP/2", "not HTTP/1"),
            ("\x15\x03", "not HTTP/1"),
            ("HTTP/2 200\r\n\r\n", "not HTTP/1"),
            ("\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 9 OK\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 200 OK\r\na : 1\r\n\r\n", "not HTTP/1"),
            ("HTTP/1.1 200 OK\r\na: 1\r\n b\r\n\r\n", "not HTTP/1"),
            (&many, "not HTTP/1"),
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "coding"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n", "coding"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "coding"),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "coding"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched"),
            (&large, "larger"),
            (&endless, "larger"),
        ];
        for (text, reason) in cases {
            let error = answer(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}: {}", &text[..text.len().min(80)]);
        }
    }
}

/// Over all there may be, with more cases in the stage `fuzz`.
#[cfg(test)]
mod fuzz {
    use proptest::prelude::*;

    use super::*;

    /// Lines that are heads, nearly, and what no head has.
    fn lines() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            Just("HTTP/1.1 200 OK".to_owned()),
            Just("HTTP/1.0 503 ".to_owned()),
            Just("HTTP/1.1 100 Continue".to_owned()),
            Just("transfer-encoding: chunked".to_owned()),
            Just("content-length: 5".to_owned()),
            Just("connection: close".to_owned()),
            Just(String::new()),
            "[a-zA-Z-]{1,12}: [ -~]{0,20}",
            "\\PC{0,30}",
        ];
        let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r")];
        prop::collection::vec((line, end), 0..12)
            .prop_map(|lines| lines.into_iter().flat_map(|(line, end)| [line, end.to_owned()]).collect())
    }

    /// What is read of `input` when it comes in pieces that end at `cuts`: the head, and what is left of the bytes.
    fn read_in_pieces(input: &[u8], cuts: &[usize]) -> (String, usize) {
        let (mut ahead, mut searched, mut from) = (BytesMut::new(), 0, 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
        ends.sort_unstable();
        for end in ends {
            ahead.extend_from_slice(&input[from..end]);
            from = end;
            match read(&mut ahead, &mut searched) {
                Ok(None) => {}
                Ok(Some(seen)) => return (format!("{seen:?}"), input.len() - from + ahead.len()),
                // Where in the bytes it is noticed depends on the pieces.
                Err(error) => return (error.to_string(), 0),
            }
        }
        (String::new(), ahead.len())
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_head_is_cut(text in lines(), cuts in prop::collection::vec(any::<usize>(), 0..8)) {
            prop_assert_eq!(read_in_pieces(text.as_bytes(), &[]), read_in_pieces(text.as_bytes(), &cuts));
        }
    }
}
