//! Command lines as a person types them: through `sh`, in a folder of their own, with the programs of this build first on
//! the path.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::program;
use crate::wait::eventually;

/// A folder in which commands are typed, and the variables that they see beside the test's own.
#[derive(Debug)]
pub struct Terminal {
    folder: TempDir,
    programs: PathBuf,
    variables: Vec<(String, String)>,
    typed: AtomicUsize,
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    output: PathBuf,
    complaints: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    line: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub output: String,
    /// What it wrote to stderr.
    pub complaints: String,
}

// === impl Terminal ===

impl Terminal {
    /// A terminal in an empty folder, without any `NTONIX_…` variable.
    ///
    /// # Errors
    /// When there is no place for the folder, or the programs were not built.
    pub fn new() -> anyhow::Result<Self> {
        let programs = program("ntonixctl")?.parent().context("a program without a folder")?.to_owned();
        Ok(Self { folder: tempfile::tempdir()?, programs, variables: Vec::new(), typed: AtomicUsize::new(0) })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable for the commands to come.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Writes a file of the folder in one step, so that nobody reads half of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder().join(name);
        fs::create_dir_all(path.parent().context("a file without a folder")?)?;
        let aside = path.with_extension("aside");
        fs::write(&aside, text)?;
        fs::rename(aside, &path)?;
        Ok(path)
    }

    /// Types a line and waits until it has ended.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub async fn run(&self, line: &str) -> anyhow::Result<Finished> {
        self.spawn(line, line)?.ended().await
    }

    /// Starts a single program that goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, line: &str) -> anyhow::Result<Running> {
        // In place of the shell, so that signals reach the program.
        self.spawn(line, &format!("exec {line}"))
    }

    fn spawn(&self, line: &str, script: &str) -> anyhow::Result<Running> {
        let number = self.typed.fetch_add(1, Ordering::Relaxed);
        let output = self.folder().join(format!(".{number}.output"));
        let complaints = self.folder().join(format!(".{number}.complaints"));
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.folder()).stdin(Stdio::null());
        command.stdout(File::create(&output)?).stderr(File::create(&complaints)?);
        let mut path = vec![self.programs.clone()];
        for (variable, value) in std::env::vars_os() {
            match variable.to_string_lossy() {
                name if name.starts_with("NTONIX_") => drop(command.env_remove(&variable)),
                name if name == "PATH" => path.extend(std::env::split_paths(&value)),
                _ => {}
            }
        }
        command.env("PATH", std::env::join_paths(path)?).envs(self.variables.iter().cloned());
        let child = command.spawn().context("cannot start sh")?;
        Ok(Running { line: line.to_owned(), child, output, complaints })
    }
}

// === impl Running ===

impl Running {
    /// What it wrote to stdout so far.
    pub fn output(&self) -> String {
        read(&self.output)
    }

    /// What it wrote to stderr so far.
    pub fn complaints(&self) -> String {
        read(&self.complaints)
    }

    /// Waits until stdout has a text.
    ///
    /// # Errors
    /// When the text does not come; the error has what came instead.
    pub async fn shown(&self, text: &str) -> anyhow::Result<()> {
        let waited = eventually(text, async || self.output().contains(text)).await;
        waited.with_context(|| format!("`{}` wrote:\n{}\n{}", self.line, self.output(), self.complaints()))
    }

    /// Waits until stderr has a text so often.
    ///
    /// # Errors
    /// When the text does not come; the error has what came instead.
    pub async fn complained(&self, text: &str, times: usize) -> anyhow::Result<()> {
        let waited = eventually(text, async || self.complaints().matches(text).count() >= times).await;
        waited.with_context(|| format!("`{}` complained:\n{}", self.line, self.complaints()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?).context("no process id")?;
        Ok(kill_process(id, signal)?)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(mut self) -> anyhow::Result<Finished> {
        let mut status = None;
        let ended = eventually("the command ends", async || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        ended.await.with_context(|| format!("`{}` wrote:\n{}\n{}", self.line, self.output(), self.complaints()))?;
        let (line, output, complaints) = (self.line.clone(), self.output(), self.complaints());
        Ok(Finished { line, status: status.context("no status")?, output, complaints })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before; then there is nothing to kill and only the status to take.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Finished ===

impl Finished {
    /// What it wrote to stdout, if it exited 0.
    ///
    /// # Errors
    /// With everything it wrote, when it did not.
    pub fn done(self) -> anyhow::Result<String> {
        self.exited(0).map(|finished| finished.output)
    }

    /// What it wrote to stderr, if it exited with this code.
    ///
    /// # Errors
    /// With everything it wrote, when it did not.
    pub fn failed(self, code: i32) -> anyhow::Result<String> {
        self.exited(code).map(|finished| finished.complaints)
    }

    /// Itself, if it exited with this code.
    ///
    /// # Errors
    /// With everything it wrote, when it did not.
    pub fn exited(self, code: i32) -> anyhow::Result<Self> {
        let Self { line, status, output, complaints } = &self;
        anyhow::ensure!(status.code() == Some(code), "`{line}` ended with {status}:\n{output}\n{complaints}");
        Ok(self)
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
