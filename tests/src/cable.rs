//! A network of a scenario's own, with a cable that can be pulled: what is sent over it then is dropped, without a FIN, an
//! RST or any other word.
//!
//! It is three network namespaces in a row: the near end, where the scenario runs with all that it starts; a router; and
//! the far end, to which only single sockets belong. Pulled, the router passes nothing on, and says nothing. Nothing of the
//! machine's own network is touched, and nothing needs a name: a namespace goes with the process that holds it, which goes
//! with ours, however that ends.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::Context as _;
use ntonix_runtime::listen::{self, ReusePort};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpStream;

use crate::sandbox::skipped;

/// The near end of the cable.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// Its far end.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Whether the router passes packets on; each namespace has its own.
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The cable, as seen from its near end.
#[derive(Debug)]
pub struct Cable {
    router: Space,
    far: Space,
}

/// A network namespace, for as long as its holder lives.
#[derive(Debug)]
struct Space {
    holder: Child,
}

// === impl Cable ===

impl Cable {
    /// Lays a cable and runs a scenario at its near end, on a runtime of its own.
    ///
    /// Where networks cannot be made (it takes root and `ip`), it is as with everything in [`sandbox`](crate::sandbox).
    ///
    /// # Panics
    /// When the scenario does.
    #[expect(clippy::panic, reason = "a scenario that cannot run has not passed")]
    pub fn lay(scenario: impl AsyncFnOnce(&Self) + Send) {
        let laid = Self::try_lay().map_err(|error| format!("no network of one's own may be made here: {error:#}"));
        let Some((near, cable)) = laid.map_or_else(|why| skipped(&why), Some) else { return };
        let ran = near.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(scenario(&cable));
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("the near end of the cable: {error:#}"));
    }

    /// Drops everything that is sent over it from now on, in both directions.
    ///
    /// # Errors
    /// When the router is gone.
    pub fn pull(&self) -> anyhow::Result<()> {
        self.router.within(|| Ok(fs::write(FORWARD, "0")?))
    }

    /// Opens a connection from the far end.
    ///
    /// # Errors
    /// When nobody listens there, or the cable was pulled.
    pub fn connect(&self, address: SocketAddr) -> anyhow::Result<TcpStream> {
        let stream = self.far.within(|| Ok(std::net::TcpStream::connect(address)?))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// Listens at the far end, on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn listen(&self) -> anyhow::Result<TcpListener> {
        self.far.within(|| Ok(listen::bind((FAR, 0).into(), ReusePort::No)?))
    }

    fn try_lay() -> anyhow::Result<(Space, Self)> {
        let (near, router, far) = (Space::new()?, Space::new()?, Space::new()?);
        near.ip(&format!(
            "link set lo up\n\
             link add near type veth peer name near netns {}\n\
             addr add {NEAR}/24 dev near\n\
             link set near up\n\
             route add default dev near via 10.0.1.254 onlink\n",
            router.holder.id()
        ))?;
        router.ip(&format!(
            "link add far type veth peer name far netns {}\n\
             addr add 10.0.1.254/24 dev near\n\
             addr add 10.0.2.254/24 dev far\n\
             link set near up\n\
             link set far up\n",
            far.holder.id()
        ))?;
        far.ip(&format!(
            "addr add {FAR}/24 dev far\n\
             link set far up\n\
             route add default dev far via 10.0.2.254 onlink\n"
        ))?;
        router.within(|| fs::write(FORWARD, "1").context(FORWARD))?;
        Ok((near, Self { router, far }))
    }
}

// === impl Space ===

impl Space {
    fn new() -> anyhow::Result<Self> {
        // It says when it is there, and ends with our end of its stdin.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut space = Self { holder: command.stderr(Stdio::null()).spawn().context("unshare")? };
        let mut output = BufReader::new(space.holder.stdout.take().context("no stdout")?);
        let read = output.read_line(&mut String::new())?;
        anyhow::ensure!(read > 0, "unshare --net is not permitted");
        Ok(space)
    }

    /// Works on a thread of its own: what it opens and starts belongs to this space for good.
    fn within<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let space = File::open(format!("/proc/{}/ns/net", self.holder.id()))?;
        let inside = || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Sets its network up, with a command of `ip` on each line.
    fn ip(&self, commands: &str) -> anyhow::Result<()> {
        self.within(|| {
            let mut command = Command::new("ip");
            command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut ip = command.spawn().context("ip")?;
            ip.stdin.take().context("no stdin")?.write_all(commands.as_bytes())?;
            let ended = ip.wait_with_output()?;
            anyhow::ensure!(ended.status.success(), "ip: {}", String::from_utf8_lossy(&ended.stderr).trim());
            Ok(())
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Either it has ended already, or it ends now.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
