//! Plays a script: what goes before the head, the head, and then the body step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use ntonix_llm::{Op, openai};
use tokio::time::Instant;

use super::ask::{Ask, Chunks};
use super::books::Ended;
use super::script::{End, Pace, Script, Step};
use super::socket::Sabotage;
use super::state::InFlight;

/// Bytes written at once of an event without end.
const ENDLESS_PIECE: usize = 64 * 1024;

pub(super) type Body = UnsyncBoxBody<Bytes, Broken>;
pub(super) type Answer = Result<Response<Body>, Broken>;

/// The script breaks the connection here.
#[derive(Debug, thiserror::Error)]
#[error("the script ends the connection")]
pub(super) struct Broken;

/// Answers one request as the script says.
pub(super) async fn play(script: Script, op: Op, ask: Ask, mut in_flight: InFlight, sabotage: Arc<Sabotage>) -> Answer {
    match script {
        Script::Answer { tokens, pace } => {
            let tokens = ask.max_tokens.unwrap_or(tokens);
            let pace = ask.pause().map_or(pace, Pace::Every);
            if ask.stream == Some(true) && op.streams() {
                return stream_steps(well_behaved(tokens, pace), op, ask, in_flight, sabotage).await;
            }
            let mut clock = Clock::default();
            for number in 0..tokens {
                clock.wait(&pace, number).await;
            }
            let body = Chunks::new(op, &ask, in_flight.attempt()).whole(tokens);
            in_flight.wrote(tokens);
            in_flight.over(Ended::Complete);
            reply(200, &[("content-type", "application/json".to_owned())], body)
        }
        Script::Reply { status, headers, body } => {
            in_flight.over(if status < 400 { Ended::Complete } else { Ended::Fault });
            reply(status, &headers, body)
        }
        Script::Stream(steps) => stream_steps(steps.into(), op, ask, in_flight, sabotage).await,
        Script::Wire { bytes, end } => {
            in_flight.over(Ended::Fault);
            if end == End::Reset {
                sabotage.reset_when_dropped();
            }
            sabotage.write_instead(bytes, end);
            // Makes hyper write something, which the socket then swallows.
            reply(200, &[], Bytes::new())
        }
    }
}

pub(super) fn reply(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Broken)?;
    add_headers(&mut response, headers)?;
    Ok(response)
}

fn well_behaved(tokens: u64, pace: Pace) -> VecDeque<Step> {
    [Step::Role, Step::Tokens { count: tokens, pace }, Step::Finish("stop"), Step::Usage, Step::Done].into()
}

async fn stream_steps(steps: VecDeque<Step>, op: Op, ask: Ask, in_flight: InFlight, sabotage: Arc<Sabotage>) -> Answer {
    let wants_usage = ask.wants_usage();
    let chunks = Chunks::new(op, &ask, in_flight.attempt());
    let mut player = Player {
        steps,
        chunks,
        wants_usage,
        clock: Clock::default(),
        step_tokens: 0,
        tokens: 0,
        is_inside_endless: false,
        is_finished: false,
        has_error: false,
        in_flight,
        sabotage,
    };
    let headers = player.before_head().await?;
    let frames = stream::unfold(player, |mut player| async {
        let frame = player.next().await?;
        Some((frame.map(Frame::data), player))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    add_headers(&mut response, &[("content-type", "text/event-stream; charset=utf-8".to_owned())])?;
    add_headers(&mut response, &headers)?;
    Ok(response)
}

fn add_headers(response: &mut Response<Body>, headers: &[(&'static str, String)]) -> Result<(), Broken> {
    for (name, value) in headers {
        let value = value.parse().map_err(|_| Broken)?;
        // A script may name its own type; any other header may be there twice.
        if *name == CONTENT_TYPE.as_str() {
            response.headers_mut().insert(CONTENT_TYPE, value);
        } else {
            response.headers_mut().append(*name, value);
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
    /// Tokens sent in this step, and in all.
    step_tokens: u64,
    tokens: u64,
    is_inside_endless: bool,
    is_finished: bool,
    has_error: bool,
    in_flight: InFlight,
    sabotage: Arc<Sabotage>,
}

// === impl Player ===

impl Player {
    /// Takes the steps that come before the head; returns the headers that the script adds to it.
    async fn before_head(&mut self) -> Result<Vec<(&'static str, String)>, Broken> {
        while self.steps.front().is_some_and(Step::is_silent) {
            // A silent step gives no bytes, only perhaps the end.
            if let Some(Step::Cut | Step::Reset) = self.steps.front() {
                return Err(self.break_off().await);
            }
            if let Some(step) = self.steps.pop_front() {
                wait(&step).await;
            }
        }
        match self.steps.front_mut() {
            Some(Step::Head(headers)) => {
                let headers = std::mem::take(headers);
                self.steps.pop_front();
                Ok(headers)
            }
            _ => Ok(vec![]),
        }
    }

    /// The next bytes of the body; `None` at its clean end.
    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            if let Some(Step::Tokens { .. }) = self.steps.front() {
                match self.next_token().await {
                    Some(bytes) => return Some(Ok(bytes)),
                    None => continue,
                }
            }
            let Some(step) = self.steps.pop_front() else {
                self.in_flight.over(self.end());
                return None;
            };
            let bytes = match step {
                Step::Role => self.chunks.role(),
                Step::Finish(reason) => {
                    self.is_finished = true;
                    self.chunks.finish(reason)
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
                Step::Endless(length) => self.endless(length),
                Step::Cut | Step::Reset => {
                    self.steps.push_front(step);
                    return Some(Err(self.break_off().await));
                }
                Step::Pause(_) | Step::Gate(_) | Step::Hang => {
                    wait(&step).await;
                    continue;
                }
                Step::Head(_) | Step::Usage | Step::Tokens { .. } => continue,
            };
            return Some(Ok(bytes));
        }
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
        let piece = length.min(ENDLESS_PIECE);
        let start: &[u8] = if std::mem::replace(&mut self.is_inside_endless, true) { b"" } else { b"data: " };
        if length > piece {
            self.steps.push_front(Step::Endless(length - piece));
        }
        [start, &vec![b'x'; piece]].concat().into()
    }

    async fn break_off(&mut self) -> Broken {
        // What was written has to leave first.
        flush().await;
        if matches!(self.steps.front(), Some(Step::Reset)) {
            self.sabotage.reset_when_dropped();
        }
        self.in_flight.over(Ended::Fault);
        Broken
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
