//! What `apply` and `rollback` have in common: they write a revision and wait for the workers.

use std::{io::Write, time::Duration};

use ntonix_proto::admin::v1::{Change, Revision};

use crate::{connect::Server, render, rollout};

/// How to write a revision.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArgs {
    /// What it is about; kept with the revision
    #[arg(long, short, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) message: String,
    /// Fail when another revision than this one is the newest; 0: when there is one
    #[arg(long, value_name = "N")]
    pub(crate) expected_revision: Option<u64>,
    /// Doing it again with the same id gives the same answer and writes nothing
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(crate) request_id: String,
    /// How long to wait until every connected worker runs it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Do not wait for the workers
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,
}

// === impl ChangeArgs ===

impl ChangeArgs {
    /// Tells what was written and follows it to the workers. Without changes too: a worker may still be on its way.
    ///
    /// # Errors
    ///
    /// When a worker refuses it or is late.
    pub(crate) async fn finish(
        &self,
        server: &Server,
        revision: Option<&Revision>,
        changes: &[Change],
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let Some(revision) = revision.filter(|revision| revision.number > 0) else {
            writeln!(out, "nothing to change")?;
            return Ok(());
        };
        match changes {
            [] => writeln!(out, "nothing to change: revision {} says the same", revision.number)?,
            changes => write!(out, "{}\n{}", render::revision(revision), render::changes(changes))?,
        }
        if self.no_wait {
            return Ok(());
        }
        rollout::follow(server, revision.number, self.timeout, out).await
    }
}
