//! The commands, each in its own file.

mod apply;
mod chat;
mod change;
mod export;
mod get;
mod history;
mod key;
mod plan;
mod rollback;
mod validate;
mod watch;
mod workers;

use std::io::Write;

use crate::connect::{Server, ServerArgs};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Apply(apply::Args),
    Plan(plan::Args),
    Validate(validate::Args),
    Get(get::Args),
    Export(export::Args),
    History(history::Args),
    Rollback(rollback::Args),
    Workers(workers::Args),
    Watch(watch::Args),
    #[command(subcommand, arg_required_else_help = false)]
    Key(key::Command),
    Chat(chat::Args),
}

// === impl Command ===

impl Command {
    /// Runs it; what it has to say goes to `out`.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being done, in words for people.
    pub(crate) async fn run(&self, server: &ServerArgs, out: &mut dyn Write) -> anyhow::Result<()> {
        match self {
            Self::Apply(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Plan(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Validate(args) => args.run(out),
            Self::Get(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Export(args) => args.run(&Server::connect(server).await?, out).await,
            Self::History(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Rollback(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Workers(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Watch(args) => args.run(&Server::connect(server).await?, out).await,
            Self::Key(command) => command.run(server, out).await,
            Self::Chat(args) => Box::pin(args.run(&server.tls, out)).await,
        }
    }
}

#[cfg(test)]
mod tests;
