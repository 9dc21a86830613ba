//! The data plane on its own: settings, run, drain, exit code.

use std::process::ExitCode;

use ntonix_data_plane::{DataPlaneArgs, FileFault, Worker};
use ntonix_runtime::{drain, settings, telemetry};

const PROGRAM: &str = "ntonix-data-plane";

fn main() -> ExitCode {
    let args = match settings::parse::<DataPlaneArgs>(std::env::args_os()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let _telemetry = match telemetry::init(args.log.log_format, &args.log.log_level) {
        Ok(guard) => guard,
        Err(fault) => return settings::refuse(PROGRAM, &[fault]),
    };
    let drain_within = args.drain;
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(faults) => return settings::refuse(PROGRAM, &faults),
    };
    match run(settings, drain_within) {
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
async fn run(settings: ntonix_data_plane::Settings, drain_within: std::time::Duration) -> anyhow::Result<()> {
    let (trigger, drain) = drain::channel();
    drain::on_signals(trigger.clone(), drain_within)?;
    let worker = Worker::start(settings, trigger, drain).await?;
    let addresses = worker.addresses();
    tracing::info!(
        listen = %addresses.client,
        listen_tls = addresses.client_tls.map(tracing::field::display),
        ops = addresses.ops.map(tracing::field::display),
        "Worker serves"
    );
    worker.finished(drain_within).await
}
