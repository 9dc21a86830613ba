//! Clients over `ntonix.v1`: many streams on each socket, in both flow modes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use ntonix_llm::Op;
use ntonix_tests::ledger::{Close, Invariant, Reader, Transport, Violation};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::field::{Field, Open};
use crate::http::{ENDLESS, REOPEN_PAUSE};
use crate::line::{dial, linger_not};
use crate::plan::{ALICE, Behaviour, GUEST};

/// How long a client waits for a socket.
const OPENING: Duration = Duration::from_secs(5);
/// The window of a stream with credit flow: small, so that it is met.
const WINDOW: u64 = 4 * 1024;
/// How often streams are looked at that nothing comes for.
const LOOK: Duration = Duration::from_millis(50);

/// What a client reads of a frame.
#[derive(Debug, Deserialize)]
struct Frame<'a> {
    t: &'a str,
    id: Option<&'a str>,
    request_id: Option<&'a str>,
    #[serde(borrow)]
    d: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<FrameError<'a>>,
}

#[derive(Debug, Deserialize)]
struct FrameError<'a> {
    request_id: Option<&'a str>,
}

/// One stream on a socket.
struct Stream<'a> {
    reader: Reader,
    behaviour: Option<Behaviour>,
    begun: Instant,
    /// Credit that is held back while the client stalls, and until when.
    owed: u64,
    stalled_until: Option<Instant>,
    _open: Open<'a>,
}

/// One socket.
struct Client<'a> {
    field: &'a Field,
    transport: Transport,
    worker: usize,
    lanes: usize,
    socket: WebSocketStream<TcpStream>,
    raw: std::net::TcpStream,
    open: HashMap<String, Stream<'a>>,
    is_leaving: bool,
    /// With auto flow the whole socket stalls.
    stalled_until: Option<Instant>,
}

/// One socket after another to a worker, with so many streams at once on each.
pub(crate) async fn client(field: Arc<Field>, transport: Transport, worker: usize, lanes: usize, is_guest: bool) {
    while !field.is_over(transport) {
        let key = if is_guest { GUEST } else { ALICE };
        let Ok(Ok((socket, raw))) = timeout(OPENING, connect(&field, worker, key)).await else {
            sleep(REOPEN_PAUSE).await;
            continue;
        };
        let mut client = Client {
            field: &field,
            transport,
            worker,
            lanes,
            socket,
            raw,
            open: HashMap::new(),
            is_leaving: false,
            stalled_until: None,
        };
        let close = client.run().await.unwrap_or(Close::Broken);
        for (_, stream) in client.open.drain() {
            field.close(stream.reader.close(close));
        }
    }
}

async fn connect(
    field: &Field,
    worker: usize,
    key: &str,
) -> anyhow::Result<(WebSocketStream<TcpStream>, std::net::TcpStream)> {
    let door = field.doors.plain[worker];
    let (stream, raw) = dial(door).await?;
    let mut request = format!("ws://{door}/v1/ws").into_client_request()?;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("ntonix.v1"));
    headers.insert(AUTHORIZATION, format!("Bearer {key}").parse()?);
    headers.insert("x-request-id", field.other("socket").parse()?);
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok((socket, raw))
}

// === impl Client ===

