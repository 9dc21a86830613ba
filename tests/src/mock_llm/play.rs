//! Plays a script: what goes before the head, the head, and then the body step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use ntonix_llm::{Op, openai};
use tokio::time::Instant;

use super::ask::{Ask, Chunks};
use super::books::Ended;
use super::frames::FrameFaults;
use super::script::{End, Garbage, Headers, Pace, Script, Step};
use super::socket::Sabotage;
use super::state::InFlight;

/// Bytes written at once of an event without end, or of garbage.
const PIECE: usize = 64 * 1024;

pub(super) type Body = UnsyncBoxBody<Bytes, Broken>;
pub(super) type Answer = Result<Response<Body>, Broken>;

/// The script breaks the connection here.
#[derive(Debug, Default, thiserror::Error)]
#[error("the script ends the connection")]
pub(super) struct Broken {
    /// With this HTTP/2 resets the stream.
    #[source]
    reason: Option<h2::Error>,
}

/// Why HTTP/2 resets a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// `REFUSED_STREAM`: nothing was done with it.
    Refused,
    /// `INTERNAL_ERROR`.
    Internal,
}

/// What a script can do to the connection below HTTP.
#[derive(Debug, Clone)]
pub(super) struct Below {
    pub(super) sabotage: Arc<Sabotage>,
    pub(super) frames: Arc<FrameFaults>,
    /// The request's stream when it came over HTTP/2.
    pub(super) stream: Option<u32>,
}

/// Answers one request as the script says.
pub(super) async fn play(script: Script, op: Op, ask: Ask, mut in_flight: InFlight, below: Below) -> Answer {
    match script.whose_turn() {
        Script::Answer { tokens, pace } => {
            let tokens = ask.max_tokens.unwrap_or(tokens);
            let pace = ask.pause().map_or(pace, Pace::Every);
            if let Some(first) = ask.first() {
                tokio::time::sleep(first).await;
            }
            if ask.stream == Some(true) && op.streams() {
                return stream_steps(well_behaved(tokens, pace), op, ask, in_flight, below).await;
            }
            let mut clock = Clock::default();
            for number in 0..tokens {
                clock.wait(&pace, number).await;
            }
            let body = Chunks::new(op, &ask, in_flight.attempt()).whole(tokens);
            in_flight.wrote(tokens);
            in_flight.over(Ended::Complete);
            reply(200, &vec![("content-type".into(), "application/json".to_owned())], body)
        }
        Script::Reply { status, headers, body } => {
            in_flight.over(if status < 400 { Ended::Complete } else { Ended::Fault });
            reply(status, &headers, body)
        }
        Script::Stream(steps) => stream_steps(steps.into(), op, ask, in_flight, below).await,
        Script::Wire { bytes, end } => {
            in_flight.over(Ended::Fault);
            if end == End::Reset {
                below.sabotage.reset_when_dropped();
            }
            below.sabotage.write_instead(bytes, end);
            // Makes hyper write something, which the socket then swallows.
            reply(200, &vec![], Bytes::new())
        }
        // A turn is never one of turns: the language has no such thing, and nothing happens here.
        Script::Turns(_) => Err(Broken::default()),
    }
}

pub(super) fn reply(status: u16, headers: &Headers, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Broken::default())?;
    add_headers(&mut response, headers)?;
    Ok(response)
}

fn well_behaved(tokens: u64, pace: Pace) -> VecDeque<Step> {
    [Step::Role, Step::Tokens { count: tokens, pace }, Step::finish("stop"), Step::Usage, Step::Done].into()
}

async fn stream_steps(steps: VecDeque<Step>, op: Op, ask: Ask, in_flight: InFlight, below: Below) -> Answer {
    let mut player = Player::new(steps, op, &ask, in_flight, below);
    let (status, headers) = player.before_head().await?;
    let frames = stream::unfold(player, |mut player| async {
        let frame = player.next().await?;
        Some((frame.map(Frame::data), player))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Broken::default())?;
    add_headers(&mut response, &vec![("content-type".into(), "text/event-stream; charset=utf-8".to_owned())])?;
    add_headers(&mut response, &headers)?;
    Ok(response)
}

fn add_headers(response: &mut Response<Body>, headers: &Headers) -> Result<(), Broken> {
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Broken::default())?;
        let value = value.parse().map_err(|_| Broken::default())?;
        // A script may name its own type; any other header may be there twice.
        if name == CONTENT_TYPE {
            response.headers_mut().insert(name, value);
        } else {
            response.headers_mut().append(name, value);
        }
    }
    Ok(())
}

