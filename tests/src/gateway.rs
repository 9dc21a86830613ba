//! A data plane as a process of its own, with its folder and its addresses.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::client::{Ask, Connection};
use crate::process::{Ended, Process};

/// The program.
pub const PROGRAM: &str = "ntonix-data-plane";

/// A running `ntonix-data-plane` that serves from a file and logs JSON.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    address: SocketAddr,
    ops: SocketAddr,
    folder: TempDir,
}

// === impl Gateway ===

impl Gateway {
    /// Starts one with this configuration and these flags beside its own, and waits until it serves.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start(config: &str, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(config, flags, &[]).await
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start_with(config: &str, flags: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::start_under(&[], config, flags, variables).await
    }

    /// Starts one that may have so many descriptors at most. Unix only.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start_limited(config: &str, flags: &[&str], descriptors: u32) -> anyhow::Result<Self> {
        Self::start_under(&limited(descriptors), config, flags, &[]).await
    }

    /// The same under other programs, as in `strace -D …`, which must end up as the program itself.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start_under(
        wrapper: &[String],
        config: &str,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("ntonix.yaml"), config)?;
        let mut args: Vec<String> = [
            "--listen=127.0.0.1:0",
            "--listen-tls=127.0.0.1:0",
            "--ops=127.0.0.1:0",
            "--log-format=json",
            "--threads=2",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--config={}", folder.path().join("ntonix.yaml").display()));
        args.push(format!("--state-dir={}", folder.path().join("state").display()));
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let process = Process::start_under(wrapper, PROGRAM, args, variables)?;
        let address = process.address("Worker serves", "listen").await?;
        let ops = process.address("Worker serves", "ops").await?;
        Ok(Self { process, address, ops, folder })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file that it serves from.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ntonix.yaml")
    }

    /// The value of a metric; `sample` is its name with its labels as the page has them. 0 when it is not there.
    ///
    /// # Errors
    /// When the page cannot be fetched.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<f64> {
        let (_, page) = self.ops("/metrics").await?;
        let values = page.lines().filter_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
        Ok(values.sum())
    }

    /// The status and the text of a page of its operations port.
    ///
    /// # Errors
    /// When the page cannot be fetched.
    pub async fn ops(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let answer = Connection::open(self.ops).await?.ask(Ask::get(path)).await?;
        Ok((answer.status(), answer.text().into_owned()))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn ended(self) -> anyhow::Result<Ended> {
        self.process.ended().await
    }
}

/// A shell that has so many descriptors at most, and becomes the program behind it.
fn limited(descriptors: u32) -> [String; 3] {
    ["sh", "-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")].map(str::to_owned)
}
