//! `GET /v1/ws`: many streams on one WebSocket, by the subprotocol `ntonix.v1`.
//!
//! [`session`] has the rules, [`lanes`] serves the streams in turn, [`driver`] moves what they say, [`socket`] gathers
//! frames. One task for each socket polls all of its streams, so that the socket's own backpressure holds all of them.

mod driver;
mod events;
mod frames;
mod lanes;
mod outbox;
mod session;
mod socket;
mod stream;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ntonix_runtime::tasks;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::{driver::Driver, socket::Socket};
use super::{Edge, Visit, body::EdgeBody, credential};
use crate::{
    exchange::{Client, Transport},
    policy::authenticate,
    refusal::{Kind, Refusal},
};

const PROTOCOL: &str = "ntonix.v1";

// === impl Edge ===

impl Edge {
    /// Makes a WebSocket of the connection. What is wrong is answered before the upgrade, with a status.
    pub(super) fn upgrade(self: Arc<Self>, mut visit: Visit) -> Result<Response<EdgeBody>, Refusal> {
        let headers = visit.request.headers();
        let accept = check_handshake(headers)?;
        if let Some(origin) = headers.get(header::ORIGIN)
            && !self.origins.contains(origin)
        {
            let public = "this page's origin is not on the gateway's list (see --allow-origin)";
            return Err(Refusal::new(Kind::OriginNotAllowed, public));
        }
        let shown = credential::of_handshake(headers, &offered(headers));
        let identity =
            visit.live.identify(shown.as_ref().map(Option::as_deref).map_err(|why| *why), visit.peer.anonymous);
        authenticate::check(&identity)?;
        if self.drain.is_draining() {
            return Err(Refusal::new(Kind::Draining, "the gateway is going away"));
        }
        let client = Arc::new(Client {
            address: Arc::clone(&visit.peer.address),
            transport: Transport::WebSocket,
            leave: visit.peer.leave(),
        });
        let headers = Arc::new(without_handshake(headers));
        let upgraded = hyper::upgrade::on(&mut visit.request);
        let peer = Arc::clone(&visit.peer);
        tasks::spawn("websocket", async move {
            // The socket is a request that does not end: the clocks of idle connections must not run.
            let _busy = peer.activity.begin();
            match upgraded.await {
                Ok(io) => {
                    let socket = Socket::new(TokioIo::new(io)).await;
                    Driver::new(self, Arc::clone(&peer), client, headers, shown, socket).run().await;
                }
                Err(error) => tracing::debug!(client.addr = %peer.address, %error, "Upgrade failed"),
            }
        });
        Ok(switching(accept))
    }
}

/// Checks what RFC 6455 §4.2.1 asks for, and the subprotocol. Returns the value of `Sec-WebSocket-Accept`.
fn check_handshake(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let bad = |public: &'static str| Refusal::new(Kind::BadRequest, public);
    let names = |name: HeaderName, item: &str| {
        let values = headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(item)))
    };
    if !names(header::UPGRADE, "websocket") || !names(header::CONNECTION, "upgrade") {
        return Err(bad("this path speaks WebSocket only: send Upgrade: websocket"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let Some(key) = key else { return Err(bad("Sec-WebSocket-Key must be 16 bytes in base64")) };
    if !offered(headers).contains(&PROTOCOL) {
        return Err(bad("offer the subprotocol ntonix.v1 (Sec-WebSocket-Protocol)"));
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad("Sec-WebSocket-Key is no key"))
}

fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim).collect()
}

/// The headers of the handshake that say something about its streams.
fn without_handshake(headers: &HeaderMap) -> HeaderMap {
    let mut headers = credential::taken_out(headers.clone());
    headers.remove(header::ACCEPT);
    // Copies: they stay for as long as the socket does, and what came holds what it was read into.
    for value in headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    headers
}

fn switching(accept: HeaderValue) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    // Only our own item is echoed, never the one with a key in it.
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    response
}
