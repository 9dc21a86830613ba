//! What the system does about a peer of which nothing is heard: a pulled cable sends neither a FIN nor an RST.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How often a peer is asked in the time in which it must be heard.
const PROBES: u32 = 3;
/// What the systems take as the time between two probes.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(32_767);

/// Lets the system end a connection whose peer is not heard for about `within`: it acknowledges nothing that was sent,
/// makes no room for what waits, or, while there is nothing to send, does not answer the probes, which leave at most once a
/// second. The next read or write fails with [`io::ErrorKind::TimedOut`] then.
///
/// Elsewhere than on Linux there are only the probes, and how many of them may go unanswered is the system's choice.
///
/// # Errors
/// What the system says: the socket is gone.
pub fn end_when_silent<'s>(socket: impl Into<SockRef<'s>>, within: Duration) -> io::Result<()> {
    let socket = socket.into();
    let every = (within / PROBES).clamp(SHORTEST, LONGEST);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(every).with_interval(every))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket
        .set_tcp_user_timeout(Some(within.clamp(Duration::from_millis(1), Duration::from_millis(i32::MAX as u64))))?;
    Ok(())
}

/// Takes back of [`end_when_silent`] what also ends a connection whose peer is there and only makes no room: whoever is
/// given much may be busy. One that vanishes while something is on its way to it is not noticed for many minutes then.
///
/// # Errors
/// What the system says: the socket is gone.
pub fn wait_for_room<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.into().set_tcp_user_timeout(None)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket.into();
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_peer_is_asked_three_times_in_the_time_that_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        end_when_silent(&stream, Duration::from_secs(60)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(20));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(20));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn no_time_is_too_short_or_too_long_for_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for within in [Duration::from_millis(1), Duration::from_secs(10_000_000_000)] {
            end_when_silent(&listener, within).unwrap();
        }
    }
}
