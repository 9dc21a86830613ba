//! The built programs as processes: found beside the test, watched by their log lines, ended by signals.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;

use crate::wait::{eventually, soon};

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// What it wrote to stderr so far.
    log: watch::Sender<String>,
    /// What it wrote to stdout so far.
    output: watch::Sender<String>,
    /// Whether stderr is at its end.
    silent: watch::Sender<bool>,
    /// Nobody reads stderr any more.
    is_deaf: Arc<AtomicBool>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stderr.
    pub log: String,
    /// What it wrote to stdout.
    pub output: String,
}

/// Where the programs are that this build made.
///
/// # Errors
/// When `name` was not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    // Programs are in target/<profile>, tests in target/<profile>/deps.
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program without a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    anyhow::ensure!(path.exists(), "{} is missing: run `cargo build -p {name}` first", path.display());
    Ok(path)
}

// === impl Process ===

impl Process {
    /// Starts a program of this build without any `NTONIX_…` variable.
    ///
    /// # Errors
    /// When it was not built or cannot be started.
    pub fn start<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> anyhow::Result<Self> {
        Self::start_with(name, args, &[])
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    /// When it was not built or cannot be started.
    pub fn start_with<A: AsRef<OsStr>>(
        name: &str,
        args: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_under(&[], name, args, variables)
    }

    /// The same under other programs, as in `strace -D …`, which must end up as the program itself.
    ///
    /// # Errors
    /// When it was not built or cannot be started.
    pub fn start_under<A: AsRef<OsStr>>(
        wrapper: &[String],
        name: &str,
        args: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut line = wrapper.iter().map(OsString::from).chain([program(name)?.into_os_string()]);
        let mut command = Command::new(line.next().context("no program")?);
        command.args(line).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("NTONIX_") {
                command.env_remove(variable);
            }
        }
        command.envs(variables.iter().copied());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let silent = watch::Sender::new(false);
        let is_deaf = Arc::<AtomicBool>::default();
        let log = gather(child.stderr.take().context("no stderr")?, silent.clone(), Arc::clone(&is_deaf));
        let output = gather(child.stdout.take().context("no stdout")?, watch::Sender::new(false), Arc::default());
        Ok(Self { child, log, output, silent, is_deaf })
    }

    /// From now on nobody reads its stderr: the pipe fills.
    pub fn stop_reading_log(&self) {
        self.is_deaf.store(true, Ordering::Relaxed);
    }

    /// Somebody reads its stderr again.
    pub fn read_log_again(&self) {
        self.is_deaf.store(false, Ordering::Relaxed);
    }

    /// Its resident memory, in KiB.
    ///
    /// # Errors
    /// When the process is gone, or the system has no `/proc`.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// The processor time that it has used.
    ///
    /// # Errors
    /// When the process is gone, or the system has no `/proc`.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in brackets, may have anything in it; user and system time are the 14th and 15th field (proc(5)).
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0_u64)).sum();
        // There are 100 in a second on every Linux that runs programs.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The process id.
    ///
    /// # Errors
    /// When the system's id is none of ours.
    pub fn id(&self) -> anyhow::Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("no process id")
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        self.log.borrow().clone()
    }

    /// What it wrote to stderr since this was asked last, in whole lines. It is forgotten then: a program that runs for
    /// hours would fill the memory with it.
    pub fn take_log(&self) -> String {
        let mut taken = String::new();
        self.log.send_modify(|log| taken = std::mem::take(log));
        taken
    }

    /// Waits until stderr has a text.
    ///
    /// # Errors
    /// When the text does not come; the error has what came instead.
    pub async fn logged(&self, text: &str) -> anyhow::Result<()> {
        self.logged_times(text, 1).await
    }

    /// Waits until stderr has a text so often.
    ///
    /// # Errors
    /// When the text does not come; the error has what came instead.
    pub async fn logged_times(&self, text: &str, times: usize) -> anyhow::Result<()> {
        let (mut log, mut silent) = (self.log.subscribe(), self.silent.subscribe());
        let is_there = |log: &String| log.matches(text).count() >= times;
        let waited = soon(text, async {
            tokio::select! {
                biased;
                found = log.wait_for(is_there) => found.is_ok(),
                // Whoever has ended writes nothing more; what came last may have come in between.
                _ = silent.wait_for(|silent| *silent) => is_there(&self.log()),
            }
        });
        let found = waited.await.with_context(|| format!("the log is: {}", self.log()))?;
        anyhow::ensure!(found, "it has ended without \"{text}\"; the log is: {}", self.log());
        Ok(())
    }

    /// Waits until stdout has a text.
    ///
    /// # Errors
    /// When the text does not come.
    pub async fn printed(&self, text: &str) -> anyhow::Result<()> {
        let mut output = self.output.subscribe();
        soon(text, output.wait_for(|output| output.contains(text))).await?.map(drop).context("stdout is closed")
    }

    /// Waits for the JSON log line with this message and returns it.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn log_line(&self, message: &str) -> anyhow::Result<Value> {
        let needle = format!("\"message\":\"{message}\"");
        self.logged(&needle).await?;
        let log = self.log();
        let line = log.lines().find(|line| line.contains(&needle)).context("the line is gone")?;
        Ok(serde_json::from_str(line)?)
    }

    /// The address in a field of the JSON log line with this message.
    ///
    /// # Errors
    /// When the line does not come or has no such field.
    pub async fn address(&self, message: &str, field: &str) -> anyhow::Result<SocketAddr> {
        let line = self.log_line(message).await?;
        let text = line[field].as_str().with_context(|| format!("no {field} in {line}"))?;
        Ok(text.parse()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.id()?, signal)?)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(mut self) -> anyhow::Result<Ended> {
        let mut status = None;
        let ended = eventually("the process ends", async || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        ended.await.with_context(|| format!("the log is: {}", self.log()))?;
        // The readers hold clones of the senders until the pipes are at their end.
        let closed = async || self.log.sender_count() == 1 && self.output.sender_count() == 1;
        eventually("the pipes close", closed).await?;
        let (log, output) = (self.log(), self.output.borrow().clone());
        Ok(Ended { status: status.context("no status")?, log, output })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before; then there is nothing to kill and only the status to take.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe on a thread of its own, line by line, so that the process never waits for the test.
/// Says at last that it is at its end.
fn gather(
    pipe: impl Read + Send + 'static,
    at_end: watch::Sender<bool>,
    is_deaf: Arc<AtomicBool>,
) -> watch::Sender<String> {
    let gathered = watch::Sender::new(String::new());
    let sender = gathered.clone();
    thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
            sender.send_modify(|text| text.push_str(&line));
            line.clear();
            // Until whoever owns the process is gone.
            while is_deaf.load(Ordering::Relaxed) && Arc::strong_count(&is_deaf) > 1 {
                thread::park_timeout(Duration::from_millis(50));
            }
        }
        at_end.send_replace(true);
    });
    gathered
}
