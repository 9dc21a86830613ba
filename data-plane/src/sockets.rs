//! The listening sockets of a worker: bound, or taken over from the process before.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use ntonix_runtime::{
    handover::Named,
    listen::{self, ReusePort},
    tls::ServerTls,
};

use crate::{
    settings::{Settings, TrafficArgs},
    worker::Addresses,
};

/// The names under which sockets are handed over.
const PLAIN: &str = "client";
const SECURE: &str = "client-tls";
const OPS: &str = "ops";

/// The listening sockets of a worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Each at least one for each thread, so that a connection never changes thread.
    plain: Vec<TcpListener>,
    secure: Vec<TcpListener>,
    ops: Option<TcpListener>,
    tls: Option<ServerTls>,
    addresses: Addresses,
    threads: usize,
}

/// The sockets of one thread.
pub(crate) struct ThreadSockets {
    /// Which thread.
    pub(crate) index: usize,
    /// Those that speak TLS have it beside them.
    pub(crate) sockets: Vec<(TcpListener, Option<ServerTls>)>,
}

// === impl Sockets ===

impl Sockets {
    /// Binds all of them.
    pub(crate) fn bind(settings: &Settings, threads: usize) -> anyhow::Result<Self> {
        let traffic = &settings.traffic;
        let tls = load_tls(traffic)?;
        let plain = bind_for_each(traffic.listen, threads, "--listen")?;
        let secure = match tls {
            None => Vec::new(),
            Some(_) => bind_for_each(traffic.listen_tls, threads, "--listen-tls")?,
        };
        let ops = settings.ops.map(|address| bind(address, ReusePort::No, "--ops")).transpose()?;
        Self::new(plain, secure, ops, tls, threads)
    }

    /// Takes over those of the process before. Kinds that it had not are bound; kinds that are not wanted any more are
    /// closed.
    pub(crate) fn inherit(settings: &Settings, threads: usize, sockets: Vec<Named>) -> anyhow::Result<Self> {
        let (mut plain, mut secure, mut ops) = (Vec::new(), Vec::new(), None);
        for (name, socket) in sockets {
            match name.as_str() {
                PLAIN => plain.push(socket),
                SECURE => secure.push(socket),
                OPS => ops = Some(socket),
                unknown => tracing::warn!(name = unknown, "A socket of the process before is not known and is closed"),
            }
        }
        let traffic = &settings.traffic;
        let tls = load_tls(traffic)?;
        if plain.is_empty() {
            plain = bind_for_each(traffic.listen, threads, "--listen")?;
        }
        match tls {
            None => secure.clear(),
            Some(_) if secure.is_empty() => secure = bind_for_each(traffic.listen_tls, threads, "--listen-tls")?,
            Some(_) => {}
        }
        if ops.is_none() {
            ops = settings.ops.map(|address| bind(address, ReusePort::No, "--ops")).transpose()?;
        }
        Self::new(plain, secure, ops, tls, threads)
    }

    fn new(
        plain: Vec<TcpListener>,
        secure: Vec<TcpListener>,
        ops: Option<TcpListener>,
        tls: Option<ServerTls>,
        threads: usize,
    ) -> anyhow::Result<Self> {
        let first = |sockets: &[TcpListener]| sockets.first().map(TcpListener::local_addr).transpose();
        let addresses = Addresses {
            client: first(&plain)?.context("no thread serves")?,
            client_tls: first(&secure)?,
            ops: ops.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let (plain, secure) = (enough(plain, threads)?, enough(secure, threads)?);
        Ok(Self { plain, secure, ops, tls, addresses, threads })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The TLS of those that speak it.
    pub(crate) fn tls(&self) -> Option<ServerTls> {
        self.tls.clone()
    }

    /// The one of the operations port, once.
    pub(crate) fn take_ops(&mut self) -> Option<TcpListener> {
        self.ops.take()
    }

    /// All of them once more, for a process that takes over.
    pub(crate) fn estate(&self) -> anyhow::Result<Vec<Named>> {
        let of = |name: &'static str, sockets: &[TcpListener]| {
            let copies = sockets.iter().map(|socket| Ok((name.to_owned(), socket.try_clone()?)));
            copies.collect::<std::io::Result<Vec<_>>>()
        };
        let ops = self.ops.as_ref().map(|ops| of(OPS, std::slice::from_ref(ops))).transpose()?;
        Ok([of(PLAIN, &self.plain)?, of(SECURE, &self.secure)?, ops.unwrap_or_default()]
            .into_iter()
            .flatten()
            .collect())
    }

    /// All of them, dealt out to the threads: none may be left over, for the system has connections waiting in each.
    pub(crate) fn for_threads(self) -> impl Iterator<Item = ThreadSockets> {
        let mut threads: Vec<_> = (0..self.threads).map(|index| ThreadSockets { index, sockets: Vec::new() }).collect();
        let secure = self.secure.into_iter().map(|socket| (socket, self.tls.clone()));
        for sockets in [self.plain.into_iter().map(|socket| (socket, None)).collect(), secure.collect::<Vec<_>>()] {
            for (socket, thread) in sockets.into_iter().zip((0..self.threads).cycle()) {
                threads[thread].sockets.push(socket);
            }
        }
        threads.into_iter()
    }
}

fn load_tls(traffic: &TrafficArgs) -> anyhow::Result<Option<ServerTls>> {
    let pairs: Vec<_> = traffic.tls_cert.iter().cloned().zip(traffic.tls_key.iter().cloned()).collect();
    Ok(match pairs.as_slice() {
        [] => None,
        pairs => Some(ServerTls::load(pairs, None, &[b"h2", b"http/1.1"]).context("cannot use --tls-cert")?),
    })
}

/// One for each thread: threads beyond the sockets that the process before had share them.
fn enough(mut sockets: Vec<TcpListener>, threads: usize) -> std::io::Result<Vec<TcpListener>> {
    let there = sockets.len();
    for index in there..if there == 0 { 0 } else { threads } {
        sockets.push(sockets[index % there].try_clone()?);
    }
    Ok(sockets)
}

fn bind_for_each(address: SocketAddr, threads: usize, flag: &str) -> anyhow::Result<Vec<TcpListener>> {
    // Shared ports are for our own threads: another process on the address must be noticed.
    let alone = bind(address, ReusePort::No, flag)?;
    if threads == 1 {
        // Also the only way where the system cannot share a port.
        return Ok(vec![alone]);
    }
    drop(alone);
    let first = bind(address, ReusePort::Yes, flag)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(bind(bound, ReusePort::Yes, flag)?);
    }
    Ok(sockets)
}

fn bind(address: SocketAddr, reuse: ReusePort, flag: &str) -> anyhow::Result<TcpListener> {
    listen::bind(address, reuse).with_context(|| format!("cannot listen on {flag} {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> TcpListener {
        listen::bind("127.0.0.1:0".parse().unwrap(), ReusePort::No).unwrap()
    }

    fn sockets(count: usize, threads: usize) -> Vec<usize> {
        let plain = (0..count).map(|_| any()).collect();
        let sockets = Sockets::new(plain, vec![any()], None, None, threads).unwrap();
        sockets.for_threads().map(|thread| thread.sockets.len()).collect()
    }

    #[test]
    fn every_socket_is_served_and_every_thread_serves_whatever_the_process_before_had() {
        assert_eq!(sockets(2, 2), [2, 2], "one of each kind, the only secure one shared");
        assert_eq!(sockets(5, 2), [4, 3], "more than threads: none is left over");
        assert_eq!(sockets(1, 3), [2, 2, 2], "fewer: shared");
    }
}
