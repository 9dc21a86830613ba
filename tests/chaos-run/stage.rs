//! The processes of a run and the proxies between them.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use ntonix_tests::certs::{Authority, Pair};
use ntonix_tests::cluster::{Cluster, WorkerProcess};
use ntonix_tests::fault_proxy::{FaultProxy, Faults};
use ntonix_tests::mock_llm::{MockLlm, Options};

use crate::config::{CREDENTIAL, State};
use crate::field::Doors;
use crate::strike::{BACKENDS, Link, WORKERS};

/// How long the streams of a worker may go on that is told to end.
const DRAIN: &str = "3s";
/// How long a client may read nothing.
const STALL: &str = "2s";

/// Everything between the clients and the tokens, except the control plane and the workers, which their lanes have.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) mocks: Vec<MockLlm>,
    proxies: HashMap<Link, FaultProxy>,
    authority: Authority,
    pair: Pair,
    folder: tempfile::TempDir,
    states: [PathBuf; WORKERS],
}

/// A worker and the usage log that it writes.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) worker: WorkerProcess,
    pub(crate) usage: PathBuf,
}

// === impl Stage ===

impl Stage {
    /// Starts backends and proxies. The proxies to workers lead nowhere yet.
    pub(crate) fn start(cluster: &Cluster, seed: u64) -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let pair = authority.sign("gateway", &["localhost", "127.0.0.1"])?;
        let mocks = (0..BACKENDS).map(|index| {
            let tls = if index == BACKENDS - 1 { Some(pair.server()?) } else { None };
            Ok(MockLlm::start_with(Options { tls, is_recording: false, ..Options::default() })?)
        });
        let mocks: Vec<MockLlm> = mocks.collect::<anyhow::Result<_>>()?;
        let nowhere = cluster.sync();
        let target = |link: Link| match link {
            Link::Backend(backend) => mocks[backend].address(),
            Link::Sync(_) => cluster.sync(),
            Link::Clients(_) | Link::ClientsTls(_) => nowhere,
        };
        let proxy = |link: Link| Ok((link, FaultProxy::start_with(target(link), Faults::default(), seed)?));
        let proxies = Link::all().into_iter().map(proxy).collect::<io::Result<_>>()?;
        let states = [0, 1].map(|worker| cluster.state_of(&name(worker)));
        Ok(Self { mocks, proxies, authority, pair, folder: tempfile::tempdir()?, states })
    }

    /// The proxy of a link.
    pub(crate) fn proxy(&self, link: Link) -> anyhow::Result<&FaultProxy> {
        self.proxies.get(&link).with_context(|| format!("no proxy for {link:?}"))
    }

    /// All proxies pass what comes.
    pub(crate) fn clear(&self) {
        self.proxies.values().for_each(FaultProxy::clear);
    }

    /// Where clients connect.
    pub(crate) fn doors(&self) -> anyhow::Result<Doors> {
        let (mut plain, mut tls) = (Vec::new(), Vec::new());
        for worker in 0..WORKERS {
            plain.push(self.proxy(Link::Clients(worker))?.address());
            tls.push(self.proxy(Link::ClientsTls(worker))?.address());
        }
        let doors = |doors: Vec<_>| doors.try_into().map_err(|_| anyhow::anyhow!("not one door for each worker"));
        Ok(Doors {
            plain: doors(plain)?,
            tls: doors(tls)?,
            http1: self.authority.client(&[b"http/1.1"])?,
            http2: self.authority.client(&[b"h2"])?,
        })
    }

    /// The configuration in this state.
    pub(crate) fn config(&self, state: &State) -> anyhow::Result<String> {
        let mut urls: [String; BACKENDS] = Default::default();
        for (index, url) in urls.iter_mut().enumerate() {
            let scheme = if index == BACKENDS - 1 { "https" } else { "http" };
            *url = format!("{scheme}://{}", self.proxy(Link::Backend(index))?.address());
        }
        Ok(state.yaml(&urls, &self.authority.file()))
    }

    /// Starts a worker, the `count`-th of its name, and leads its clients to it.
    pub(crate) async fn worker(&self, index: usize, count: usize) -> anyhow::Result<Running> {
        let usage = self.folder.path().join(format!("usage-{index}-{count}.jsonl"));
        let sync = self.proxy(Link::Sync(index))?.address();
        let flags = [
            format!("--name={}", name(index)),
            format!("--state-dir={}", self.states[index].display()),
            format!("--control-plane=http://{sync}"),
            "--listen=127.0.0.1:0".to_owned(),
            "--listen-tls=127.0.0.1:0".to_owned(),
            "--ops=127.0.0.1:0".to_owned(),
            format!("--tls-cert={}", self.pair.certificate.display()),
            format!("--tls-key={}", self.pair.key.display()),
            "--threads=1".to_owned(),
            "--log-format=json".to_owned(),
            format!("--drain={DRAIN}"),
            format!("--client-stall={STALL}"),
            format!("--usage-log={}", usage.display()),
        ];
        let worker = WorkerProcess::start(&flags, &[CREDENTIAL]).await?;
        self.proxy(Link::Clients(index))?.retarget(worker.address());
        self.proxy(Link::ClientsTls(index))?.retarget(worker.tls_address().context("the worker has no TLS")?);
        Ok(Running { worker, usage })
    }
}

/// The name of a worker.
pub(crate) fn name(worker: usize) -> String {
    format!("w{}", worker + 1)
}
