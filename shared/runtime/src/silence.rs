//! What the system does about a peer of which nothing is heard: a pulled cable sends neither a FIN nor an RST.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// So many parts has the time in which a peer must be heard: a probe leaves after each but the last.
const PARTS: u32 = 3;
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
    let every = (within / PARTS).clamp(SHORTEST, LONGEST);
    let probes = TcpKeepalive::new().with_time(every).with_interval(every);
    // Counts as long as the timeout below is taken back.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let probes = probes.with_retries(PARTS - 1);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket
        .set_tcp_user_timeout(Some(within.clamp(Duration::from_millis(1), Duration::from_millis(i32::MAX as u64))))?;
    Ok(())
}

/// Takes back of [`end_when_silent`] what also ends a connection whose peer is there and only makes no room: whoever is
/// given much may be busy. One that vanishes while something is on its way to it is not noticed for many minutes then; one
/// that vanishes later is, by the probes.
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
    fn a_peer_is_asked_twice_in_the_time_that_it_has_and_no_further_while_it_may_be_busy() {
        const THIRD: Duration = Duration::from_secs(20);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        let asked = || {
            assert!(socket.keepalive().unwrap());
            let (time, every) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
            (time, every, socket.tcp_keepalive_retries().unwrap(), socket.tcp_user_timeout().unwrap())
        };
        end_when_silent(&stream, 3 * THIRD).unwrap();
        assert_eq!(asked(), (THIRD, THIRD, 2, Some(3 * THIRD)));
        wait_for_room(&stream).unwrap();
        assert_eq!(asked(), (THIRD, THIRD, 2, None), "it is given up after the two probes, a third of the time later");
        end_when_silent(&stream, 3 * THIRD).unwrap();
        assert_eq!(asked(), (THIRD, THIRD, 2, Some(3 * THIRD)));
    }

    #[test]
    fn no_time_is_too_short_or_too_long_for_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for within in [Duration::from_millis(1), Duration::from_secs(10_000_000_000)] {
            end_when_silent(&listener, within).unwrap();
        }
    }
}
