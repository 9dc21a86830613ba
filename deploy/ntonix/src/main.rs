//! NTONIX in one process: both planes, and a demo backend to try it with.

mod banner;
mod demo;
mod origin;
mod settings;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use ntonix_control_plane::{ControlPlane, FileFault};
use ntonix_data_plane::{ConfigOrigin, SyncTls, Worker};
use ntonix_runtime::{
    drain::{self, Drain, Trigger},
    handover,
    listen::{self, ReusePort},
    metrics, pages,
    probe::{self, Probes, Readiness},
    settings as runtime_settings, tasks, telemetry, tls,
};

use tokio::time::{sleep, timeout};

use crate::settings::{Command, NtonixArgs};

/// Gives back what a crowd of streams took, and wastes no more on the next one (ADR 21).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "ntonix";
/// The push from the plane to the worker beside it takes milliseconds.
const NEWEST_WITHIN: Duration = Duration::from_secs(1);
/// How long the banner waits for a model that it can name, and how often it looks.
const MODELS_WITHIN: Duration = Duration::from_millis(500);
const MODELS_EVERY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    pages::keep_small();
    let args = match runtime_settings::parse::<NtonixArgs>(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let faults = args.faults();
    if !faults.is_empty() {
        return runtime_settings::refuse(PROGRAM, &faults);
    }
    let _telemetry = match telemetry::init(args.log.log_format, &args.log.log_level) {
        Ok(guard) => guard,
        Err(fault) => return runtime_settings::refuse(PROGRAM, &[fault]),
    };
    tls::install_provider();
    listen::raise_open_files();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                tracing::error!(error = line, "Ends");
            }
            // A configuration file that is no good is a wrong setting.
            let is_wrong_setting = error.downcast_ref().is_some_and(FileFault::is_wrong_setting);
            if is_wrong_setting { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(args: NtonixArgs) -> anyhow::Result<()> {
    let (trigger, drain) = drain::channel();
    drain::on_signals(trigger.clone(), args.drain)?;
    handover::refuse_requests()?;
    match &args.command {
        Some(Command::DemoBackends { listen }) => run_demos(listen, &drain).await,
        None => run_planes(args, trigger, drain).await,
    }
}

async fn run_demos(addresses: &[SocketAddr], drain: &Drain) -> anyhow::Result<()> {
    for address in addresses {
        let bound = demo::start(*address).with_context(|| format!("cannot listen on --listen {address}"))?;
        tracing::info!(url = %format!("http://{bound}"), "Demo backend serves");
    }
    drain.draining().await;
    Ok(())
}

async fn run_planes(args: NtonixArgs, trigger: Trigger, drain: Drain) -> anyhow::Result<()> {
    origin::start_named_demos(&args)?;
    let plane = ControlPlane::start(args.control_plane()).await?;
    origin::apply(&plane, &args).await?;
    let worker = Worker::start(worker_settings(&args, &plane), trigger, drain.clone()).await?;
    let plane = Arc::new(plane);
    let ops = serve_ops(args.ops, &plane, &worker)?;

    // What ends first here is only a wait.
    tokio::select! {
        () = serves(&worker, plane.revision()) => banner::print(&worker, &plane, ops, &args),
        () = drain.draining() => {}
    }
    let ended = tokio::select! {
        ended = worker.finished(args.drain) => ended,
        error = plane.finished() => Err(error),
    };
    if let Ok(plane) = Arc::try_unwrap(plane) {
        drain::until_stopped(&drain, plane.shutdown(args.drain)).await;
    }
    ended
}

/// Waits until traffic is served under the newest revision, or under the one before when the worker cannot run it.
async fn serves(worker: &Worker, revision: u64) {
    // What the worker has kept from its last run is older, and must not be what the banner tells of.
    let _ = timeout(NEWEST_WITHIN, worker.runs(revision)).await;
    worker.ready().await;
    // Backends behind a glob are asked for their models right away; without an answer the banner says so.
    let models = async {
        while worker.models().is_empty() {
            sleep(MODELS_EVERY).await;
        }
    };
    let _ = timeout(MODELS_WITHIN, models).await;
}

/// The worker follows the control plane beside it as it would follow any other.
fn worker_settings(args: &NtonixArgs, plane: &ControlPlane) -> ntonix_data_plane::Settings {
    let doors = &args.doors;
    let port = plane.addresses().sync.port();
    let identity = doors.sync_cert.clone().zip(doors.sync_key.clone());
    // With certificates the worker shows the listener's own, which must be made out for localhost.
    let url = match identity {
        Some(_) => format!("https://localhost:{port}"),
        None => format!("http://{}", plane.addresses().sync),
    };
    ntonix_data_plane::Settings {
        traffic: args.traffic.clone(),
        origin: ConfigOrigin::ControlPlane {
            url: url.parse().unwrap_or_default(),
            tls: SyncTls { identity, ca: doors.sync_ca.clone() },
        },
        ops: None,
        state_dir: args.state_dir.clone(),
    }
}

/// One operations port for both planes.
struct BothPlanes {
    plane: std::sync::Weak<ControlPlane>,
    worker: Arc<dyn Probes>,
}

impl Probes for BothPlanes {
    fn ready(&self) -> Readiness {
        match self.plane.upgrade().map(|plane| plane.readiness()) {
            Some(Readiness::Ready(_)) => self.worker.ready(),
            Some(not_ready) => not_ready,
            None => Readiness::NotReady("draining".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let plane = self.plane.upgrade().map(|plane| plane.metrics_text()).unwrap_or_default();
        metrics::join([plane.as_str(), self.worker.metrics().as_str()])
    }
}

fn serve_ops(address: SocketAddr, plane: &Arc<ControlPlane>, worker: &Worker) -> anyhow::Result<SocketAddr> {
    let listener = listen::bind(address, ReusePort::No).with_context(|| format!("cannot listen on --ops {address}"))?;
    let bound = listener.local_addr()?;
    let probes = Arc::new(BothPlanes { plane: Arc::downgrade(plane), worker: worker.probes() });
    tasks::spawn("ops", async move {
        if let Err(error) = probe::serve(listener, probes).await {
            tracing::error!(%error, "The operations port ended");
        }
    });
    Ok(bound)
}
