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
/// What a listener is told is told to those that it accepts. Elsewhere than on Linux there are only the probes, and how
/// many of them may go unanswered is the system's choice.
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn those_that_are_accepted_are_watched_as_their_listener_was_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        end_when_silent(&listener, Duration::from_secs(60)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), Duration::from_secs(20));
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), Duration::from_secs(20));
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn no_time_is_too_short_or_too_long_for_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for within in [Duration::from_millis(1), Duration::from_secs(10_000_000_000)] {
            end_when_silent(&listener, within).unwrap();
        }
    }
}
