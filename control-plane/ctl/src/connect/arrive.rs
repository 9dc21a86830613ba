//! A TCP connection, also to a program of this machine that was started a moment ago and does not listen yet.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Once,
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep},
};

/// A program that was started in the line before listens within some tens of milliseconds, on a busy machine later.
pub(super) const START_WITHIN: Duration = Duration::from_secs(3);
/// From one try to the next.
const EVERY: Duration = Duration::from_millis(25);
/// A wait that somebody notices is told.
const NOTICED_AFTER: Duration = Duration::from_millis(500);

/// Connects to the first address of `host` that takes it. One on loopback where nobody listens is asked again for
/// `patience`; nobody else is, for there a refusal means what it says.
///
/// # Errors
///
/// The last error, when none takes it.
pub(super) async fn arrive(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let patience = if addresses.iter().all(|address| address.ip().is_loopback()) { patience } else { Duration::ZERO };
    let began = Instant::now();
    loop {
        match TcpStream::connect(addresses.as_slice()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && began.elapsed() < patience => {}
            ended => return ended,
        }
        if began.elapsed() >= NOTICED_AFTER {
            tell(host, port, patience);
        }
        sleep(EVERY).await;
    }
}

/// Once for the whole program: `chat` may connect many times.
fn tell(host: &str, port: u16, patience: Duration) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        let (host, patience) =
            (if host.contains(':') { format!("[{host}]") } else { host.to_owned() }, patience.as_secs());
        // It is only a word for who waits.
        _ = writeln!(io::stderr(), "nobody listens on {host}:{port} yet, waiting for up to {patience} s");
    });
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A port of loopback where nobody listens.
    fn free() -> SocketAddr {
        // Bound and dropped.
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_program_that_listens_a_little_later_is_reached() {
        let address = free();
        let mut arriving = Box::pin(arrive("127.0.0.1", address.port(), Duration::from_secs(60)));
        // It has been refused once, and waits.
        tokio::select! {
            arrived = &mut arriving => panic!("nobody listens: {arrived:?}"),
            () = sleep(EVERY / 2) => {}
        }
        let _listener = TcpListener::bind(address).await.unwrap();
        assert_eq!(arriving.await.unwrap().peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn where_nobody_listens_it_is_refused_when_the_patience_is_over() {
        let began = Instant::now();
        let refused = arrive("127.0.0.1", free().port(), EVERY * 2).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(began.elapsed() >= EVERY * 2);
    }
}
