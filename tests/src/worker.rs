//! A worker inside the test's process, with a configuration file and an end of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use ntonix_data_plane::{Addresses, DataPlaneArgs, Settings, TrafficArgs, Worker};
use ntonix_runtime::drain::{self, Trigger};
use ntonix_runtime::lines::Destination;
use ntonix_runtime::tasks;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::client::{Ask, Connection};
use crate::wait::{eventually, soon};

/// How long streams may go on when something that the worker needs has died.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a worker writes its records, in its folder.
const USAGE_LOG: &str = "usage.jsonl";

/// A worker that serves from a file until it is dropped.
#[derive(Debug)]
pub struct TestWorker {
    addresses: Addresses,
    trigger: Trigger,
    folder: TempDir,
    ended: JoinHandle<anyhow::Result<()>>,
}

// === impl TestWorker ===

impl TestWorker {
    /// Starts a worker with two threads on free ports that serves this configuration.
    ///
    /// # Errors
    /// Everything that keeps a worker from starting.
    pub async fn start(config: &str) -> anyhow::Result<Self> {
        Self::start_with(config, |_| {}).await
    }

    /// The same with other flags.
    ///
    /// # Errors
    /// Everything that keeps a worker from starting.
    pub async fn start_with(config: &str, adjust: impl FnOnce(&mut TrafficArgs)) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut settings = settings(&folder)?;
        settings.traffic.usage_log = Some(Destination::File(folder.path().join(USAGE_LOG)));
        adjust(&mut settings.traffic);
        fs::write(file_in(&folder), config)?;
        let (trigger, drain) = drain::channel();
        let worker = Worker::start(settings, trigger.clone(), drain).await?;
        let addresses = worker.addresses();
        let ended = tasks::spawn("test-worker", worker.finished(DRAIN));
        Ok(Self { addresses, trigger, folder, ended })
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.addresses.client
    }

    /// Where clients find it over TLS.
    ///
    /// # Errors
    /// When it was given no certificate.
    pub fn tls_address(&self) -> anyhow::Result<SocketAddr> {
        self.addresses.client_tls.context("the worker has no TLS")
    }

    /// Writes another configuration over the one it serves; it is noticed within about a second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, config: &str) -> anyhow::Result<()> {
        // Never half a file: a rename replaces it in one step.
        let aside = self.folder.path().join("aside.yaml");
        fs::write(&aside, config)?;
        Ok(fs::rename(aside, file_in(&self.folder))?)
    }

    /// What its metrics page says.
    ///
    /// # Errors
    /// When the page cannot be fetched.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.ops("/metrics").await?.1)
    }

    /// The status and the text of a page of its operations port.
    ///
    /// # Errors
    /// When the page cannot be fetched.
    pub async fn ops(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let address = self.addresses.ops.context("the worker has no operations port")?;
        let answer = Connection::open(address).await?.ask(Ask::get(path)).await?;
        Ok((answer.status(), answer.text().into_owned()))
    }

    /// The value of a metric; `sample` is its name with its labels as the page has them. 0 when it is not there.
    ///
    /// # Errors
    /// When the page cannot be fetched.
    pub async fn metric(&self, sample: &str) -> anyhow::Result<f64> {
        let page = self.metrics().await?;
        let values = page.lines().filter_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
        Ok(values.sum())
    }

    /// Its records of usage so far, one for each exchange that has ended.
    ///
    /// # Errors
    /// When a line is no JSON object.
    pub fn records(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.path().join(USAGE_LOG))?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no record: {line}"))).collect()
    }

    /// Waits until there are so many records, and returns them.
    ///
    /// # Errors
    /// When they do not come, or there are more.
    pub async fn until_records(&self, count: usize) -> anyhow::Result<Vec<Value>> {
        eventually("the records of usage", async || self.records().is_ok_and(|records| records.len() >= count)).await?;
        let records = self.records()?;
        anyhow::ensure!(records.len() == count, "{} records instead of {count}: {records:#?}", records.len());
        Ok(records)
    }

    /// Tells it to finish what runs within `within`.
    pub fn drain(&self, within: Duration) {
        self.trigger.start(within);
    }

    /// Tells it to cut what still runs.
    pub fn stop_now(&self) {
        self.trigger.stop_now();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it broke, or does not end.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        soon("the worker ends", &mut self.ended).await??
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.trigger.stop_now();
    }
}

fn file_in(folder: &TempDir) -> PathBuf {
    folder.path().join("ntonix.yaml")
}

fn settings(folder: &TempDir) -> anyhow::Result<Settings> {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string();
    let (config, state) = (file_in(folder), folder.path().join("state"));
    let mut args = vec!["ntonix-data-plane".into(), "--threads".into(), "2".into()];
    args.extend(
        [("--config", config), ("--state-dir", state)].map(|(flag, path)| format!("{flag}={}", path.display())),
    );
    args.extend(["--listen", "--listen-tls", "--ops"].map(|flag| format!("{flag}={any_port}")));
    let args = DataPlaneArgs::try_parse_from(args)?;
    args.settings().map_err(|faults| anyhow::anyhow!("wrong settings: {faults:?}"))
}
