//! What scripts do to the connection below HTTP, and how they are changed from outside.

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::client::{Ask, CHAT, Connection, RawConnection};

type Sender = http2::SendRequest<Full<bytes::Bytes>>;

async fn mock(script: &str) -> MockLlm {
    let mock = MockLlm::start().unwrap();
    mock.always(script.parse().unwrap());
    mock
}

async fn http2(mock: &MockLlm) -> Sender {
    let tcp = TcpStream::connect(mock.address()).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tasks::spawn("test-connection", async move { drop(connection.await) });
    sender
}

async fn body(sender: &mut Sender, mock: &MockLlm) -> hyper::Result<bytes::Bytes> {
    let request = Request::post(format!("{}/v1/chat/completions", mock.url()));
    let response = sender.send_request(request.body(Full::from(r#"{"stream":true}"#)).unwrap()).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()?.reason()
}

async fn raw(mock: &MockLlm) -> RawConnection {
    let mut raw = RawConnection::open(mock.address()).await.unwrap();
    raw.send(Ask::streamed_chat().wire()).await.unwrap();
    raw
}

#[tokio::test]
async fn a_cut_comes_after_exactly_so_many_bytes_of_the_body() {
    for end in ["fin", "rst"] {
        let mock = mock(&format!("cut {end} at byte 12\nraw \"0123456789\"\nraw \"abcdef\"\ndone")).await;
        let text = raw(&mock).await.read_to_end().await.unwrap();
        assert!(text.ends_with("2\r\nab\r\n"), "{text}");
        assert_eq!(mock.ledger()[0].ended, Ended::Fault);
    }
}

#[tokio::test]
async fn split_writes_are_chunks_of_their_own() {
    let mock = mock("split 2\nraw \"abcde\"").await;
    let text = raw(&mock).await.read_until("0\r\n\r\n").await.unwrap();
    assert!(text.ends_with("2\r\nab\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_length_that_is_too_long_ends_with_the_connection() {
    let mock = mock("length 100\nraw \"ab\"").await;
    let text = raw(&mock).await.read_to_end().await.unwrap();
    assert!(text.contains("content-length: 100\r\n") && text.ends_with("\r\n\r\nab"), "{text}");
}

#[tokio::test]
async fn after_a_half_close_it_still_reads() {
    let mock = mock("raw \"ab\"\nhalf-close\nhang").await;
    let mut tcp = TcpStream::connect(mock.address()).await.unwrap();
    tcp.write_all(&Ask::streamed_chat().wire()).await.unwrap();
    let mut seen = String::new();
    tcp.read_to_string(&mut seen).await.unwrap();
    assert!(seen.ends_with("2\r\nab\r\n"), "{seen}");
    assert_eq!((mock.counts().connections, mock.counts().active), (1, 1));
    drop(tcp);
    mock.cancelled(1).await;
}

#[tokio::test]
async fn a_deaf_script_goes_on_and_counts_what_it_writes_for_nobody() {
    let mock = mock("deaf\nrole\ntokens 1000000 every 1ms").await;
    let mut first = raw(&mock).await;
    first.read_until("t1 ").await.unwrap();
    first.finish().await.unwrap();
    mock.cancelled(1).await;
    // Half of the connection is open: it can be seen to go on.
    first.read_until("t50 ").await.unwrap();
    assert_eq!((mock.counts().active, mock.ledger()[0].ended), (1, Ended::Cut));
    assert!(mock.cuts()[0].written_after > 1_000, "{:?}", mock.cuts());
    drop(first);
    mock.until(|counts| counts.active == 0).await;
    assert_eq!(mock.counts().cut, 1, "a client that left is counted once");
}

#[tokio::test]
async fn a_deaf_stream_of_http2_goes_on_after_its_reset() {
    let mock = mock("deaf\nrole\ntokens 1000000 every 1ms").await;
    let mut sender = http2(&mock).await;
    let request = Request::post(format!("{}/v1/chat/completions", mock.url()));
    let request = request.body(Full::from(r#"{"stream":true}"#)).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    response.frame().await.unwrap().unwrap();
    drop(response);
    mock.cancelled(1).await;
    crate::wait::eventually("it writes on", async || mock.cuts()[0].written_after > 1_000).await.unwrap();
}

#[tokio::test]
async fn a_goaway_lets_its_stream_end_and_takes_no_other() {
    let mock = mock("role\nh2 goaway\ntokens 3\nfinish stop\ndone").await;
    let mut sender = http2(&mock).await;
    assert!(body(&mut sender, &mock).await.unwrap().ends_with(b"[DONE]\n\n"));
    assert!(body(&mut sender, &mock).await.is_err());
    assert_eq!(mock.counts().attempts, 1);
}

#[tokio::test]
async fn a_goaway_before_a_stream_says_that_it_was_not_looked_at() {
    for (script, told) in [("h2 goaway-before\nhang", h2::Reason::NO_ERROR), ("h2 refuse", h2::Reason::REFUSED_STREAM)]
    {
        let mock = mock(script).await;
        let error = body(&mut http2(&mock).await, &mock).await.unwrap_err();
        assert_eq!(reason(&error), Some(told), "{error:?}");
    }
    let mock = mock("role\nh2 reset").await;
    let error = body(&mut http2(&mock).await, &mock).await.unwrap_err();
    assert_eq!(reason(&error), Some(h2::Reason::INTERNAL_ERROR));
}

/// The payloads of the DATA frames of one answer, read without a library that tidies them up.
async fn data_frames(mock: &MockLlm) -> Vec<Vec<u8>> {
    let mut tcp = TcpStream::connect(mock.address()).await.unwrap();
    // POST (3) over http (6), :authority (1) and :path (4) as they are: RFC 7541, appendix A.
    let head = b"\x83\x86\x01\x01m\x04\x14/v1/chat/completions";
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        b"\0\0\0\x04\0\0\0\0\0",
        &[0, 0, head.len() as u8, 1, 5, 0, 0, 0, 1],
        head,
    ];
    tcp.write_all(&request.concat()).await.unwrap();
    let mut payloads = Vec::new();
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        tcp.read_exact(&mut payload).await.unwrap();
        if head[3] == 0 {
            payloads.push(payload);
            if head[4] & 1 == 1 {
                return payloads;
            }
        }
    }
}

#[tokio::test]
async fn frames_are_as_small_as_told_and_empty_ones_carry_nothing() {
    let mock = mock("frames 7\nh2 empty 5\nraw \"0123456789abcdef\"").await;
    let frames = data_frames(&mock).await;
    assert_eq!(frames[..5], vec![Vec::<u8>::new(); 5]);
    assert_eq!(frames[5..8], [b"0123456".to_vec(), b"789abcd".to_vec(), b"ef".to_vec()]);
}

#[tokio::test]
async fn without_a_window_no_large_request_arrives() {
    let mock = mock("h2 window 0\nrole").await;
    let mut sender = http2(&mock).await;
    // What fits the first window of RFC 9113 §6.9.2 may be on its way before the mock can say anything.
    let request = Request::post(format!("{}/v1/chat/completions", mock.url()));
    let asked = sender.send_request(request.body(Full::from(vec![b' '; 200_000])).unwrap());
    let asked = tokio::time::timeout(std::time::Duration::from_millis(200), asked).await;
    assert!(asked.is_err() && mock.counts().attempts == 0, "{asked:?}");
}

#[tokio::test]
async fn scripts_are_set_and_taken_back_from_outside() {
    let mock = MockLlm::start().unwrap();
    let mut connection = Connection::open(mock.address()).await.unwrap();
    let mut tell = async |method, path: &str, text: &str| {
        let ask = if method == http::Method::POST { Ask::post(path, text.to_owned()) } else { Ask::new(method, path) };
        let answer = connection.ask(ask).await.unwrap();
        (answer.status(), answer.text().into_owned())
    };
    let (post, delete) = (http::Method::POST, http::Method::DELETE);
    assert_eq!(tell(post.clone(), "/mock/script", "status 500").await.0, 204);
    assert_eq!(tell(post.clone(), "/mock/script?model=mock-model", "status 501").await.0, 204);
    assert_eq!(tell(post.clone(), CHAT, r#"{"model":"mock-model"}"#).await.0, 501);
    assert_eq!(tell(delete.clone(), "/mock/script?model=mock-model", "").await.0, 204);
    assert_eq!(tell(post.clone(), CHAT, r#"{"model":"mock-model"}"#).await.0, 500);
    let (status, text) = tell(post.clone(), "/mock/script", "role\nrool").await;
    assert_eq!((status, text.starts_with("line 2, column 1: there is no step named \"rool\"")), (400, true), "{text}");
    assert_eq!(tell(delete, "/mock/script", "").await.0, 204);
    assert_eq!(tell(post, CHAT, "{}").await.0, 200);
    assert_eq!(tell(http::Method::PUT, "/mock/script", "").await.0, 405);
}
