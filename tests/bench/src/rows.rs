//! What is counted: one row for each piece of the hot path, and some for all of it.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use ntonix_data_plane::steps::Steps;
use ntonix_llm::call::{Call, Op};
use ntonix_llm::sse::Splitter;
use ntonix_llm::watch::Watch;
use tokio::runtime::Builder;

use crate::counted::{WARMED_UP, count_instructions_of, repeated};
use crate::lockstep::{Counting, Lockstep, event};
use crate::site::{LARGE, SMALL, Site, nth_model, nth_secret};
use crate::websocket::WebSocket;

/// A row of the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Runs it and returns over how many units its instructions are spread.
    run: fn() -> anyhow::Result<u64>,
}

pub(crate) const ROWS: [Row; 18] = [
    Row { name: "sse-watch", run: || watch("") },
    Row { name: "sse-watch-usage", run: || watch(r#","usage":null"#) },
    Row { name: "call-1k", run: || call(1024) },
    Row { name: "call-100k", run: || call(100 * 1024) },
    Row { name: "route-10", run: || route(SMALL) },
    Row { name: "route-10000", run: || route(Site { keys: 10, ..LARGE }) },
    Row { name: "key-10", run: || key(SMALL) },
    Row { name: "key-100000", run: || key(Site { routes: 10, ..LARGE }) },
    Row { name: "pick-2", run: || pick(2) },
    Row { name: "pick-1000", run: || pick(1000) },
    Row { name: "stack", run: stack },
    Row { name: REQUEST, run: || request(SMALL) },
    Row { name: REQUEST_LARGE, run: || request(LARGE) },
    Row { name: TOKEN, run: || stream(1) },
    Row { name: BURST, run: || stream(10) },
    Row { name: "stream-of-one", run: short_stream },
    Row { name: "token-ws", run: || websocket(1) },
    Row { name: "token-ws-burst", run: || websocket(10) },
];

pub(crate) const REQUEST: &str = "request";
pub(crate) const REQUEST_LARGE: &str = "request-large";
pub(crate) const TOKEN: &str = "token";
pub(crate) const BURST: &str = "token-burst";

/// The rows that are also counted without metrics, access lines and records of usage.
pub(crate) const UNOBSERVED: [&str; 3] = [REQUEST, TOKEN, BURST];

/// Draws are the same in every run.
const SEED: u64 = 1;
const EVENTS: u64 = 200;
const TOKENS: u32 = 200;
const EVENT_MOST: usize = 8 * 1024 * 1024;
const LOOK_UPS: u32 = 1000;
const REQUESTS: u64 = 100;
const STREAMS: u64 = 4;
/// Streams at once on one WebSocket, and how long each is.
const WS_STREAMS: u32 = 16;
const WS_TOKENS: u32 = 100;

/// Runs a row; see [`Row`].
pub(crate) fn run(name: &str) -> anyhow::Result<u64> {
    let row = ROWS.iter().find(|row| row.name == name).with_context(|| format!("there is no row {name:?}"))?;
    fastrand::seed(SEED);
    (row.run)()
}

/// The relay's own work: cutting what came into events and watching them.
fn watch(usage: &str) -> anyhow::Result<u64> {
    let event = |token: u64| event(&format!("\"delta\":{{\"content\":\"token {token}\"}}"), "null", usage);
    let bytes = Bytes::from((0..EVENTS).map(event).collect::<String>());
    let call = Call::parse(Op::ChatCompletions, chat("m", 10)).ok().context("a call")?;
    let mut seen = 0;
    for counted in [false, true] {
        let (mut splitter, mut watch) = (Splitter::new(EVENT_MOST), Watch::new(&call, true));
        let mut scan = || drop(black_box(splitter.scan_for(bytes.clone(), &mut watch)));
        if counted {
            count_instructions_of(&mut scan)
        } else {
            scan()
        }
        seen = watch.tokens();
    }
    Ok(seen)
}

/// Reading the head of a call with a prompt of so many bytes.
fn call(prompt: usize) -> anyhow::Result<u64> {
    let body = chat("llama-3-70b", prompt);
    anyhow::ensure!(Call::parse(Op::ChatCompletions, body.clone()).is_ok(), "no call");
    Ok(repeated(REQUESTS, || drop(black_box(Call::parse(Op::ChatCompletions, black_box(body.clone()))))))
}

fn route(site: Site) -> anyhow::Result<u64> {
    let steps = steps(site)?;
    look_up(site.routes, nth_model, |model| steps.finds(model))
}

fn key(site: Site) -> anyhow::Result<u64> {
    let steps = steps(site)?;
    look_up(site.keys, nth_secret, |secret| steps.knows(secret))
}

fn pick(backends: u32) -> anyhow::Result<u64> {
    let site = Site { backends, ..SMALL };
    let steps = steps(site)?;
    let model = site.model();
    anyhow::ensure!(steps.picks(&model), "no backend");
    Ok(repeated(u64::from(LOOK_UPS), || {
        black_box(steps.picks(black_box(&model)));
    }))
}

/// The layers of the stack alone, around a stand-in for backends.
fn stack() -> anyhow::Result<u64> {
    let steps = steps(SMALL)?;
    let key = SMALL.key();
    let body = chat(&SMALL.model(), 200);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut passed = 0;
    let mut ask = || {
        let Ok(call) = Call::parse(Op::ChatCompletions, body.clone()) else { return };
        passed += u64::from(runtime.block_on(steps.passes(call, &key)));
    };
    let times = repeated(REQUESTS, &mut ask);
    anyhow::ensure!(passed == times + WARMED_UP, "only {passed} passed");
    Ok(times)
}

/// A question and its whole answer, from socket to socket.
fn request(site: Site) -> anyhow::Result<u64> {
    let mut lockstep = Lockstep::begin(site, false)?;
    for counting in [Counting::Off, Counting::On] {
        for _ in 0..REQUESTS {
            lockstep.request(counting)?;
        }
    }
    Ok(REQUESTS)
}

/// A stream from socket to socket, its request and its records included, of which the backend writes so many tokens at once.
fn stream(together: u32) -> anyhow::Result<u64> {
    streams(TOKENS, together).map(|streams| streams * u64::from(TOKENS))
}

/// All that a stream costs beside its tokens.
fn short_stream() -> anyhow::Result<u64> {
    streams(1, 1)
}

fn streams(tokens: u32, together: u32) -> anyhow::Result<u64> {
    let mut lockstep = Lockstep::begin(SMALL, true)?;
    for counting in [Counting::Off, Counting::On] {
        for _ in 0..STREAMS {
            lockstep.stream(tokens, together, counting)?;
        }
    }
    Ok(STREAMS)
}

/// Streams on one WebSocket, from socket to socket, with their frames and records, of each of which the backend writes so
/// many tokens at once.
fn websocket(together: u32) -> anyhow::Result<u64> {
    let mut lockstep = Lockstep::begin(SMALL, true)?;
    let mut socket = WebSocket::open(&mut lockstep)?;
    for counting in [Counting::Off, Counting::On] {
        socket.streams(WS_STREAMS, WS_TOKENS, together, counting)?;
    }
    Ok(u64::from(WS_STREAMS) * u64::from(WS_TOKENS))
}

/// Looks all over a table.
fn look_up(count: u32, name: impl Fn(u32) -> String, look: impl Fn(&str) -> bool) -> anyhow::Result<u64> {
    let mut found = 0;
    for turn in 0..LOOK_UPS {
        let name = name(turn * 7919 % count);
        count_instructions_of(&mut || found += u64::from(look(black_box(&name))));
    }
    anyhow::ensure!(found == u64::from(LOOK_UPS), "only {found} of {LOOK_UPS} were found");
    Ok(found)
}

fn steps(site: Site) -> anyhow::Result<Steps> {
    // Nobody goes there.
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Ok(Steps::new(&site.config(nowhere)?)?)
}

fn chat(model: &str, prompt: usize) -> Bytes {
    const LINE: &str = "a line of the prompt, with \\\"quotes\\\"\\n";
    let text = LINE.repeat(prompt / LINE.len());
    format!(r#"{{"messages":[{{"role":"user","content":"{text}"}}],"stream":true,"model":"{model}"}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_what_it_is_named_for() {
        let units = [("sse-watch", EVENTS), ("sse-watch-usage", EVENTS), ("call-1k", REQUESTS), ("route-10", 1000)];
        for (row, units) in units.into_iter().chain([("key-10", 1000), ("pick-2", 1000), ("stack", REQUESTS)]) {
            assert_eq!(run(row).unwrap(), units, "{row}");
        }
    }

    #[test]
    fn a_row_that_is_none_is_told() {
        assert_eq!(run("tokens").unwrap_err().to_string(), "there is no row \"tokens\"");
    }

    #[test]
    fn what_is_not_found_is_no_figure() {
        let steps = steps(SMALL).unwrap();
        let error = look_up(SMALL.routes + 1, nth_model, |model| steps.finds(model)).unwrap_err().to_string();
        assert!(error.ends_with("of 1000 were found"), "{error}");
    }
}
