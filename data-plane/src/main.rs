//! The data plane on its own: settings, run, drain, exit code.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use ntonix_data_plane::{DataPlaneArgs, FileFault, Settings, Worker};
use ntonix_runtime::{
    drain,
    handover::{self, Inheritance},
    pages, settings, telemetry,
};

/// Gives back what a crowd of streams took, and wastes no more on the next one (ADR 21).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "ntonix-data-plane";

fn main() -> ExitCode {
    pages::keep_small();
    let args = match settings::parse::<DataPlaneArgs>(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let _telemetry = match telemetry::init(args.log.log_format, &args.log.log_level) {
        Ok(guard) => guard,
        Err(fault) => return settings::refuse(PROGRAM, &[fault]),
    };
    let (drain_within, take_over) = (args.drain, args.take_over);
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(faults) => return settings::refuse(PROGRAM, &faults),
    };
    match run(settings, drain_within, take_over) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A refused file names its faults one on a line.
            for line in format!("{error:#}").lines() {
                tracing::error!(error = line, "Ends");
            }
            // A configuration file that is no good is a wrong setting.
            if error.is::<FileFault>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(settings: Settings, drain_within: Duration, take_over: bool) -> anyhow::Result<()> {
    let (trigger, drain) = drain::channel();
    drain::on_signals(trigger.clone(), drain_within)?;
    let requests = handover::requests()?;
    let mut heir = take_over.then(Inheritance::take).transpose().context("cannot take over from the process before")?;
    let inherited = heir.as_mut().map(|heir| std::mem::take(&mut heir.sockets));
    let mut worker = Worker::prepare(inherited, settings, trigger, drain.clone()).await?;
    if heir.is_some() {
        // Until there is a configuration, the process before serves alone: this one would only refuse.
        tokio::select! {
            biased;
            () = drain.draining() => {
                tracing::info!("Ends before it has taken over");
                return Ok(());
            }
            () = worker.ready() => {}
        }
    }
    worker.open()?;
    let addresses = worker.addresses();
    tracing::info!(
        listen = %addresses.client,
        listen_tls = addresses.client_tls.map(tracing::field::display),
        ops = addresses.ops.map(tracing::field::display),
        pid = std::process::id(),
        "Worker serves"
    );
    #[cfg(target_os = "linux")]
    tell_service_manager();
    if let Some(Err(error)) = heir.map(Inheritance::serves) {
        tracing::warn!(%error, "The process before is gone already");
    }
    worker.hand_over_on(requests, drain_within);
    worker.finished(drain_within).await
}

/// systemd waits for this before it starts what comes after, and follows the process that has taken over.
#[cfg(target_os = "linux")]
fn tell_service_manager() {
    use sd_notify::NotifyState;

    let states = [NotifyState::MainPid(std::process::id()), NotifyState::Ready];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "The service manager cannot be told that the worker serves");
    }
}