/// The steps that are left, and what they need.
struct Player {
    steps: VecDeque<Step>,
    chunks: Chunks,
    wants_usage: bool,
    clock: Clock,
    /// Tokens that leave together.
    together: Option<u64>,
    /// Tokens sent in this step, and in all.
    step_tokens: u64,
    tokens: u64,
    is_inside_endless: bool,
    is_finished: bool,
    has_error: bool,
    /// What was produced but has not left yet, and in how large pieces it leaves.
    rest: Bytes,
    split: Option<(usize, Option<Duration>)>,
    /// Bytes of the body that may still leave before it is cut.
    cut_after: Option<(u64, End)>,
    in_flight: InFlight,
    below: Below,
}

// === impl Player ===

impl Player {
    fn new(steps: VecDeque<Step>, op: Op, ask: &Ask, in_flight: InFlight, below: Below) -> Self {
        Self {
            steps,
            chunks: Chunks::new(op, ask, in_flight.attempt()),
            wants_usage: ask.wants_usage(),
            clock: Clock::default(),
            together: ask.mock_events,
            step_tokens: 0,
            tokens: 0,
            is_inside_endless: false,
            is_finished: false,
            has_error: false,
            rest: Bytes::new(),
            split: None,
            cut_after: None,
            in_flight,
            below,
        }
    }

    /// Takes the steps that come before the head; returns the head's status and headers.
    async fn before_head(&mut self) -> Result<(u16, Headers), Broken> {
        while self.steps.front().is_some_and(Step::is_silent) {
            if let Some(step) = self.steps.pop_front() {
                self.do_silently(step).await?;
            }
        }
        match self.steps.front_mut() {
            Some(Step::Head { status, headers }) => {
                let head = (*status, std::mem::take(headers));
                self.steps.pop_front();
                Ok(head)
            }
            _ => Ok((200, vec![])),
        }
    }

