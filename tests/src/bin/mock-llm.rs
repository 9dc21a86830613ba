//! The scripted mock backend as a process, for demos and measurements: `mock-llm --tokens 20 --pause 50ms`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ntonix_runtime::listen::{self, ReusePort};
use ntonix_runtime::settings;
use ntonix_tests::mock_llm::{self, Pace, Script, State, language};

/// A mock of an LLM backend that answers with numbered tokens.
#[derive(Debug, clap::Parser)]
#[command(name = "mock-llm", version, after_long_help = after_help())]
struct Settings {
    /// Address to listen on, repeatable; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: Vec<SocketAddr>,
    /// Tokens of an answer whose request has no max_tokens
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    tokens: u64,
    /// Pause between two tokens
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pause: Duration,
    /// Models to list, separated by commas; any model is answered
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = mock_llm::MODEL)]
    models: Vec<String>,
    /// Do as this script says with every request that nothing else is for
    #[arg(long, value_name = "FILE", value_parser = script_in)]
    script: Option<Script>,
    /// Also fail for the models of these names, separated by commas: status-404 (or another from 400 to 599), cut,
    /// silent-end, stream-error, garbage, html, no-reply; or MODEL=FILE with a script
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = fault)]
    faults: Vec<(String, Script)>,
    /// Threads, each with listeners of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
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
            let _ = writeln!(std::io::stderr(), "mock-llm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    use anyhow::Context as _;

    listen::raise_open_files();
    let pace = if settings.pause.is_zero() { Pace::Fast } else { Pace::Every(settings.pause) };
    let script = settings.script.unwrap_or(Script::Answer { tokens: settings.tokens, pace });
    let state = State::new(settings.models, script, false);
    for (model, script) in settings.faults {
        state.set_for_model(&model, script);
    }
    let reuse = if settings.threads > 1 { ReusePort::Yes } else { ReusePort::No };
    let mut addresses = settings.listen;
    let mut threads = Vec::new();
    for _ in 0..settings.threads {
        let mut listeners = Vec::new();
        for address in &mut addresses {
            let listener =
                listen::bind(*address, reuse).with_context(|| format!("cannot listen on --listen {address}"))?;
            *address = listener.local_addr()?;
            listeners.push(listener);
        }
        let state = Arc::clone(&state);
        threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let serve = |listener| mock_llm::serve(listener, Arc::clone(&state), None);
            runtime.block_on(futures_util::future::try_join_all(listeners.into_iter().map(serve)))
        }));
    }
    for address in addresses {
        // A closed stdout is the reader's choice.
        let _ = writeln!(std::io::stdout(), "mock-llm listens on http://{address}");
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a serving thread panicked"))??;
    }
    Ok(())
}

fn fault(text: &str) -> Result<(String, Script), String> {
    if let Some((model, file)) = text.split_once('=') {
        return Ok((model.to_owned(), script_in(file)?));
    }
    let script = Script::named(text).ok_or_else(|| {
        format!(
            "there is no such fault; there are status-400 to status-599, {} and MODEL=FILE",
            Script::NAMES.join(", ")
        )
    })?;
    Ok((text.to_owned(), script))
}

fn script_in(file: &str) -> Result<Script, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    text.parse().map_err(|faults: language::Faults| faults.to_string())
}

fn after_help() -> String {
    let paths = "While it runs:\n\n  \
        POST   /mock/script            do as the script in the body says; ?model=NAME for one model\n  \
        DELETE /mock/script            take that back\n  \
        GET    /mock/ledger            what was written in each attempt, as JSON lines\n  \
        GET    /mock/cuts              the clients that left before the end, and when";
    format!("{}\n{paths}", language::help())
}
