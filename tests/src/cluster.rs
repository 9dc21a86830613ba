//! Both planes as processes: a control plane that can be killed and started again, workers, and an operator's terminal.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use socket2::{Domain, Socket, Type};
use tonic::transport::{Channel, Endpoint};

use crate::client::{Ask, Connection};
use crate::process::{Ended, Process};
use crate::terminal::{Finished, Terminal};
use crate::wait::eventually;

/// What a worker logs once the control plane has welcomed it.
const CONNECTED: &str = "Connected to the control plane";

/// A port that stays ours while nobody listens on it: it is bound, and everybody else is given another one.
///
/// Programs of this build bind with `SO_REUSEADDR`, as this does, and so can listen on it all the same.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _held: Socket,
}

/// A control plane, and the terminal of who operates it.
#[derive(Debug)]
pub struct Cluster {
    terminal: Terminal,
    admin: Port,
    sync: Port,
    plane_flags: Vec<String>,
    plane_wrapper: Vec<String>,
    plane: Option<Plane>,
}

#[derive(Debug)]
struct Plane {
    process: Process,
    ops: SocketAddr,
}

/// A worker of its own process.
#[derive(Debug)]
pub struct WorkerProcess {
    process: Process,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    ops: SocketAddr,
}

// === impl Port ===

impl Port {
    /// A free port on loopback.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn reserve() -> anyhow::Result<Self> {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        held.set_reuse_address(true)?;
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let address = held.local_addr()?.as_socket().context("no address of the internet")?;
        Ok(Self { address, _held: held })
    }

    /// The address with the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts a control plane in plain text.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a control plane with further flags.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_with(plane_flags: &[String]) -> anyhow::Result<Self> {
        let mut cluster = Self::without_plane()?;
        cluster.plane_flags = plane_flags.to_vec();
        cluster.start_plane().await?;
        Ok(cluster)
    }

    /// A cluster whose control plane was never started.
    ///
    /// # Errors
    /// When the system has no port left, or the programs were not built.
    pub fn without_plane() -> anyhow::Result<Self> {
        let (admin, sync) = (Port::reserve()?, Port::reserve()?);
        let mut terminal = Terminal::new()?;
        terminal.set("NTONIX_SERVER", &format!("http://{}", admin.address()));
        Ok(Self { terminal, admin, sync, plane_flags: Vec::new(), plane_wrapper: Vec::new(), plane: None })
    }

    /// From the next start on the control plane runs under these programs, as in `strace -D …`; under none when empty.
    pub fn wrap_plane(&mut self, wrapper: &[String]) {
        self.plane_wrapper = wrapper.to_vec();
    }

    /// Starts the control plane again, at the same addresses and with the same state.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_plane(&mut self) -> anyhow::Result<()> {
        let mut args = vec![
            format!("--admin={}", self.admin.address()),
            format!("--sync={}", self.sync.address()),
            "--ops=127.0.0.1:0".to_owned(),
            format!("--state-dir={}", self.state_of("control-plane").display()),
            "--log-format=json".to_owned(),
        ];
        args.extend_from_slice(&self.plane_flags);
        let process = Process::start_under(&self.plane_wrapper, "ntonix-control-plane", args, &[])?;
        let ops = process.address("Control plane listens", "ops").await?;
        self.plane = Some(Plane { process, ops });
        Ok(())
    }

    /// Ends the control plane by SIGKILL.
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill_plane(&mut self) -> anyhow::Result<()> {
        let plane = self.plane.take().context("there is no control plane")?;
        plane.process.signal(Signal::KILL)?;
        plane.process.ended().await.map(drop)
    }

    /// Sends the control plane a signal.
    ///
    /// # Errors
    /// When there is none.
    pub fn signal_plane(&self, signal: Signal) -> anyhow::Result<()> {
        self.plane()?.process.signal(signal)
    }

    /// What the control plane logged since this was asked last, and its metrics page; both empty when there is none.
    pub async fn plane_pages(&self) -> (String, String) {
        let Some(plane) = &self.plane else { return Default::default() };
        let metrics = page(plane.ops, "/metrics").await.map(|(_, text)| text).unwrap_or_default();
        (plane.process.take_log(), metrics)
    }

    /// The process id of the control plane.
    ///
    /// # Errors
    /// When there is none.
    pub fn plane_id(&self) -> anyhow::Result<Pid> {
        self.plane()?.process.id()
    }

    /// Waits until the control plane has ended by itself, or by a signal sent before.
    ///
    /// # Errors
    /// When there is none, or it does not end.
    pub async fn plane_ended(&mut self) -> anyhow::Result<Ended> {
        self.plane.take().context("there is no control plane")?.process.ended().await
    }

    /// What the control plane logged since it was started last.
    ///
    /// # Errors
    /// When there is none.
    pub fn plane_log(&self) -> anyhow::Result<String> {
        Ok(self.plane()?.process.log())
    }

    /// A metric of the control plane, by its name with its labels; 0 when it is not there.
    ///
    /// # Errors
    /// When there is no control plane, or it does not answer.
    pub async fn plane_metric(&self, sample: &str) -> anyhow::Result<f64> {
        metric(self.plane()?.ops, sample).await
    }

    fn plane(&self) -> anyhow::Result<&Plane> {
        self.plane.as_ref().context("there is no control plane")
    }

    /// Where operators are taken, now and after a restart.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Where workers are taken, now and after a restart.
    pub fn sync(&self) -> SocketAddr {
        self.sync.address()
    }

    /// A channel to the admin API that connects when it is used.
    ///
    /// # Errors
    /// Never, as long as addresses make URLs.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{}", self.admin()))?.connect_lazy())
    }

    /// The operator's terminal.
    pub fn terminal(&mut self) -> &mut Terminal {
        &mut self.terminal
    }

    /// Types an `ntonixctl` command.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ctl(&self, args: &str) -> anyhow::Result<Finished> {
        self.terminal.run(&format!("ntonixctl {args}")).await
    }

    /// Applies this configuration; `flags` come after the file.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn try_apply(&self, config: &str, flags: &str) -> anyhow::Result<Finished> {
        self.terminal.save("ntonix.yaml", config)?;
        self.ctl(&format!("apply -f ntonix.yaml {flags}")).await
    }

    /// Applies this configuration and waits until every worker runs it; what the command said.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, config: &str) -> anyhow::Result<String> {
        self.try_apply(config, "").await?.done()
    }

    /// Starts a worker and waits until the control plane knows it.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn worker(&self, name: &str) -> anyhow::Result<WorkerProcess> {
        let worker = self.worker_with(name, &[], &[]).await?;
        worker.process.logged(CONNECTED).await?;
        Ok(worker)
    }

    /// Starts a worker with further flags and with these variables in its environment; it need not reach the control
    /// plane.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn worker_with(
        &self,
        name: &str,
        flags: &[String],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<WorkerProcess> {
        let mut args = vec![format!("--name={name}"), format!("--state-dir={}", self.state_of(name).display())];
        if !flags.iter().any(|flag| flag.starts_with("--control-plane")) {
            args.push(format!("--control-plane=http://{}", self.sync()));
        }
        args.extend(
            ["--listen=127.0.0.1:0", "--ops=127.0.0.1:0", "--threads=1", "--log-format=json"].map(str::to_owned),
        );
        args.extend_from_slice(flags);
        WorkerProcess::start(&args, variables).await
    }

    /// The state directory of a process of this name.
    pub fn state_of(&self, name: &str) -> PathBuf {
        self.terminal.folder().join("state").join(name)
    }
}

