//! Asks a backend: finds a connection, sends the request, hands back the head and a body that is pulled.
//!
//! An HTTP/1.1 connection is driven by whoever pulls the body ([`http1`]): dropping the body closes it, and that is all
//! that a cancel is. After a clean end it goes back to the shelf it came from. HTTP/2 is hyper's.

pub(crate) mod attempt;
pub(crate) mod connect;
pub(crate) mod headers;
pub(crate) mod http1;
pub(crate) mod io;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io::ErrorKind,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

pub(crate) use self::connect::Connector;
use self::{
    connect::{ConnectError, Place},
    http1::{Connection, Head, Reached},
};
use crate::refusal::{Kind, Refusal};

/// What a backend answered so far.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers, as they came.
    pub(crate) headers: HeaderMap,
    /// The rest.
    pub(crate) body: Body,
}

/// The body of an answer, and the connection that it comes by.
#[derive(Debug)]
pub(crate) enum Body {
    /// The whole connection, and the shelf that it goes back to.
    Http1(Box<Connection>, Arc<Connector>),
    /// A stream of a shared connection, and its place there, free again when dropped.
    Http2 { incoming: Box<Incoming>, _place: Place },
    /// It has ended, and the connection is back on its shelf, or gone.
    Ended,
}

/// Why an exchange ended before it was over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or what came is not HTTP.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// What to do when a connection that had lain idle breaks at once, before anything of an answer has come: whether the
/// backend saw the request cannot be known. One that breaks later is lost like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfLost {
    /// Send it once more over a new connection.
    AskAgain,
    /// Leave it at that.
    Tell,
}

/// A connection that was closed while it lay idle breaks within a round trip of the first byte. A backend that was silent
/// for longer may have worked on the request, and asking again would pay for that twice.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Sends what `request` makes and waits for the head of the answer. `request` is called each time that one is sent: a
/// connection that was closed while it lay idle makes it two.
pub(crate) async fn ask(
    connector: &Arc<Connector>,
    connect_within: Duration,
    if_lost: IfLost,
    request: impl FnMut() -> Request<Bytes>,
) -> Result<Answer, AskError> {
    if connector.speaks_http2() {
        ask_over_http2(connector, connect_within, request).await
    } else {
        ask_over_http1(connector, connect_within, if_lost, request).await
    }
}

async fn ask_over_http1(
    connector: &Arc<Connector>,
    connect_within: Duration,
    if_lost: IfLost,
    mut make: impl FnMut() -> Request<Bytes>,
) -> Result<Answer, AskError> {
    let asked_at = Instant::now();
    let (mut connection, mut is_fresh) = match connector.idle(asked_at) {
        Some(connection) => (connection, false),
        None => (opened(connector, connect_within).await?, true),
    };
    let mut request = make();
    loop {
        let unanswered = match connection.ask(&request).await {
            Ok(Head { status, headers, .. }) => {
                let body = Body::Http1(connection, Arc::clone(connector));
                return Ok(Answer { status, headers, body });
            }
            Err(unanswered) => unanswered,
        };
        let may_ask_again = match unanswered.reached {
            // It was closed while nobody used it.
            Reached::Nothing => true,
            Reached::Request => if_lost == IfLost::AskAgain && asked_at.elapsed() <= AT_ONCE,
            Reached::Answer => false,
        };
        if is_fresh || !may_ask_again {
            return Err(Lost::from(unanswered.error).into());
        }
        (connection, is_fresh) = (opened(connector, connect_within).await?, true);
        if unanswered.reached == Reached::Request {
            request = make();
        }
    }
}

/// A new connection. On the heap, or else each attempt carried the 2 KiB that a handshake needs, and copied them.
fn opened(
    connector: &Arc<Connector>,
    within: Duration,
) -> Pin<Box<impl Future<Output = Result<Box<Connection>, ConnectError>>>> {
    Box::pin(connector.open_http1(within))
}

async fn ask_over_http2(
    connector: &Arc<Connector>,
    connect_within: Duration,
    mut make: impl FnMut() -> Request<Bytes>,
) -> Result<Answer, AskError> {
    let (mut sender, mut place, mut is_fresh) = match connector.shared() {
        Some((sender, place)) => (sender, place, false),
        None => {
            let (sender, place) = Box::pin(connector.open_http2(connect_within)).await?;
            (sender, place, true)
        }
    };
    let mut request = make().map(Full::new);
    loop {
        let mut error = match sender.try_send_request(request).await {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                let body = Body::Http2 { incoming: Box::new(incoming), _place: place };
                return Ok(Answer { status: head.status, headers: head.headers, body });
            }
            Err(error) => error,
        };
        // It is going away, or full: the streams on it go on, but no other shall go there.
        connector.retire(&place);
        match error.take_message() {
            // What was not sent can be sent in any case.
            Some(unsent) if !is_fresh => request = unsent,
            _ => return Err(Lost::from(error.into_error()).into()),
        }
        (sender, place) = Box::pin(connector.open_http2(connect_within)).await?;
        is_fresh = true;
    }
}

// === impl Body ===

impl Body {
    /// The next bytes, never empty; `None` at a clean end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Lost>>> {
        match self {
            Self::Http1(connection, _) => match ready!(connection.poll_data(cx)) {
                Some(data) => Poll::Ready(Some(data.map_err(Lost::from))),
                None => {
                    if let Self::Http1(connection, home) = std::mem::replace(self, Self::Ended) {
                        home.keep(connection);
                    }
                    Poll::Ready(None)
                }
            },
            Self::Http2 { incoming, .. } => poll_http2(incoming, cx),
            Self::Ended => Poll::Ready(None),
        }
    }

    /// The next bytes, never empty; `None` at a clean end.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, Lost>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }
}

fn poll_http2(incoming: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Lost>>> {
    loop {
        match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            // Trailers say nothing that a client of ours could read.
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                _ => {}
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        }
    }
}

// === impl AskError ===

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Connect(error) => error.into(),
            AskError::Lost(lost) => lost.into(),
        }
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        let refusal = match &error {
            ConnectError::Tcp(_) | ConnectError::TimedOut(_) => {
                Refusal::new(Kind::UpstreamConnect, "no backend could be reached")
            }
            ConnectError::Tls(_) => Refusal::new(Kind::UpstreamTls, "no secure connection to the backend"),
            ConnectError::Http(_) | ConnectError::NotHttp2 => {
                Refusal::new(Kind::UpstreamProtocol, "the backend does not speak the configured protocol")
            }
            ConnectError::Exhausted(_) => Refusal::new(Kind::Overloaded, "the gateway has no connections left")
                .retry_after(Duration::from_secs(1)),
        };
        refusal.because(error)
    }
}

// === impl Lost ===

impl Lost {
    /// Is it not HTTP what came?
    fn is_no_http(&self) -> bool {
        match self {
            Self::Http1(http1::Error::Head(_) | http1::Error::Chunk(_)) => true,
            // TLS tells of records that are none with an error of input and output whose kind is this.
            Self::Http1(http1::Error::Broke(error)) => error.kind() == ErrorKind::InvalidData,
            Self::Http1(http1::Error::Closed) => false,
            Self::Http2(error) => error.is_parse(),
        }
    }
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        let refusal = if lost.is_no_http() {
            Refusal::new(Kind::UpstreamProtocol, "the backend's answer is not HTTP")
        } else {
            Refusal::new(Kind::UpstreamReset, "the connection to the backend was lost")
        };
        refusal.because(lost)
    }
}
