//! Clients that ask again and again while something changes, and that take no failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ntonix_runtime::tasks;
use ntonix_tests::client::{Answer, Ask, Connection, Transcript};
use ntonix_tests::wait::eventually;
use rustls::ClientConfig;
use tokio::task::JoinHandle;

/// Where a crowd connects to.
#[derive(Clone)]
pub(crate) enum Door {
    /// In plain text: every other client speaks HTTP/2.
    Plain(SocketAddr),
    /// Over TLS, to `localhost`; each client speaks what its configuration offers.
    Secure(SocketAddr, [Arc<ClientConfig>; 2]),
}

/// Half of its clients ask for answers in one piece and keep their connections, half for streams on new ones.
pub(crate) struct Crowd {
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// What its clients got.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    answers: AtomicUsize,
    streams: AtomicUsize,
}

/// What a client asked for.
enum Got {
    Answer(Answer),
    Stream(Transcript),
}

// === impl Crowd ===

impl Crowd {
    /// So many clients, who begin at once.
    pub(crate) fn gather(door: &Door, clients: usize) -> Self {
        let seen = Arc::<Seen>::default();
        let clients = (0..clients).map(|index| tasks::spawn("client", client(Arc::clone(&seen), door.clone(), index)));
        Self { clients: clients.collect(), seen }
    }

    /// Waits until so many more answers and so many more streams were complete, or a client has failed.
    pub(crate) async fn served(&self, more: usize) {
        let (answers, streams) = self.counts();
        let served = async || {
            let now = self.counts();
            now.0 >= answers + more && now.1 >= streams + more || self.clients.iter().any(JoinHandle::is_finished)
        };
        eventually("the crowd is served", served).await.unwrap();
    }

    /// Complete answers and complete streams so far.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.seen.answers.load(Ordering::Relaxed), self.seen.streams.load(Ordering::Relaxed))
    }

    /// Lets them finish what they have begun; fails with the first thing that failed for one of them.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        self.seen.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        Ok(())
    }
}

async fn client(seen: Arc<Seen>, door: Door, index: usize) -> anyhow::Result<()> {
    let mut kept: Option<Connection> = None;
    while !seen.over.load(Ordering::Relaxed) {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => open(&door, index).await?,
        };
        let asked = if index % 4 < 2 {
            connection.ask(Ask::chat()).await.map(Got::Answer)
        } else {
            connection.transcript(Ask::streamed_chat()).await.map(Got::Stream)
        };
        match asked {
            Ok(Got::Answer(answer)) => {
                anyhow::ensure!(answer.status() == 200, "{}", answer.text());
                seen.answers.fetch_add(1, Ordering::Relaxed);
                // A connection is kept unless the server has said that this was its last answer.
                let is_last = answer.header("connection") == "close" || connection.is_closed();
                kept = (!is_last).then_some(connection);
            }
            Ok(Got::Stream(transcript)) => {
                anyhow::ensure!(transcript.is_done(), "{}", transcript.text());
                seen.streams.fetch_add(1, Ordering::Relaxed);
            }
            // The server closed the connection, or said that it takes no more (a GOAWAY), before anything was sent: every
            // client opens another one then.
            Err(error) if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn open(door: &Door, index: usize) -> anyhow::Result<Connection> {
    match door {
        Door::Plain(address) if index.is_multiple_of(2) => Connection::open(*address).await,
        Door::Plain(address) => Connection::open_http2(*address).await,
        Door::Secure(address, tls) => Connection::open_tls(*address, Arc::clone(&tls[index % 2]), "localhost").await,
    }
}