    /// The next bytes that leave; `None` at the body's clean end.
    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        if self.rest.is_empty() {
            match self.produce().await {
                Some(Ok(bytes)) => self.rest = bytes,
                ended => return ended,
            }
        } else if let Some((_, every)) = self.split {
            match every {
                Some(every) => tokio::time::sleep(every).await,
                None => flush().await,
            }
        }
        let most = self.split.map_or(usize::MAX, |(bytes, _)| bytes);
        let mut piece = self.rest.split_to(most.min(self.rest.len()));
        if let Some((left, end)) = &mut self.cut_after {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            if *left == 0 {
                self.rest.clear();
                self.steps.push_front(if *end == End::Reset { Step::Reset } else { Step::Cut });
                self.cut_after = None;
            }
        }
        Some(Ok(piece))
    }

    /// The next bytes as the steps have them.
    async fn produce(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            if let Some(Step::Tokens { .. }) = self.steps.front() {
                match self.next_token().await {
                    Some(bytes) => return Some(Ok(bytes)),
                    None => continue,
                }
            }
            let Some(step) = self.steps.pop_front() else {
                // A body that is shorter than its length ends with the connection, but not before it was written.
                flush().await;
                self.in_flight.over(self.end());
                return None;
            };
            if step.is_silent() {
                match self.do_silently(step).await {
                    Ok(()) => continue,
                    Err(broken) => return Some(Err(broken)),
                }
            }
            if let Some(bytes) = self.bytes_of(step).await {
                return Some(Ok(bytes));
            }
        }
    }

    /// What a step writes; `None` when that is nothing.
    async fn bytes_of(&mut self, step: Step) -> Option<Bytes> {
        Some(match step {
            Step::Role => self.chunks.role(),
            Step::Finish(reason) => {
                self.is_finished = true;
                self.chunks.finish(&reason)
            }
            Step::Usage if self.wants_usage => self.chunks.usage(self.tokens),
            Step::Done => Bytes::from_static(openai::DONE),
            Step::Error(form) => {
                self.has_error = true;
                Bytes::from_static(form.event().as_bytes())
            }
            Step::Raw(bytes) => {
                flush().await;
                bytes
            }
            Step::Repeat { bytes, times, every } => {
                self.repeat(&bytes, times, every);
                flush().await;
                bytes
            }
            Step::Garbage(garbage) => {
                flush().await;
                self.garbage(garbage)
            }
            Step::Endless(length) => self.endless(length),
            Step::EmptyFrames(count) => {
                flush().await;
                if let Some(stream) = self.below.stream {
                    self.below.frames.empty(stream, count);
                }
                return None;
            }
            _ => return None,
        })
    }

    /// A step that writes nothing to the body: it waits, breaks something off, or says how it goes on.
    async fn do_silently(&mut self, step: Step) -> Result<(), Broken> {
        match step {
            Step::Cut => return Err(self.break_off(End::Close, None).await),
            Step::Reset => return Err(self.break_off(End::Reset, None).await),
            Step::ResetStream(reason) => {
                let reason = match reason {
                    ResetReason::Refused => h2::Reason::REFUSED_STREAM,
                    ResetReason::Internal => h2::Reason::INTERNAL_ERROR,
                };
                return Err(self.break_off(End::Close, Some(reason.into())).await);
            }
            Step::CutAt { byte, end } => self.cut_after = Some((byte, end)),
            Step::Split { bytes, every } => self.split = Some((bytes, every)),
            Step::Deaf => {
                let deaf = self.in_flight.deafen();
                match self.below.stream {
                    Some(stream) => self.below.frames.deafen(stream, deaf),
                    None => self.below.sabotage.deafen(deaf),
                }
            }
            Step::Frames(most) => self.below.frames.split_data(most),
            Step::GoAway(kind) => {
                flush().await;
                if let Some(stream) = self.below.stream {
                    self.below.frames.go_away(kind, stream);
                }
            }
            Step::HalfClose => {
                flush().await;
                self.below.sabotage.half_close();
            }
            step => wait(&step).await,
        }
        Ok(())
    }

    async fn next_token(&mut self) -> Option<Bytes> {
        let Some(Step::Tokens { count, pace }) = self.steps.front() else { return None };
        if self.step_tokens == *count {
            self.steps.pop_front();
            self.step_tokens = 0;
            self.clock = Clock::default();
            return None;
        }
        self.clock.wait(pace, self.step_tokens).await;
        if self.together.is_some_and(|together| self.step_tokens.is_multiple_of(together)) {
            flush().await;
        }
        let bytes = self.chunks.token(self.tokens);
        self.step_tokens += 1;
        self.tokens += 1;
        self.in_flight.wrote(1);
        Some(bytes)
    }

    /// What the books say of a body that ended cleanly. Bytes that a script writes as they are, are not judged.
    fn end(&self) -> Ended {
        let is_truncated = self.tokens > 0 && !self.is_finished;
        if is_truncated || self.has_error || self.is_inside_endless { Ended::Fault } else { Ended::Complete }
    }

    fn endless(&mut self, length: usize) -> Bytes {
        let piece = length.min(PIECE);
        let start: &[u8] = if std::mem::replace(&mut self.is_inside_endless, true) { b"" } else { b"data: " };
        if length > piece {
            self.steps.push_front(Step::Endless(length - piece));
        }
        [start, &vec![b'x'; piece]].concat().into()
    }

    /// Leaves to later what is written again.
    fn repeat(&mut self, bytes: &Bytes, times: u64, every: Option<Duration>) {
        if times > 1 {
            self.steps.push_front(Step::Repeat { bytes: bytes.clone(), times: times - 1, every });
            if let Some(every) = every {
                self.steps.push_front(Step::Pause(every));
            }
        }
    }

    fn garbage(&mut self, mut garbage: Garbage) -> Bytes {
        let piece = garbage.take(PIECE);
        if !garbage.is_over() {
            self.steps.push_front(Step::Garbage(garbage));
        }
        piece
    }

    async fn break_off(&mut self, end: End, reason: Option<h2::Error>) -> Broken {
        // What was written has to leave first.
        flush().await;
        if end == End::Reset {
            self.below.sabotage.reset_when_dropped();
        }
        self.in_flight.over(Ended::Fault);
        Broken { reason }
    }
}

async fn wait(step: &Step) {
    match step {
        Step::Pause(pause) => tokio::time::sleep(*pause).await,
        Step::Gate(gate) => gate.pass().await,
        Step::Hang => std::future::pending().await,
        _ => {}
    }
}

/// Gives hyper the turn in which it writes out what it holds.
async fn flush() {
    tokio::task::yield_now().await;
}

/// When the tokens of one step are due.
#[derive(Default)]
pub(super) struct Clock {
    start: Option<Instant>,
}

// === impl Clock ===

impl Clock {
    /// Waits until token `number` is due; counted from the first, so that delays do not add up.
    pub(super) async fn wait(&mut self, pace: &Pace, number: u64) {
        match pace {
            Pace::Fast => {}
            Pace::Gate(gate) => gate.pass().await,
            Pace::Every(period) => {
                let start = *self.start.get_or_insert_with(Instant::now);
                let after = u32::try_from(number).map_or(Duration::MAX, |number| period.saturating_mul(number));
                tokio::time::sleep_until(start + after).await;
            }
        }
    }
}
