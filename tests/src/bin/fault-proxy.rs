//! The fault proxy as a process: `fault-proxy --to 127.0.0.1:8000 --faults '{"to_client":{"delay":"50ms"}}'`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use ntonix_runtime::listen::{self, ReusePort};
use ntonix_runtime::settings;
use ntonix_tests::fault_proxy::{self, Faults, ProxyState, serve, serve_api};

/// A TCP proxy that breaks connections on purpose.
///
/// Put it between any two processes. What it does is JSON, for each direction: delay and jitter ("20ms"), slice (bytes of
/// a write), rate (bytes per second), corrupt ({"at": OFFSET} or {"share": 0.001}) and end ({"after": BYTES, "how": "cut",
/// "reset", "stall" or "half-close"}).
///
/// It is changed while it runs, on live connections too: GET, PUT and DELETE /faults of its API; GET /connections counts;
/// POST /cut ends live connections, as in {"how": "reset", "connection": 3}, both members optional.
#[derive(Debug, clap::Parser)]
#[command(name = "fault-proxy", version)]
struct Settings {
    /// Address for clients; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    listen: SocketAddr,
    /// Address of the server
    #[arg(long, value_name = "ADDRESS")]
    to: SocketAddr,
    /// Address of the API; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8474")]
    api: SocketAddr,
    /// What it does from the beginning, as in {"to_client": {"slice": 1, "end": {"after": 4096, "how": "reset"}}}
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = faults)]
    faults: Faults,
    /// Where chance begins: jitter and shares are the same again with the same order of connections
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let settings: Settings = match settings::parse(std::env::args_os()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            let _ = writeln!(std::io::stderr(), "fault-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    listen::raise_open_files();
    let bind = |flag, address| {
        listen::bind(address, ReusePort::No).with_context(|| format!("cannot listen on {flag} {address}"))
    };
    let (clients, api) = (bind("--listen", settings.listen)?, bind("--api", settings.api)?);
    // A closed stdout is the reader's choice.
    let _ = writeln!(
        std::io::stdout(),
        "fault-proxy listens on {} for {}; its API is http://{}",
        clients.local_addr()?,
        settings.to,
        api.local_addr()?,
    );
    let state = ProxyState::new(settings.to, settings.faults, settings.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::try_join!(serve(clients, state.clone()), serve_api(api, state))?;
        Ok(())
    })
}

fn faults(text: &str) -> Result<Faults, fault_proxy::Unreadable> {
    fault_proxy::from_json(text.as_bytes())
}
