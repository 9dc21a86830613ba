//! A gateway between a client and a backend, all on one thread and in lockstep: what is counted is exactly repeatable.
//!
//! The client and the backend write and read while nothing is counted. Counted is what the thread runs from there until
//! the other side has something to read: the gateway, its runtime, and the wait of the reader itself.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::Context as _;
use ntonix_data_plane::steps::Steps;
use ntonix_runtime::lines::Destination;
use ntonix_runtime::tasks;
use ntonix_runtime::telemetry::{self, LogFormat, TelemetryGuard};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::counted::count_instructions_of;
use crate::site::Site;

/// Is what happens now counted?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    Off,
    On,
}

/// A gateway with one client and one backend.
pub(crate) struct Lockstep {
    pub(crate) runtime: Runtime,
    /// Of the gateway.
    pub(crate) address: SocketAddr,
    pub(crate) site: Site,
    /// Where further connections of the gateway to its backend come in.
    pub(crate) listener: tokio::net::TcpListener,
    /// The gateway's connections to its backend, of which one is there from the first question on.
    pub(crate) backends: Vec<Side>,
    client: Side,
    question: Vec<u8>,
    _log: Option<TelemetryGuard>,
}

/// One end of the gateway: the same socket twice.
pub(crate) struct Side {
    to_read: TcpStream,
    to_write: std::net::TcpStream,
}

pub(crate) const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Ten tokens, no more and no less, for a question."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}"#;

// === impl Lockstep ===

impl Lockstep {
    /// Sets all of it up, up to an answered question. `stream`: the questions ask for streams.
    pub(crate) fn begin(site: Site, stream: bool) -> anyhow::Result<Self> {
        let observed = !cfg!(feature = "unobserved");
        let log = if observed { Some(telemetry::init(LogFormat::Text, "info")?) } else { None };
        let (backends, clients) = (listen()?, listen()?);
        let address = clients.local_addr()?;
        let mut steps = Steps::new(&site.config(backends.local_addr()?)?)?;
        if observed {
            steps = steps.with_usage_log(&Destination::File("/dev/null".into()))?;
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (listener, client, backend) = runtime.block_on(async {
            tasks::spawn("gateway", async move { steps.serve(clients).await });
            let mut client = Side::connect(address).await?;
            client.write(&question(site, false, address))?;
            backends.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(backends)?;
            let backend = Side::accept(&listener).await?;
            anyhow::Ok((listener, client, backend))
        })?;
        let question = question(site, stream, address);
        let mut all = Self { runtime, address, site, listener, backends: vec![backend], client, question, _log: log };
        all.answer(Counting::Off)?;
        Ok(all)
    }

    /// One question and its answer, which is no stream.
    pub(crate) fn request(&mut self, counting: Counting) -> anyhow::Result<()> {
        self.client.write(&self.question)?;
        self.answer(counting)
    }

    /// One question and a stream of so many `tokens`, of which the backend writes `together` at once.
    pub(crate) fn stream(&mut self, tokens: u32, together: u32, counting: Counting) -> anyhow::Result<()> {
        self.client.write(&self.question)?;
        read(&self.runtime, &mut self.backends[0], counting, is_whole)?;
        let mut bytes = STREAM_HEAD.to_owned();
        for number in 0..tokens {
            bytes += &token(number);
            if (number + 1) % together == 0 {
                self.backends[0].write(bytes.as_bytes())?;
                let last = format!("\"t{number} \"");
                let has_come = |read: &[u8]| read.ends_with(b"\n\n\r\n") && has(read, last.as_bytes());
                read(&self.runtime, &mut self.client, counting, has_come)?;
                bytes.clear();
            }
        }
        bytes += &ending();
        self.backends[0].write(bytes.as_bytes())?;
        let has_ended = |read: &[u8]| read.ends_with(b"\r\n0\r\n\r\n") && has(read, b"[DONE]");
        read(&self.runtime, &mut self.client, counting, has_ended)
    }

    fn answer(&mut self, counting: Counting) -> anyhow::Result<()> {
        read(&self.runtime, &mut self.backends[0], counting, is_whole)?;
        let head = "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 00:00:00 GMT\r\ncontent-type: application/json\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
        self.backends[0].write(answer.as_bytes())?;
        let is_it = |read: &[u8]| is_whole(read) && read.ends_with(ANSWER.as_bytes());
        read(&self.runtime, &mut self.client, counting, is_it)
    }
}

// === impl Side ===

impl Side {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(address).await?)
    }

    pub(crate) async fn accept(listener: &tokio::net::TcpListener) -> io::Result<Self> {
        Self::new(listener.accept().await?.0)
    }

    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        Ok(Self { to_write: socket.try_clone()?, to_read: TcpStream::from_std(socket)? })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to_write.write_all(bytes)
    }
}

fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Lets the gateway run until `side` has read what is `enough`.
pub(crate) fn read(
    runtime: &Runtime,
    side: &mut Side,
    counting: Counting,
    enough: impl Fn(&[u8]) -> bool,
) -> anyhow::Result<()> {
    let mut read = Vec::with_capacity(64 * 1024);
    while !enough(&read) {
        let mut ready = Ok(());
        let mut wait = || ready = runtime.block_on(side.to_read.readable());
        match counting {
            Counting::Off => wait(),
            Counting::On => count_instructions_of(&mut wait),
        }
        ready?;
        match side.to_read.try_read_buf(&mut read) {
            Ok(0) => anyhow::bail!("closed after {:?}", String::from_utf8_lossy(&read)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error).context("a read failed"),
            _ => {}
        }
    }
    Ok(())
}

/// A chat as an SDK sends it.
fn question(site: Site, stream: bool, address: SocketAddr) -> Vec<u8> {
    let (body, key) = (question_body(site, stream), site.key());
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\naccept-encoding: identity\r\naccept: application/json\r\n\
         content-type: application/json\r\nuser-agent: OpenAI/Python 1.99.0\r\nx-stainless-lang: python\r\n\
         x-stainless-runtime: CPython\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

/// The body of one.
pub(crate) fn question_body(site: Site, stream: bool) -> String {
    let model = site.model();
    let text = "Why do two sockets and a parser cost more than one would think? ".repeat(3);
    format!(
        r#"{{"messages":[{{"role":"system","content":"You are brief."}},{{"role":"user","content":"{text}"}}],"model":"{model}","stream":{stream},"temperature":0.2}}"#
    )
}

/// The event of a token, in a chunk of its own.
pub(crate) fn token(number: u32) -> String {
    chunk(&event(&format!("\"delta\":{{\"content\":\"t{number} \"}}"), "null", ""))
}

/// What follows the last token of a stream, to the end of its body.
pub(crate) fn ending() -> String {
    let stop = chunk(&event("\"delta\":{}", "\"stop\"", ""));
    [&stop, &chunk("data: [DONE]\n\n"), "0\r\n\r\n"].concat()
}

/// One event as vLLM writes it, with further members of the chunk.
pub(crate) fn event(delta: &str, finish_reason: &str, more: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
         \"choices\":[{{\"index\":0,{delta},\"logprobs\":null,\"finish_reason\":{finish_reason}}}]{more}}}\n\n"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Is a message of HTTP with a length all here?
pub(crate) fn is_whole(message: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(message, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&message[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| message.len() == end + 4 + length)
}

fn has(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::SMALL;

    #[test]
    fn streams_come_whole_token_by_token_and_in_bursts() {
        let mut lockstep = Lockstep::begin(SMALL, true).unwrap();
        for (tokens, together) in [(1, 1), (5, 1), (20, 10)] {
            lockstep.stream(tokens, together, Counting::On).unwrap();
        }
    }

    #[test]
    fn a_message_is_whole_with_the_last_byte_of_its_length() {
        let message = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        assert!(is_whole(message));
        assert!((0..message.len()).all(|end| !is_whole(&message[..end])));
    }
}
