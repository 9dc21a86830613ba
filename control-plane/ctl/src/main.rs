//! The command line of NTONIX: reads the arguments, runs one command, exits 0, 1 or 2.

mod connect;
mod complaint;
mod file;
mod rollout;
mod render;
mod command;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use ntonix_runtime::settings;

use crate::{command::Command, connect::ServerArgs};

/// Manages NTONIX: plans, applies and rolls back configurations, shows who runs what, makes keys, tries a chat
///
/// Every change is a numbered revision; the workers take it at once. Exit codes: 0 done, 2 wrong usage, 1 anything else.
#[derive(Debug, Parser)]
#[command(name = "ntonixctl", version, max_term_width = 110, arg_required_else_help = false, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  ntonixctl validate -f ntonix.yaml           check a file, without a server
  ntonixctl plan -f ntonix.yaml               what would change
  ntonixctl apply -f ntonix.yaml              change it, and wait for the workers
  ntonixctl workers                           who runs what
  ntonixctl rollback 3                        go back to what revision 3 said
  ntonixctl key create alice --tenant research
  ntonixctl chat --model demo \"hello\"";

fn main() -> ExitCode {
    let cli: Cli = match settings::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough, as in `ntonixctl watch | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // There is no other place to complain to when stderr is closed.
            _ = writeln!(io::stderr(), "ntonixctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cli.command.run(&cli.server, &mut io::stdout()))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "ntonixctl",
            "ntonixctl aply -f x",
            "ntonixctl apply",
            "ntonixctl apply -f x --timeout soon",
            "ntonixctl get",
            "ntonixctl get rutes",
            "ntonixctl get pools -o xml",
            "ntonixctl rollback",
            "ntonixctl rollback 0",
            "ntonixctl key new",
            "ntonixctl key create alice",
            "ntonixctl key create alice --tenant t --expires never",
            "ntonixctl chat hello",
            "ntonixctl chat --model demo --streams 0 hello",
            "ntonixctl --server :: workers",
            "ntonixctl --cert a workers",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_commands_of_the_guide_are_understood() {
        for line in [
            "ntonixctl apply -f deploy/examples/two-backends.yaml",
            "ntonixctl apply -f - --timeout 5s --expected-revision 3 --message new --request-id a1",
            "ntonixctl apply -f x --no-wait",
            "ntonixctl plan -f x --expected-revision 0",
            "ntonixctl get routes",
            "ntonixctl get pool demo -o yaml",
            "ntonixctl get limits -o json --revision 2",
            "ntonixctl history",
            "ntonixctl history 3",
            "ntonixctl rollback 1 --message oops",
            "ntonixctl workers --server http://127.0.0.1:7000",
            "ntonixctl --server https://cp:7070 --ca ca.pem --cert a.pem --key-file a.key workers",
            "ntonixctl watch --after 3",
            "ntonixctl key create alice --tenant research --expires 30d",
            "ntonixctl key create alice --tenant research --expires 2027-01-01T00:00:00Z",
            "ntonixctl key list --tenant research",
            "ntonixctl key revoke alice",
            "ntonixctl key new --offline",
            "ntonixctl validate -f a -f b",
            "ntonixctl chat --model demo hello",
            "ntonixctl chat --model demo --ws --streams 8 --url https://gw --key ntx_a hello",
            "ntonixctl export -o json --revision 2",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }
}
