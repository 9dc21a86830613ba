//! The control plane as a program.

use std::process::ExitCode;
use std::time::Duration;

use ntonix_control_plane::{ControlPlane, ControlPlaneArgs, FileFault, Settings};
use ntonix_runtime::drain::{self, until_stopped};
use ntonix_runtime::{handover, listen, settings, telemetry, tls};

fn main() -> ExitCode {
    let args: ControlPlaneArgs = match settings::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    let chosen = args.settings();
    let faults = chosen.faults();
    if !faults.is_empty() {
        return settings::refuse("ntonix-control-plane", &faults);
    }
    let _telemetry = match telemetry::init(args.log.log_format, &args.log.log_level) {
        Ok(telemetry) => telemetry,
        Err(fault) => return settings::refuse("ntonix-control-plane", &[fault]),
    };
    tls::install_provider();
    listen::raise_open_files();
    match run(chosen, args.drain) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A refused file names its faults one on a line.
            for line in format!("{error:#}").lines() {
                tracing::error!(error = %line, "Control plane failed");
            }
            // A configuration file that is no good is a wrong setting.
            let is_wrong_setting = error.downcast_ref().is_some_and(FileFault::is_wrong_setting);
            if is_wrong_setting { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(settings: Settings, deadline: Duration) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(settings, deadline))
}

async fn serve(settings: Settings, deadline: Duration) -> anyhow::Result<()> {
    let (trigger, signals) = drain::channel();
    drain::on_signals(trigger, deadline)?;
    handover::refuse_requests()?;
    let plane = ControlPlane::start(settings).await?;
    // A signal and a failure both end in a drain; they differ in the exit code.
    let outcome = tokio::select! {
        failure = plane.finished() => Err(failure),
        () = signals.draining() => Ok(()),
    };
    // A second signal drops the plane, which cuts off what is left.
    until_stopped(&signals, plane.shutdown(deadline)).await;
    outcome
}