impl Client<'_> {
    /// Runs streams until the socket is spent or the round is over; how the streams that are left have ended.
    async fn run(&mut self) -> anyhow::Result<Close> {
        let flow = if self.transport == Transport::SocketCredit { "credit" } else { "auto" };
        self.send(json!({ "t": "hello", "flow": flow })).await?;
        loop {
            self.fill().await?;
            if self.open.is_empty() {
                // How the closing goes is nobody's stream.
                let _ = self.socket.close(None).await;
                return Ok(Close::Clean);
            }
            let look = Instant::now() + LOOK;
            tokio::select! {
                message = self.socket.next(), if self.stalled_until.is_none() => match message {
                    Some(Ok(Message::Text(text))) => {
                        if let Some(close) = self.frame(text.as_str()).await? {
                            return Ok(close);
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(Close::Broken),
                    Some(Ok(_)) => {}
                },
                () = sleep_until(look) => {}
            }
            self.look().await?;
        }
    }

    /// Opens streams up to the number of lanes.
    async fn fill(&mut self) -> anyhow::Result<()> {
        while !self.is_leaving && self.open.len() < self.lanes {
            let Some(plan) = self.field.next(self.transport) else {
                self.is_leaving = true;
                return Ok(());
            };
            let op = if plan.op == Op::Completions { "completions" } else { "chat.completions" };
            let mut create = json!({ "t": "create", "id": plan.stream, "op": op, "body": plan.body() });
            if self.transport == Transport::SocketCredit {
                create["window"] = json!(WINDOW);
            }
            let stream = Stream {
                reader: Reader::new(&plan.stream, plan.transport, plan.shape),
                behaviour: Some(plan.behaviour),
                begun: Instant::now(),
                owed: 0,
                stalled_until: None,
                _open: self.field.open(self.worker),
            };
            self.open.insert(plan.stream, stream);
            self.send(create).await?;
        }
        Ok(())
    }

    async fn send(&mut self, frame: serde_json::Value) -> anyhow::Result<()> {
        self.socket.send(Message::text(frame.to_string())).await.context("the socket is closed")
    }

    /// Takes a frame; returns how the socket ends when the client ends it now.
    async fn frame(&mut self, text: &str) -> anyhow::Result<Option<Close>> {
        let frame: Frame<'_> = serde_json::from_str(text).context("a frame cannot be read")?;
        let Some(id) = frame.id else {
            self.is_leaving |= frame.t == "goaway";
            if frame.t == "error" {
                self.stray(&format!("a frame was refused: {text}"));
            }
            return Ok(None);
        };
        let Some(stream) = self.open.get_mut(id) else {
            self.stray(&format!("a frame for a stream that is not under way: {}", &text[..text.len().min(120)]));
            return Ok(None);
        };
        if let Some(exchange) = frame.request_id.or(frame.error.as_ref().and_then(|error| error.request_id)) {
            stream.reader.name(exchange);
        }
        stream.reader.answered();
        match (frame.t, frame.d) {
            ("delta", Some(d)) => {
                stream.reader.event(d.get().as_bytes());
                return self.behave(id, text.len() as u64).await;
            }
            ("done", _) => self.end(id, Reader::done),
            ("error", _) => {
                self.field.look("an error frame", text.as_bytes());
                self.end(id, |reader| reader.failed(text.as_bytes()));
            }
            // What else there is tells of the stream, not of its end.
            _ => {}
        }
        Ok(None)
    }

    fn end(&mut self, id: &str, note: impl FnOnce(&mut Reader)) {
        if let Some(mut stream) = self.open.remove(id) {
            note(&mut stream.reader);
            self.field.close(stream.reader.close(Close::Clean));
        }
    }

    /// Does what is planned once so many tokens are there, once; gives credit back for the bytes of a frame.
    async fn behave(&mut self, id: &str, bytes: u64) -> anyhow::Result<Option<Close>> {
        let is_credit = self.transport == Transport::SocketCredit;
        let Some(stream) = self.open.get_mut(id) else { return Ok(None) };
        stream.owed += bytes;
        let tokens = stream.reader.tokens();
        let struck = match stream.behaviour {
            Some(Behaviour::Leaves(after) | Behaviour::Resets(after) | Behaviour::Stalls(after, _))
                if tokens >= after =>
            {
                stream.behaviour.take()
            }
            _ => None,
        };
        if let Some(kind) = struck.and_then(Behaviour::kind) {
            self.field.struck(kind, 1);
        }
        match struck {
            Some(Behaviour::Leaves(_)) => self.send(json!({ "t": "cancel", "id": id })).await?,
            Some(Behaviour::Resets(_)) => {
                linger_not(&self.raw);
                return Ok(Some(Close::Left));
            }
            Some(Behaviour::Stalls(_, lasts)) => {
                let until = Some(Instant::now() + lasts);
                if is_credit { stream.stalled_until = until } else { self.stalled_until = until }
            }
            _ => {}
        }
        if is_credit {
            // The socket's own window is never what stops a stream here.
            self.send(json!({ "t": "window", "add": bytes })).await?;
            self.grant(id).await?;
        }
        Ok(None)
    }

    /// Gives a stream the credit that it is owed, unless it stalls.
    async fn grant(&mut self, id: &str) -> anyhow::Result<()> {
        match self.open.get_mut(id) {
            Some(stream) if stream.stalled_until.is_none() && stream.owed > 0 => {
                let add = std::mem::take(&mut stream.owed);
                self.send(json!({ "t": "window", "id": id, "add": add })).await
            }
            _ => Ok(()),
        }
    }

    /// Does what is due without a frame: ends of stalls, early leaves, streams without an end.
    async fn look(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.stalled_until = self.stalled_until.filter(|until| *until > now);
        let mut due = Vec::new();
        for (id, stream) in &mut self.open {
            let is_awake = stream.stalled_until.is_some_and(|until| until <= now);
            if is_awake {
                stream.stalled_until = None;
            }
            let age = now - stream.begun;
            let leaves = matches!(stream.behaviour, Some(Behaviour::LeavesEarly(after)) if age >= after);
            if is_awake || leaves || age > ENDLESS {
                due.push((id.clone(), leaves, age > ENDLESS));
            }
        }
        for (id, leaves, is_endless) in due {
            if is_endless {
                self.end(&id, Reader::endless);
                continue;
            }
            if leaves && let Some(kind) = self.open.get_mut(&id).and_then(|stream| stream.behaviour.take()?.kind()) {
                self.field.struck(kind, 1);
                self.send(json!({ "t": "cancel", "id": id })).await?;
            }
            if self.transport == Transport::SocketCredit {
                self.grant(&id).await?;
            }
        }
        Ok(())
    }

    /// Takes note of a frame that belongs to no stream of this socket.
    fn stray(&self, what: &str) {
        self.field.broken([Violation::new(Invariant::OneEnd, self.transport.name(), what)]);
    }
}
