//! Programs that are measured: started with their output in files, and ended with those who started them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long a program may take until it answers, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_millis(10);
/// Where Debian has what only root's `PATH` leads to.
const SYSTEM_FOLDER: &str = "/usr/sbin";

/// A running program. Dropped, it is ended, and those that it has started with it.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

// === impl Program ===

impl Program {
    /// Starts a program; what it says goes to `NAME.log` in `folder`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        path: &Path,
        args: impl IntoIterator<Item = A>,
        folder: &Path,
        name: &str,
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut command = Command::new(path);
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // What the caller's environment says is not what is measured.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NTONIX_")) {
            command.env_remove(variable);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until it answers a GET of `path` with something that begins with `wanted`: a listener may be there before
    /// what it needs to serve is.
    pub(crate) async fn answers(&mut self, address: SocketAddr, path: &str, wanted: &str) -> anyhow::Result<()> {
        let started = Instant::now();
        while answer(address, path, wanted.len()).await.is_none_or(|answer| answer != wanted.as_bytes()) {
            let has_ended = self.child.try_wait()?.is_some();
            if has_ended || started.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                anyhow::bail!("{} does not answer on {address}; it says: {log}", self.name);
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its process and those that it has started.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let children = children.split_ascii_whitespace().map(str::parse);
        Ok([Ok(id)].into_iter().chain(children).collect::<Result<_, _>>()?)
    }

    fn end(&mut self) -> io::Result<()> {
        // Killed, a master would leave its workers behind; told, it ends them.
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| self.has_children()) {
            kill_process(id, Signal::TERM)?;
            for _ in 0..PATIENCE.as_millis() / AGAIN.as_millis() {
                if self.child.try_wait()?.is_some() {
                    return Ok(());
                }
                std::thread::sleep(AGAIN);
            }
        }
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn has_children(&self) -> bool {
        self.processes().is_ok_and(|processes| processes.len() > 1)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended by itself is not there to be ended.
        let _ = self.end();
    }
}

/// The first bytes that come back, in time, for a GET.
async fn answer(address: SocketAddr, path: &str, bytes: usize) -> Option<Vec<u8>> {
    let ask = async {
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: compare\r\n\r\n").as_bytes()).await?;
        let mut answer = vec![0; bytes];
        socket.read_exact(&mut answer).await?;
        io::Result::Ok(answer)
    };
    tokio::time::timeout(PATIENCE, ask).await.ok()?.ok()
}

/// A port that nobody listens on now.
pub(crate) fn unused_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Where a program of the system is; as root on Debian, it is installed when it is missing.
pub(crate) fn installed(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = found(name) {
        return Ok(path);
    }
    let is_root = rustix::process::geteuid().is_root();
    anyhow::ensure!(is_root, "{name} is not installed, and only root can install it; --peers leaves it out");
    install(name).with_context(|| format!("{name} cannot be installed; --peers leaves it out"))?;
    found(name).with_context(|| format!("{name} is not where it was installed; --peers leaves it out"))
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from(SYSTEM_FOLDER)])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn install(package: &str) -> anyhow::Result<()> {
    let install = || apt_get(&["install", "-y", "-q", package]);
    // The list of packages may be older than what is there to be got.
    install().or_else(|_| apt_get(&["update", "-q"]).and_then(|()| install()))
}

fn apt_get(args: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("apt-get");
    // At this run level no service is started.
    command.args(args).env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().context("there is no apt-get")?;
    let told = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "apt-get {}: {}", args.join(" "), told.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use ntonix_tests::wait::eventually;

    use super::*;

    #[tokio::test]
    async fn a_program_that_does_not_answer_is_told_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let sh = installed("sh").unwrap();
        let mut program = Program::start(&sh, ["-c", "echo no such setting; exit 1"], folder.path(), "odd").unwrap();
        let address = unused_address().unwrap();
        let error = program.answers(address, "/", "HTTP").await.unwrap_err().to_string();
        assert!(error.starts_with("odd does not answer on 127.0.0.1:"), "{error}");
        assert!(error.ends_with("it says: no such setting\n"), "{error}");
    }

    #[tokio::test]
    async fn a_program_is_ended_with_those_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let script = "sleep 600 & child=$!; trap 'kill $child; wait $child; exit' TERM; echo up; wait";
        let program = Program::start(&installed("sh").unwrap(), ["-c", script], folder.path(), "master").unwrap();
        let log = folder.path().join("master.log");
        let is_up = async || std::fs::read_to_string(&log).unwrap() == "up\n";
        eventually("it is up", is_up).await.unwrap();
        let processes = program.processes().unwrap();
        assert_eq!(processes.len(), 2);
        drop(program);
        let is_there = |id: &u32| Path::new(&format!("/proc/{id}/stat")).exists();
        eventually("both end", async || !processes.iter().any(is_there)).await.unwrap();
    }
}
