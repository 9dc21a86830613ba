use futures_util::future;
use http::StatusCode;
use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::{edge::websocket::socket::ROUND, exchange::Reply};

const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"some tokens together\"}}]}\n\n";
/// More than all tests write.
const PIPE: usize = 16 * 1024 * 1024;

/// Less than a turn.
const WINDOW: usize = 2 * 1024;

/// A socket with streams that have so many bytes of events each, all there.
struct Site {
    lanes: Lanes<Stream>,
    session: Session,
    socket: Socket<DuplexStream>,
    _client: DuplexStream,
}

impl Site {
    async fn new(flow: &str, streams: usize, bytes: usize) -> Self {
        let (near, far) = duplex(PIPE);
        let socket = Socket::new(near).await;
        let (mut lanes, mut session) = (Lanes::new(), Session::new(Duration::from_secs(60)));
        session.take(&format!(r#"{{"t":"hello","flow":"{flow}"}}"#));
        for number in 0..streams {
            let create = format!(
                r#"{{"t":"create","id":"s{number}","op":"chat.completions","window":{WINDOW},"body":{{"model":"m"}}}}"#
            );
            let Action::Create { id, .. } = session.take(&create) else { panic!("no stream") };
            let body = Bytes::from(EVENT.repeat(bytes / EVENT.len()));
            let answer = future::ready(Ok(Reply::full(StatusCode::OK, HeaderMap::new(), body))).boxed();
            lanes.insert(id, Stream::new("req_1".into(), true, answer));
        }
        Self { lanes, session, socket, _client: far }
    }

    /// What the next stream has to say beside events.
    fn next(&mut self) -> Option<(Arc<str>, Turn)> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Self { lanes, session, socket, .. } = self;
        match next_turn(lanes, session, socket, &mut cx) {
            Flow::Continue(turn) => turn,
            Flow::Break(_) => panic!("the socket is gone"),
        }
    }

    async fn flush(&mut self) {
        assert!(poll_fn(|cx| self.socket.poll_flush(cx)).await.is_continue());
    }
}

/// The rest of each waits for its client, so that a stream is followed by the next one in the same look at the line.
#[tokio::test]
async fn a_round_ends_when_it_is_full_however_little_each_stream_may_send() {
    const STREAMS: usize = 100;
    let mut site = Site::new("credit", STREAMS, 2 * WINDOW).await;
    for _ in 0..STREAMS {
        assert!(matches!(site.next(), Some((_, Turn::Open(_)))));
    }
    assert_eq!(site.socket.unflushed(), 0, "no event comes before its stream is open");
    let mut sent = 0;
    loop {
        assert!(site.next().is_none(), "events alone");
        let round = site.socket.unflushed();
        assert!(round < ROUND + TURN, "{round} bytes in a round");
        if round == 0 {
            break;
        }
        sent += round;
        site.flush().await;
    }
    assert!((STREAMS * WINDOW..2 * STREAMS * WINDOW).contains(&sent), "{sent} bytes: each has used its window");
}

#[tokio::test]
async fn a_stream_with_much_gives_way_to_one_with_little() {
    let mut site = Site::new("auto", 2, 10 * TURN).await;
    for id in ["s0", "s1"] {
        assert!(matches!(site.next(), Some((found, Turn::Open(_))) if *found == *id));
    }
    let mut taken = Vec::new();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let Site { lanes, session, socket, .. } = &mut site;
    for _ in 0..4 {
        let before = socket.unflushed();
        let polled = lanes.poll_next(&mut cx, |id, stream, cx| poll_turn(session, socket, id, stream, cx));
        let Poll::Ready((id, _)) = polled else { panic!("it has more") };
        taken.push(id.to_string());
        assert!((TURN..2 * TURN).contains(&(socket.unflushed() - before)));
    }
    assert_eq!(taken, ["s0", "s1", "s0", "s1"]);
}
