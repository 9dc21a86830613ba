use std::time::Duration;

use ntonix_runtime::tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};

use super::*;

const SECONDS: Duration = Duration::from_secs(20);

/// A connection, and its far end.
async fn pair() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Connection::new(Io::Plain(near.unwrap())), far.unwrap().0)
}

fn post(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post("/v1/chat/completions").body(body.into()).unwrap()
}

/// Reads to the end of a request's head and says `answer`.
async fn answer(far: &mut TcpStream, answer: &str) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(far.read_u8().await.unwrap());
    }
    far.write_all(answer.as_bytes()).await.unwrap();
}

/// The body as it comes: its bytes, and how it ends.
async fn body(connection: &mut Connection) -> (String, Result<(), Error>) {
    let mut body = Vec::new();
    loop {
        match timeout(SECONDS, poll_fn(|cx| connection.poll_data(cx))).await.expect("it hangs") {
            Some(Ok(data)) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Some(Err(error)) => return (String::from_utf8(body).unwrap(), Err(error)),
            None => return (String::from_utf8(body).unwrap(), Ok(())),
        }
    }
}

/// Asks a backend that says `text` and does not close; gives the body, how it ends, and whether another request can follow.
async fn asked(text: &str) -> (String, Result<(), Error>, bool) {
    let (mut connection, mut far) = pair().await;
    let request = post("");
    let (head, ()) = tokio::join!(connection.ask(&request), answer(&mut far, text));
    head.unwrap();
    let (body, end) = body(&mut connection).await;
    (body, end, connection.is_free())
}

#[tokio::test]
async fn a_connection_is_free_after_an_answer_that_is_whole_and_alone() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n";
    for (text, whole, is_free) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", true),
        (chunks, "ok!", true),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "ok", false),
        // Whatever follows, it answers nothing that was asked.
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", "ok", false),
        (&format!("{chunks}0\r\n"), "ok!", false),
        ("HTTP/1.1 204 No Content\r\n\r\nno", "", false),
    ] {
        let (body, end, free) = asked(text).await;
        assert!(end.is_ok(), "{end:?}: {text}");
        assert_eq!((&*body, free), (whole, is_free), "{text}");
    }
}

#[tokio::test]
async fn what_came_before_a_chunk_that_is_none_leaves_first() {
    let (body, end, is_free) = asked("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nno\r\n").await;
    assert_eq!((&*body, is_free), ("ok", false));
    assert!(matches!(end, Err(Error::Chunk(Malformed::Size))), "{end:?}");
}

#[tokio::test]
async fn an_end_before_the_end_is_told() {
    for (text, sent, is_whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nok", "ok", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "ok", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", "ok", false),
        ("HTTP/1.1 200 OK\r\n\r\nok", "ok", true),
    ] {
        let (mut connection, mut far) = pair().await;
        let request = post("");
        let (head, ()) = tokio::join!(connection.ask(&request), answer(&mut far, text));
        head.unwrap();
        drop(far);
        let (body, end) = body(&mut connection).await;
        assert_eq!((&*body, end.is_ok()), (sent, is_whole), "{text}");
        assert!(!connection.is_free(), "{text}");
    }
}

#[tokio::test]
async fn how_far_it_came_is_known() {
    let request = post("hello");
    // Closed before anything was written.
    let (mut connection, far) = pair().await;
    drop(far);
    while connection.is_free() {
        tokio::task::yield_now().await;
    }
    let unanswered = connection.ask(&request).await.unwrap_err();
    assert_eq!(unanswered.reached, Reached::Nothing);

    // Something came that answers nothing: it is not taken for the answer.
    let (mut connection, mut far) = pair().await;
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    while connection.is_silent() {
        tokio::task::yield_now().await;
    }
    let unanswered = connection.ask(&request).await.unwrap_err();
    assert_eq!(unanswered.reached, Reached::Nothing);

    for (said, reached) in
        [("", Reached::Request), ("HTTP/1.1 2", Reached::Answer), ("SSH-2.0\r\n\r\n", Reached::Answer)]
    {
        let (mut connection, mut far) = pair().await;
        let close = async {
            answer(&mut far, said).await;
            drop(far);
        };
        let (unanswered, ()) = tokio::join!(connection.ask(&request), close);
        assert_eq!(unanswered.unwrap_err().reached, reached, "{said}");
    }
}

