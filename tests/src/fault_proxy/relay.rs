//! The proxy's sockets: accepts, connects to the server, and does with the bytes what the plans say.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::faults::{Faults, How};
use super::plan::{Action, Plan};
use super::{Open, Passed, ProxyState, Toward};

/// Bytes read at once.
const PIECE: usize = 16 * 1024;
/// How long the ends of a cut connection may still send: data that nobody has read would turn the FIN into a reset.
const CUT_LINGER: Duration = Duration::from_secs(1);

/// Serves until the future is dropped, and with it every connection.
///
/// # Errors
/// When the listener is not non-blocking or does not belong to a runtime's reactor.
pub async fn serve(listener: TcpListener, state: Arc<ProxyState>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Losing either branch loses nothing: both can be polled again.
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => drop(connections.spawn(connection(client, peer, state.clone()))),
                // Out of descriptors: wait for some to come back.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, peer: SocketAddr, state: Arc<ProxyState>) {
    let id = state.totals.opened.fetch_add(1, Ordering::Relaxed) + 1;
    let Ok(server) = TcpStream::connect(state.target()).await else {
        state.totals.refused.fetch_add(1, Ordering::Relaxed);
        reset_when_dropped(&client);
        return;
    };
    // Without it the kernel would put slices together again; where it cannot be had, bytes still pass.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (end, ended) = oneshot::channel();
    let passed = Arc::new(Passed::default());
    state.open().insert(id, Open { peer, passed: passed.clone(), end: Some(end) });
    let listed = Listed { state: state.clone(), id };
    relay(client, server, &listed, &passed, ended).await;
}

/// A connection in the list of the live ones; dropped, it is taken from there.
struct Listed {
    state: Arc<ProxyState>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.state.open().remove(&self.id);
    }
}

async fn relay(client: TcpStream, server: TcpStream, listed: &Listed, passed: &Passed, ended: oneshot::Receiver<How>) {
    let state = &listed.state;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let pump = |toward| Pump {
        plan: Plan::new(seed(state.seed, listed.id, toward)),
        faults: state.faults.subscribe(),
        toward,
        passed: passed.toward(toward),
        struck: &state.totals.struck,
    };
    let (up, down) = (pump(Toward::Server), pump(Toward::Client));
    let how = tokio::select! {
        // The sender is only dropped with the list itself.
        how = ended => how.unwrap_or(How::Cut),
        both = async {
            tokio::try_join!(up.run(&mut from_client, &mut to_server), down.run(&mut from_server, &mut to_client))
        } => match both {
            Ok(_) => return,
            Err(how) => how,
        },
    };
    if how == How::Reset {
        state.totals.ended[1].fetch_add(1, Ordering::Relaxed);
        reset_when_dropped(to_client.as_ref());
        reset_when_dropped(to_server.as_ref());
        // A half that is dropped says FIN first.
        to_client.forget();
        to_server.forget();
        return;
    }
    state.totals.ended[0].fetch_add(1, Ordering::Relaxed);
    // An end that is gone already needs to be told nothing.
    let _ = (to_client.shutdown().await, to_server.shutdown().await);
    let _ = timeout(CUT_LINGER, async { tokio::join!(drain(&mut from_client), drain(&mut from_server)) }).await;
}

async fn drain(half: &mut OwnedReadHalf) {
    // Any end will do.
    let _ = tokio::io::copy(half, &mut tokio::io::sink()).await;
}

fn reset_when_dropped(socket: &TcpStream) {
    // A socket that refuses is closed instead.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// A seed for each direction of each connection, the same in every run with the same order of connections.
fn seed(seed: u64, id: u64, toward: Toward) -> u64 {
    let number = id * 2 + u64::from(toward == Toward::Client);
    seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// One direction of a connection.
pub(super) struct Pump<'a> {
    pub(super) plan: Plan,
    pub(super) faults: watch::Receiver<Faults>,
    pub(super) toward: Toward,
    pub(super) passed: &'a AtomicU64,
    pub(super) struck: &'a AtomicU64,
}

// === impl Pump ===

impl Pump<'_> {
    /// Passes bytes on until the sender's end has been passed on too.
    ///
    /// # Errors
    /// How the whole connection has to end, by a fault or because one of its sides broke.
    pub(super) async fn run<R, W>(mut self, from: &mut R, to: &mut W) -> Result<(), How>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut piece = BytesMut::new();
        loop {
            let action = self.plan.next(self.faults.borrow_and_update().toward(self.toward), Instant::now());
            self.struck.fetch_add(self.plan.take_struck(), Ordering::Relaxed);
            match action {
                Action::Write(bytes) => {
                    to.write_all(&bytes).await.map_err(|_| How::Reset)?;
                    self.passed.store(self.plan.passed(), Ordering::Relaxed);
                    // Gives the receiver a chance to see each slice alone.
                    tokio::task::yield_now().await;
                }
                Action::Finish => to.shutdown().await.map_err(|_| How::Reset)?,
                Action::End(how) => return Err(how),
                // What the sender still says is read, so that it is not stopped by nobody reading, and dropped.
                Action::Done => match tokio::io::copy(from, &mut tokio::io::sink()).await {
                    Ok(_) => return Ok(()),
                    Err(_) => return Err(How::Reset),
                },
                Action::Wait(until) => self.wait(until, from, &mut piece).await?,
            }
        }
    }

    async fn wait<R>(&mut self, until: Option<Instant>, from: &mut R, piece: &mut BytesMut) -> Result<(), How>
    where
        R: AsyncRead + Unpin,
    {
        let due = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        piece.reserve(PIECE);
        tokio::select! {
            read = from.read_buf(piece), if self.plan.has_room() && !self.plan.is_finishing() => {
                let faults = self.faults.borrow();
                let faults = faults.toward(self.toward);
                match read {
                    Ok(0) => self.plan.finish(faults, Instant::now()),
                    Ok(_) => self.plan.push(faults, Instant::now(), piece.split().freeze()),
                    Err(_) => return Err(How::Reset),
                }
            }
            () = due => {}
            // The proxy is gone when nobody can change its faults any more.
            changed = self.faults.changed() => changed.map_err(|_| How::Cut)?,
        }
        Ok(())
    }
}