// === impl WorkerProcess ===

impl WorkerProcess {
    /// Starts a worker with these flags and waits until it serves; `--log-format=json` must be among them.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(flags: &[String], variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let process = Process::start_with("ntonix-data-plane", flags, variables)?;
        let address = process.address("Worker serves", "listen").await?;
        let ops = process.address("Worker serves", "ops").await?;
        let tls_address = process.address("Worker serves", "listen_tls").await.ok();
        Ok(Self { process, address, tls_address, ops })
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(self) -> anyhow::Result<Ended> {
        self.process.ended().await
    }

    /// Where clients find it over TLS; `None` when it has no certificate.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection to where clients find it.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address).await
    }

    /// Waits until it has been welcomed by a control plane so often.
    ///
    /// # Errors
    /// When it is not.
    pub async fn connected(&self, times: usize) -> anyhow::Result<()> {
        self.process.logged_times(CONNECTED, times).await
    }

    /// Waits until it runs this revision.
    ///
    /// # Errors
    /// When it does not, or is gone.
    pub async fn runs(&self, revision: u64) -> anyhow::Result<()> {
        let wanted = format!("config_revision={revision}\n");
        let runs = async || self.page("/readyz").await.is_ok_and(|(_, text)| text.contains(&wanted));
        eventually(&wanted, runs).await.with_context(|| self.process.log())
    }

    /// The status and the text of a page of its operations port.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        page(self.ops, path).await
    }

    /// A metric, by its name with its labels; 0 when it is not there.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<f64> {
        metric(self.ops, sample).await
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(self) -> anyhow::Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.ended().await.map(drop)
    }
}

/// The status and the text of a page of an operations port.
///
/// # Errors
/// When nobody answers there.
pub async fn page(ops: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = Connection::open(ops).await?.ask(Ask::get(path)).await?;
    Ok((answer.status(), answer.text().into_owned()))
}

async fn metric(ops: SocketAddr, sample: &str) -> anyhow::Result<f64> {
    let (_, text) = page(ops, "/metrics").await?;
    let values = text.lines().filter_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
    Ok(values.sum())
}
