//! The connection that a question came by, and why its client went.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{HeaderValue, StatusCode};

use crate::{
    edge::{Stopping, respond},
    listener::{guard::Activity, streams::Progress},
    refusal::Kind,
};

/// The outcome of an exchange whose client left before the end.
const CANCELLED: &str = "cancelled";

/// The connection that a question came by.
#[derive(Debug)]
pub(crate) struct Client {
    /// The peer.
    pub(crate) address: Arc<ClientAddress>,
    /// How it speaks to us.
    pub(crate) transport: Transport,
    /// Why it went, when it is gone.
    pub(crate) leave: Leave,
}

/// The address of a client, as it is told to backends and to the log: written once for a connection, not for each request.
#[derive(Debug)]
pub(crate) struct ClientAddress {
    text: String,
    hop: HeaderValue,
}

/// Why an exchange is dropped before its end: asked when that happens.
#[derive(Debug, Default)]
pub(crate) struct Leave {
    /// The connection.
    pub(crate) activity: Arc<Activity>,
    /// The stream of an HTTP/2 connection.
    pub(crate) stream: Option<Arc<Progress>>,
    /// The gateway goes away.
    pub(crate) stopping: Arc<Stopping>,
}

/// How a client speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// A stream of an `ntonix.v1` socket.
    WebSocket,
}

// === impl Transport ===

impl Transport {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::WebSocket as usize + 1;

    /// The label of the metrics and the log.
    pub(crate) fn as_label(self) -> &'static str {
        match self {
            Transport::Http1 => "http1",
            Transport::Http2 => "http2",
            Transport::WebSocket => "websocket",
        }
    }
}

// === impl ClientAddress ===

impl ClientAddress {
    /// The IP address alone, for `x-forwarded-for`.
    pub(crate) fn hop(&self) -> &HeaderValue {
        &self.hop
    }
}

impl From<SocketAddr> for ClientAddress {
    fn from(address: SocketAddr) -> Self {
        let hop = HeaderValue::try_from(address.ip().to_string());
        // Digits, dots and colons are what a header may have.
        Self { text: address.to_string(), hop: hop.unwrap_or_else(|_| HeaderValue::from_static("unknown")) }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Leave ===

impl Leave {
    /// What the records say of an exchange that nobody pulls any more, by the status of its answer, when there is one: the
    /// outcome, and the status that stands for it when there is none.
    pub(crate) fn outcome(&self, answered: Option<StatusCode>) -> (&'static str, StatusCode) {
        // Who vanished before the answer had nothing to take.
        let has_vanished = self.activity.is_lost() && answered.is_some();
        let has_stalled =
            self.activity.has_stalled() || self.stream.as_ref().is_some_and(|stream| stream.has_stalled());
        let kind = if has_stalled || has_vanished {
            Kind::ClientStalled
        } else if self.stopping.has_begun() {
            Kind::Draining
        } else {
            // Nobody is there to get a status; nginx writes 499 into its log.
            return (CANCELLED, StatusCode::from_u16(499).unwrap_or_default());
        };
        (kind.as_label(), respond::status_of(kind))
    }
}
