//! Clients over HTTP: streams one after the other on each lane of a connection, read, left, stalled and reset as planned.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use ntonix_llm::{Keep, Op, Splitter};
use ntonix_tests::ledger::{Close, Ending, Reader, Shape, Transport};
use tokio::time::{sleep, timeout};

use crate::field::Field;
use crate::line::{Line, Sender};
use crate::plan::{Behaviour, Plan};

/// After this a stream that has not ended never will: every fault is over, and every deadline of the gateway. The longest
/// is that of an idle connection, 75 s: when the length of a TLS record was corrupted, the gateway sees no request, or its
/// client no answer, and both wait for the rest of the record until then.
pub(crate) const ENDLESS: Duration = Duration::from_secs(100);
/// Pause before a connection that failed is opened again.
pub(crate) const REOPEN_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a refusal: a client that asked again at once would fill the run with refusals.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// The longest event that an answer may have.
const EVENT_MAX: usize = 16 * 1024 * 1024;

/// One connection after another to a worker, with so many streams at once on each.
pub(crate) async fn client(field: Arc<Field>, transport: Transport, worker: usize, lanes: usize) {
    while !field.is_over(transport) {
        let Ok((sender, line)) = Line::open(&field.doors, transport, worker).await else {
            sleep(REOPEN_PAUSE).await;
            continue;
        };
        let mut senders: Vec<Sender> = (1..lanes).filter_map(|_| sender.another()).collect();
        senders.push(sender);
        let lane = |sender| Lane { field: &field, line: &line, transport, worker, sender }.run();
        join_all(senders.into_iter().map(lane)).await;
    }
}

struct Lane<'a> {
    field: &'a Field,
    line: &'a Line,
    transport: Transport,
    worker: usize,
    sender: Sender,
}

// === impl Lane ===

impl Lane<'_> {
    /// Streams until the connection is spent, or the round is over.
    async fn run(mut self) {
        while self.sender.is_ready().await {
            let Some(plan) = self.field.next(self.transport) else { return };
            let mut reader = Reader::new(&plan.stream, plan.transport, plan.shape);
            // Over HTTP the client names the exchange.
            reader.name(&plan.stream);
            let open = self.field.open(self.worker);
            let close = match timeout(ENDLESS, self.stream(&plan, &mut reader)).await {
                Ok(close) => close,
                Err(_) => {
                    reader.endless();
                    Close::Left
                }
            };
            drop(open);
            let account = reader.close(close);
            let is_refused = account.tokens == 0 && matches!(account.ending, Ending::Error(_) | Ending::Abort);
            self.field.close(account);
            if is_refused {
                sleep(REFUSED_PAUSE).await;
            }
            let is_shared = matches!(self.sender, Sender::Http2(_));
            if close != Close::Clean && !is_shared {
                return;
            }
        }
    }

    async fn stream(&mut self, plan: &Plan, reader: &mut Reader) -> Close {
        let Ok(request) = request(plan) else { return Close::Left };
        let answer = match plan.behaviour {
            Behaviour::LeavesEarly(after) => match timeout(after, self.sender.send(request)).await {
                Ok(answer) => answer,
                Err(_) => return self.left(plan.behaviour),
            },
            _ => self.sender.send(request).await,
        };
        let Ok(answer) = answer else { return Close::Broken };
        reader.answered();
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return self.error(body, reader).await;
        }
        let answer = Response::from_parts(head, body);
        match plan.shape {
            Shape::Streamed => self.events(plan, answer.into_body(), reader).await,
            Shape::Whole => self.whole(plan, answer.into_body(), reader).await,
        }
    }

    async fn error(&self, body: Incoming, reader: &mut Reader) -> Close {
        let Ok(body) = body.collect().await else { return Close::Broken };
        let body = body.to_bytes();
        self.field.look("an error body", &body);
        reader.failed(&body);
        Close::Clean
    }

    async fn events(&self, plan: &Plan, mut body: Incoming, reader: &mut Reader) -> Close {
        let mut splitter = Splitter::new(EVENT_MAX);
        let mut behaviour = Some(plan.behaviour);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Close::Broken };
            let Ok(bytes) = frame.into_data() else { continue };
            let scanned = splitter.scan(bytes, &mut |block| {
                let data = block.data();
                if data.starts_with(b"{\"error\":") {
                    self.field.look("an error event", &data);
                }
                if !data.is_empty() {
                    reader.event(&data);
                }
                Keep::Drop
            });
            if scanned.is_err() {
                reader.stray("an event that is longer than any backend may send");
                return Close::Left;
            }
            if let Some(close) = self.behave(&mut behaviour, reader.tokens()).await {
                return close;
            }
        }
        Close::Clean
    }

    async fn whole(&self, plan: &Plan, mut body: Incoming, reader: &mut Reader) -> Close {
        let mut behaviour = Some(plan.behaviour);
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return Close::Broken };
            whole.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
            // All tokens come at once.
            if let Some(close) = self.behave(&mut behaviour, u64::MAX).await {
                return close;
            }
        }
        reader.event(&whole);
        if !reader.is_over() {
            reader.done();
        }
        Close::Clean
    }

    /// Does what is planned once so many tokens are there, once.
    async fn behave(&self, behaviour: &mut Option<Behaviour>, tokens: u64) -> Option<Close> {
        match *behaviour {
            Some(planned @ Behaviour::Leaves(after)) if tokens >= after => Some(self.left(planned)),
            Some(planned @ Behaviour::Resets(after)) if tokens >= after => {
                self.line.reset();
                Some(self.left(planned))
            }
            Some(planned @ Behaviour::Stalls(after, lasts)) if tokens >= after => {
                *behaviour = None;
                self.left(planned);
                sleep(lasts).await;
                None
            }
            _ => None,
        }
    }

    fn left(&self, behaviour: Behaviour) -> Close {
        if let Some(kind) = behaviour.kind() {
            self.field.struck(kind, 1);
        }
        Close::Left
    }
}

fn request(plan: &Plan) -> http::Result<Request<Full<Bytes>>> {
    let path = if plan.op == Op::Completions { "/v1/completions" } else { "/v1/chat/completions" };
    let is_http2 = matches!(plan.transport, Transport::Http2 | Transport::Http2Tls);
    let target = if is_http2 { format!("http://localhost{path}") } else { path.to_owned() };
    let mut request = Request::post(target)
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {}", plan.key))
        .header("x-request-id", &plan.stream);
    if !is_http2 {
        request = request.header(HOST, "localhost");
    }
    request.body(Full::new(plan.body().to_string().into()))
}