#[tokio::test]
async fn a_stream_that_waits_holds_nothing_of_the_head_of_its_answer() {
    let (mut connection, mut far) = pair().await;
    let request = post("");
    let answered = answer(&mut far, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let (head, ()) = tokio::join!(connection.ask(&request), answered);
    drop(head.unwrap());
    // Nobody else has the bytes any more: what it still had, it could write to again.
    assert!(!connection.ahead.try_reclaim(1), "{} bytes", connection.ahead.capacity());
}

/// RFC 9112 §9.3: a server may answer before it has read the whole request, and close.
#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_whole_request_is_read() {
    let (mut connection, mut far) = pair().await;
    let request = post(vec![b'x'; 32 * 1024 * 1024]);
    let (done, told) = oneshot::channel::<()>();
    let backend = tasks::spawn("backend", async move {
        answer(&mut far, "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno!").await;
        let _told = told.await;
    });
    let head = timeout(SECONDS, connection.ask(&request)).await.expect("it hangs").unwrap();
    assert_eq!(head.status, http::StatusCode::PAYLOAD_TOO_LARGE);
    let (body, end) = body(&mut connection).await;
    assert!(end.is_ok() && body == "no!", "{body}");
    assert!(!connection.is_free(), "the rest of the request would be taken for another one");
    drop(done);
    backend.await.unwrap();
}

#[tokio::test]
async fn a_large_request_leaves_whole_and_is_let_go() {
    let (mut connection, mut far) = pair().await;
    let sent = Bytes::from(vec![b'x'; 8 * 1024 * 1024]);
    let request = post(sent.clone());
    let backend = tasks::spawn("backend", async move {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            seen.push(far.read_u8().await.unwrap());
        }
        let mut body = vec![0; 8 * 1024 * 1024];
        far.read_exact(&mut body).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        (far, body)
    });
    timeout(SECONDS, connection.ask(&request)).await.expect("it hangs").unwrap();
    let (_far, body) = backend.await.unwrap();
    assert!(body == sent);
    drop(request);
    assert!(sent.is_unique(), "a stream must not hold its prompt");
    assert!(connection.is_free());
}

/// The system counts a peer that makes no room like one that acknowledges nothing. The time is real, for it is the
/// system's: without the patience the connection is given up in the second second.
#[tokio::test]
async fn a_busy_backend_may_take_its_time_to_read_a_large_request() {
    let (mut connection, mut far) = pair().await;
    end_when_silent(connection.io.socket(), Duration::from_secs(1)).unwrap();
    let request = post(vec![b'x'; 16 * 1024 * 1024]);
    let backend = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        answer(&mut far, "").await;
        let mut body = vec![0; 16 * 1024 * 1024];
        far.read_exact(&mut body).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    };
    let (head, ()) = tokio::join!(connection.ask(&request), backend);
    assert_eq!(head.unwrap().status, http::StatusCode::OK);
    #[cfg(target_os = "linux")]
    assert_eq!(patience(&connection), Some(SILENT_AT_MOST), "it is as before afterwards");
}

/// How long the system lets the other end make no room or acknowledge nothing. However long that is, it asks after 5 s
/// without a word, twice, and then gives the connection up.
#[cfg(target_os = "linux")]
fn patience(connection: &Connection) -> Option<Duration> {
    let socket = socket2::SockRef::from(connection.io.socket());
    let (idle, every) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
    assert_eq!((idle, every, socket.tcp_keepalive_retries().unwrap()), (SILENT_AT_MOST / 3, SILENT_AT_MOST / 3, 2));
    socket.tcp_user_timeout().unwrap()
}

/// B3: it may have all of a large request, so that only probes can find out that it is gone.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_backend_that_is_silent_is_asked_whether_it_is_there_whatever_it_was_sent() {
    for (length, while_asked) in [(ROOM_LEAST, Some(SILENT_AT_MOST)), (ROOM_LEAST + 1, None)] {
        let (mut connection, mut far) = pair().await;
        end_when_silent(connection.io.socket(), SILENT_AT_MOST).unwrap();
        let request = post(vec![b'x'; length]);
        let read = async {
            answer(&mut far, "").await;
            far.read_exact(&mut vec![0; length]).await.unwrap();
        };
        tokio::select! {
            _ = connection.ask(&request) => unreachable!("nobody answers"),
            () = read => {}
        }
        assert_eq!(patience(&connection), while_asked, "{length} bytes, and nothing of an answer");
    }
}
