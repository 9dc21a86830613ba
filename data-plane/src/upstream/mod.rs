//! Asks a backend: finds a connection, sends the request, hands back the head and a body that is pulled.
//!
//! An HTTP/1.1 connection is driven by whoever pulls the body: dropping the body closes it, and that is all that a
//! cancel is. After a clean end it goes back to the shelf it came from.

pub(crate) mod attempt;
pub(crate) mod connect;
pub(crate) mod headers;
pub(crate) mod io;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io::ErrorKind,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::TrySendError,
};

pub(crate) use self::connect::Connector;
use self::connect::{ConnectError, Http1, Link, Place};
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
pub(crate) struct Body {
    incoming: Incoming,
    carrier: Carrier,
}

#[derive(Debug)]
enum Carrier {
    Http1(Http1Carrier),
    Http2 {
        _place: Place,
    },
    /// The body has ended and the connection is back on its shelf, or gone.
    Gone,
}

#[derive(Debug)]
struct Http1Carrier {
    link: Box<Http1>,
    home: Arc<Connector>,
}

/// A request that was not answered; it may still have the request.
type Unanswered = TrySendError<Request<Full<Bytes>>>;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or what came is not HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// What to do when a connection that had lain idle breaks before anything of an answer has come: whether the backend saw
/// the request cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfLost {
    /// Send it once more over a new connection.
    AskAgain,
    /// Leave it at that.
    Tell,
}

/// Sends what `request` makes (told whether it goes over HTTP/2) and waits for the head of the answer. `request` is
/// called each time that one is sent: a connection that was closed while it lay idle makes it two.
pub(crate) async fn ask(
    connector: &Arc<Connector>,
    connect_within: Duration,
    if_lost: IfLost,
    mut request: impl FnMut(http::Version) -> Request<Full<Bytes>>,
) -> Result<Answer, AskError> {
    let mut link = connector.link(connect_within).await?;
    let mut unsent = None;
    let mut is_fresh = false;
    loop {
        let (mut error, may_ask_again) = match link {
            Link::Http2(mut sender, place) => {
                let request = unsent.take().unwrap_or_else(|| request(http::Version::HTTP_2));
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok(answer(response, Carrier::Http2 { _place: place })),
                    Err(error) => {
                        // It is going away, or full: the streams on it go on, but no other shall go there.
                        connector.retire(&place);
                        (error, false)
                    }
                }
            }
            Link::Http1 { link: http1, reused } => {
                let mut carrier = Http1Carrier { link: http1, home: Arc::clone(connector) };
                let request = unsent.take().unwrap_or_else(|| request(http::Version::HTTP_11));
                match carrier.send(request).await {
                    Ok(response) => return Ok(answer(response, Carrier::Http1(carrier))),
                    Err(error) => {
                        let may_ask_again = reused && if_lost == IfLost::AskAgain && was_closed(error.error());
                        (error, may_ask_again)
                    }
                }
            }
        };
        unsent = error.take_message();
        if is_fresh || (unsent.is_none() && !may_ask_again) {
            return Err(error.into_error().into());
        }
        // It was closed while nobody used it. What was not sent can be sent in any case.
        link = connector.fresh(connect_within).await?;
        is_fresh = true;
    }
}

fn answer(response: Response<Incoming>, carrier: Carrier) -> Answer {
    let (head, incoming) = response.into_parts();
    Answer { status: head.status, headers: head.headers, body: Body { incoming, carrier } }
}

fn was_closed(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed() || error.is_incomplete_message() || (!error.is_parse() && !error.is_user())
}

// === impl Http1Carrier ===

impl Http1Carrier {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        let mut response = pin!(self.link.sender.try_send_request(request));
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response);
            }
            self.link.drive(cx);
            response.as_mut().poll(cx)
        })
        .await
    }

    /// Puts the connection back when it can take another request.
    fn give_back(mut self, cx: &mut Context<'_>) {
        if self.link.is_free(cx) {
            self.home.keep(self.link);
        }
    }
}

// === impl Body ===

impl Body {
    /// The next bytes, never empty; `None` at a clean end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        let mut driven = false;
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers say nothing that a client of ours could read.
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    if let Carrier::Http1(carrier) = std::mem::replace(&mut self.carrier, Carrier::Gone) {
                        carrier.give_back(cx);
                    }
                    return Poll::Ready(None);
                }
                Poll::Pending => match &mut self.carrier {
                    Carrier::Http1(carrier) if !driven => {
                        carrier.link.drive(cx);
                        driven = true;
                    }
                    _ => return Poll::Pending,
                },
            }
        }
    }

    /// The next bytes, never empty; `None` at a clean end.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }
}

// === impl AskError ===

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Connect(error) => error.into(),
            AskError::Http(error) => http_failure(error),
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

/// What a broken or senseless answer means.
pub(crate) fn http_failure(error: hyper::Error) -> Refusal {
    let refusal = if error.is_parse() || is_misframed(&error) {
        Refusal::new(Kind::UpstreamProtocol, "the backend's answer is not HTTP")
    } else {
        Refusal::new(Kind::UpstreamReset, "the connection to the backend was lost")
    };
    refusal.because(error)
}

/// hyper tells of chunks that are none with an error of input and output whose kind is this.
fn is_misframed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| matches!(source.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData))
}
