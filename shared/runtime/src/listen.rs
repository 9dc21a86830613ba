//! Sockets to listen on, and how many descriptors the process may have.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the system may hold before they are accepted: a herd of reconnects must fit.
const BACKLOG: i32 = 4096;

/// Bytes of one connection that the system takes although they cannot leave yet. Left alone it takes megabytes, for each
/// client that does not read; what is on its way does not count, so that fast and far clients lose nothing.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MOST: u32 = 64 * 1024;

/// Whether several sockets may listen on one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReusePort {
    /// Each thread binds its own; the system spreads connections over them where [`SPREADS`] says so.
    Yes,
    /// One socket; a second bind fails.
    No,
}

/// Whether the system spreads connections evenly over sockets that share a port. Elsewhere one of them gets nearly all.
pub const SPREADS: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A non-blocking listener on `address`. With port 0 the system picks one: ask `local_addr`.
///
/// # Errors
/// What the system says: the port is taken, not allowed, or not there.
pub fn bind(address: SocketAddr, reuse: ReusePort) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Windows the option would let another process steal the port; elsewhere it only ignores TIME_WAIT.
    if cfg!(unix) {
        socket.set_reuse_address(true)?;
    }
    if reuse == ReusePort::Yes {
        share_port(&socket)?;
    }
    // Those that are accepted inherit it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(UNSENT_MOST)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
fn share_port(_socket: &Socket) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot share a port between sockets"))
}

/// Raises the soft limit of open files to the hard one and says how many there may be.
#[cfg(unix)]
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal leaves the soft limit as it was, which is then the answer.
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.unwrap_or(u64::MAX)
}

/// Raises the soft limit of open files to the hard one and says how many there may be. This system has no such limit.
#[cfg(not(unix))]
pub fn raise_open_files() -> u64 {
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: &str = "127.0.0.1:0";

    #[test]
    fn a_taken_port_is_an_error() {
        let first = bind(ANY.parse().unwrap(), ReusePort::No).unwrap();
        let second = bind(first.local_addr().unwrap(), ReusePort::No);
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_sockets_share_a_port_when_both_say_so() {
        let first = bind(ANY.parse().unwrap(), ReusePort::Yes).unwrap();
        bind(first.local_addr().unwrap(), ReusePort::Yes).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_takes_little_for_a_peer_that_does_not_read() {
        use std::io::Write as _;
        use std::net::TcpStream;

        let listener = bind(ANY.parse().unwrap(), ReusePort::No).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _deaf = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        // Nothing is taken for so long that nothing is on its way any more.
        accepted.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut taken = 0;
        while let Ok(written @ 1..) = accepted.write(&[0; 16 * 1024]) {
            taken += written;
        }
        // The receiver's buffer holds some, too. Without the option it is four megabytes.
        assert!(taken < 1024 * 1024, "{taken}");
    }

    #[test]
    fn the_limit_of_open_files_is_told() {
        assert!(raise_open_files() >= 64);
        assert_eq!(raise_open_files(), raise_open_files());
    }
}
