//! Hands listening sockets to a new process of the same program, so that a restart refuses nobody.
//!
//! The old process starts the new one with its own command line and gives it the sockets over a Unix socket that the new
//! one finds as its standard input (`SCM_RIGHTS`, unix(7)). Connections that nobody has accepted yet wait in the sockets
//! and are not lost. Only when the new process says that it serves does the old one stop accepting; when it does not,
//! nothing has happened.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use crate::tasks;

/// Set for a process that is to take sockets over; the flag of a program says so to `clap`.
pub const VARIABLE: &str = "NTONIX_TAKE_OVER";
/// How long the new process may take to serve.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A listening socket and what it is for.
pub type Named = (String, TcpListener);

/// Why sockets were not handed over. The old process serves on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverFault {
    /// The program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program, as it was called.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The sockets could not be given.
    #[error("cannot give the sockets to the new process")]
    Give(#[source] io::Error),
    /// It ended, or said nothing, before it served.
    #[error("the new process (pid {pid}) does not serve; it was ended")]
    NotReady {
        /// The new process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The attempt itself broke; a bug.
    #[error("the attempt failed: {0}")]
    Died(String),
    /// Other systems have no such sockets.
    #[error("this system cannot hand sockets over")]
    Unsupported,
}

#[cfg(target_os = "linux")]
mod unix {
    use std::io::{IoSlice, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex, PoisonError};

    use rustix::io::{Errno, retry_on_intr};
    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, Shutdown, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, shutdown, socketpair, sockopt,
    };

    use super::{HandoverFault, Named, PATIENCE, VARIABLE, io};

    /// The longest name of a socket.
    const NAME_MAX: usize = 64;
    /// After the last socket.
    const ALL: &[u8] = b"all";
    /// The new process serves.
    const SERVES: &[u8] = b"serves";

    /// What a process has taken over.
    #[derive(Debug)]
    pub struct Inheritance {
        /// The sockets.
        pub sockets: Vec<Named>,
        channel: OwnedFd,
    }

    // === impl Inheritance ===

    impl Inheritance {
        /// Takes the sockets that the process before gives over standard input.
        ///
        /// # Errors
        /// When standard input is no such socket, or what it gives is not understood.
        pub fn take() -> io::Result<Self> {
            let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
            sockopt::set_socket_timeout(&channel, sockopt::Timeout::Recv, Some(PATIENCE))?;
            let mut sockets = Vec::new();
            while let Some(socket) = receive(&channel)? {
                sockets.push(socket);
            }
            Ok(Self { sockets, channel })
        }

        /// Says to the process before that this one serves: it may stop.
        ///
        /// # Errors
        /// When it is gone.
        pub fn serves(self) -> io::Result<()> {
            retry_on_intr(|| send(&self.channel, SERVES, SendFlags::NOSIGNAL))?;
            Ok(())
        }
    }

    /// One attempt to hand over; clones are the same attempt.
    #[derive(Clone, Debug)]
    pub struct Handover {
        ours: Arc<OwnedFd>,
        theirs: Arc<Mutex<Option<OwnedFd>>>,
    }

    // === impl Handover ===

    impl Handover {
        /// An attempt that has not begun.
        ///
        /// # Errors
        /// [`HandoverFault::Give`] when the system has no socket left.
        pub fn new() -> Result<Self, HandoverFault> {
            let (ours, theirs) = channel().map_err(HandoverFault::Give)?;
            Ok(Self { ours: Arc::new(ours), theirs: Arc::new(Mutex::new(Some(theirs))) })
        }

        /// Starts this program anew, gives it `sockets`, and waits until it serves. Returns its process id. Blocks.
        ///
        /// # Errors
        /// [`HandoverFault`]; the new process, if there was one, is ended.
        pub fn run(&self, sockets: &[Named]) -> Result<u32, HandoverFault> {
            let mut child = self.start()?;
            let pid = child.id();
            tracing::info!(pid, "The new process starts");
            let served = give(&self.ours, sockets)
                .map_err(HandoverFault::Give)
                .and_then(|()| until_serves(&self.ours).map_err(|source| HandoverFault::NotReady { pid, source }));
            match served {
                Ok(()) => {
                    watch_over(child);
                    Ok(pid)
                }
                Err(fault) => {
                    end(&mut child);
                    Err(fault)
                }
            }
        }

        /// Gives the attempt up: `run` ends the new process and returns, unless that serves already.
        pub fn give_up(&self) {
            // Both ends hear of it; one that is closed already needs not.
            let _ = shutdown(&self.ours, Shutdown::Both);
        }

        fn start(&self) -> Result<Child, HandoverFault> {
            let mut args = std::env::args_os();
            // As it was called, and not as /proc knows it: a new binary stands where the old one stood.
            let program = args.next().unwrap_or_default();
            let start = |source| HandoverFault::Start { program: program.to_string_lossy().into_owned(), source };
            let theirs = self.theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            let theirs = theirs.ok_or_else(|| start(io::Error::other("it was started before")))?;
            let mut command = Command::new(&program);
            command.args(args).env(VARIABLE, "true").stdin(Stdio::from(theirs));
            // The command goes with this function, and with it their end, which must close when the child ends.
            command.spawn().map_err(start)
        }
    }

    /// Waits for the new process beside this one: nobody else hears of its end while this one drains.
    fn watch_over(mut child: Child) {
        let watching = move || match child.wait() {
            Ok(status) => tracing::error!(pid = child.id(), %status, "The process that has taken over has ended"),
            Err(error) => tracing::warn!(pid = child.id(), %error, "The process that has taken over is not watched"),
        };
        if let Err(error) = std::thread::Builder::new().name("successor".to_owned()).spawn(watching) {
            tracing::warn!(%error, "The process that has taken over is not watched");
        }
    }

    fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&ours, direction, Some(PATIENCE))?;
        }
        Ok((ours, theirs))
    }

    fn give(channel: &OwnedFd, sockets: &[Named]) -> io::Result<()> {
        for (name, socket) in sockets {
            let sockets = [socket.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if name.len() > NAME_MAX || !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket's name is too long"));
            }
            retry_on_intr(|| sendmsg(channel, &[IoSlice::new(name.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL))?;
        }
        retry_on_intr(|| send(channel, ALL, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// One socket; `None` after the last.
    fn receive(channel: &OwnedFd) -> io::Result<Option<Named>> {
        let mut name = [0; NAME_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut name)];
        let received = retry_on_intr(|| recvmsg(channel, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
        let socket = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        match (&name[..received.bytes], socket) {
            (name, Some(socket)) => Ok(Some((String::from_utf8_lossy(name).into_owned(), socket.into()))),
            (ALL, None) => Ok(None),
            (b"", None) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the process before is gone")),
            _ => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the process before gives something else than sockets"))
            }
        }
    }

    fn until_serves(channel: &OwnedFd) -> io::Result<()> {
        let mut word = [0; SERVES.len()];
        match retry_on_intr(|| recv(channel, &mut word, RecvFlags::empty())) {
            Ok((_, received)) if &word[..received] == SERVES => Ok(()),
            Ok(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has ended")),
            Err(Errno::AGAIN) => Err(io::Error::new(io::ErrorKind::TimedOut, "it said nothing for too long")),
            Err(error) => Err(error.into()),
        }
    }

    fn end(child: &mut Child) {
        // It may have ended by itself; then there is only its status to take.
        let _ = child.kill();
        let _ = child.wait();
    }

    #[cfg(test)]
    mod tests {
        use std::time::Duration;

        use super::*;
        use crate::listen::{ReusePort, bind};

        fn stdin_of_the_other(theirs: OwnedFd) -> io::Result<Inheritance> {
            let mut sockets = Vec::new();
            while let Some(socket) = receive(&theirs)? {
                sockets.push(socket);
            }
            Ok(Inheritance { sockets, channel: theirs })
        }

        #[test]
        fn sockets_arrive_with_their_names_and_with_who_waits_in_them() {
            let socket = bind("127.0.0.1:0".parse().unwrap(), ReusePort::No).unwrap();
            let address = socket.local_addr().unwrap();
            let waiting = std::net::TcpStream::connect(address).unwrap();
            let (ours, theirs) = channel().unwrap();
            let given = [("plain".to_owned(), socket)];
            give(&ours, &given).unwrap();
            let heir = stdin_of_the_other(theirs).unwrap();
            drop(given);
            let (name, socket) = &heir.sockets[0];
            assert_eq!((name.as_str(), socket.local_addr().unwrap()), ("plain", address));
            assert_eq!(socket.accept().unwrap().1, waiting.local_addr().unwrap());
            heir.serves().unwrap();
            until_serves(&ours).unwrap();
        }

        #[test]
        fn a_new_process_that_ends_or_says_nothing_is_told_apart_from_one_that_serves() {
            let (ours, theirs) = channel().unwrap();
            drop(theirs);
            assert_eq!(until_serves(&ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            let (ours, _theirs) = channel().unwrap();
            sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(Duration::from_millis(10))).unwrap();
            assert_eq!(until_serves(&ours).unwrap_err().kind(), io::ErrorKind::TimedOut);
        }

        #[test]
        fn an_attempt_that_is_given_up_does_not_wait_for_the_new_process() {
            let handover = Handover::new().unwrap();
            let _theirs = handover.theirs.lock().unwrap().take();
            handover.give_up();
            assert_eq!(until_serves(&handover.ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }

        #[test]
        fn an_old_process_that_is_gone_gives_nothing() {
            let (ours, theirs) = channel().unwrap();
            drop(ours);
            assert_eq!(stdin_of_the_other(theirs).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod unix {
    use super::{HandoverFault, Named, io};

    /// What a process has taken over: nothing, on this system.
    #[derive(Debug)]
    pub struct Inheritance {
        /// The sockets.
        pub sockets: Vec<Named>,
    }

    // === impl Inheritance ===

    impl Inheritance {
        /// There is nothing to take.
        ///
        /// # Errors
        /// Always.
        pub fn take() -> io::Result<Self> {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        }

        /// Nobody to say it to.
        ///
        /// # Errors
        /// Never.
        pub fn serves(self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An attempt to hand over: none, on this system.
    #[derive(Clone, Debug)]
    pub struct Handover;

    // === impl Handover ===

    impl Handover {
        /// Not on this system.
        ///
        /// # Errors
        /// Always.
        pub fn new() -> Result<Self, HandoverFault> {
            Err(HandoverFault::Unsupported)
        }

        /// Not on this system.
        ///
        /// # Errors
        /// Always.
        pub fn run(&self, _sockets: &[Named]) -> Result<u32, HandoverFault> {
            Err(HandoverFault::Unsupported)
        }

        /// There is nothing to give up.
        pub fn give_up(&self) {}
    }
}

pub use unix::{Handover, Inheritance};

/// A stream of requests to hand over: `SIGUSR2`. The handler is in place when this returns; elsewhere than on Unix none
/// ever comes.
///
/// # Errors
/// When the system refuses a handler.
pub fn requests() -> io::Result<Requests> {
    Requests::listen()
}

/// Answers requests in a program that cannot hand over with a line in the log: without a handler the signal would end it.
///
/// # Errors
/// When the system refuses a handler.
pub fn refuse_requests() -> io::Result<()> {
    let mut requests = requests()?;
    tasks::spawn("handover", async move {
        loop {
            requests.next().await;
            tracing::warn!("SIGUSR2: this program cannot hand over to a new process; it goes on");
        }
    });
    Ok(())
}

/// See [`requests`].
#[derive(Debug)]
pub struct Requests {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

// === impl Requests ===

impl Requests {
    #[cfg(unix)]
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signal: signal(SignalKind::user_defined2())? })
    }

    #[cfg(not(unix))]
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next one. Cancel-safe.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        if self.signal.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}
