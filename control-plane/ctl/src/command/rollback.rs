//! `ntonixctl rollback`: back to what an older revision said.

use std::io::Write;

use ntonix_proto::admin::v1::ConfigServiceRollbackRequest;

use super::change::ChangeArgs;
use crate::{complaint::explain, connect::Server};

/// Go back to what an older revision said, and wait until every connected worker runs it
///
/// Writes a new, higher revision with the content of the old one. Keys made with `key create` stay as they are: a
/// revoked key is not revived.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  ntonixctl history; ntonixctl rollback 3 -m \"the new GPUs are slow\"")]
pub(crate) struct Args {
    /// The revision whose content to take
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    revision: u64,
    #[command(flatten)]
    change: ChangeArgs,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let request = ConfigServiceRollbackRequest {
            to: self.revision,
            expected_revision: self.change.expected_revision,
            request_id: self.change.request_id.clone(),
            validate_only: false,
            message: self.change.message.clone(),
        };
        let rolled = server.config().rollback(request).await.map_err(|status| explain(&status, None))?.into_inner();
        for warning in &rolled.warnings {
            writeln!(out, "warning: {}: {}", warning.path, warning.reason)?;
        }
        self.change.finish(server, rolled.revision.as_ref(), &rolled.changes, out).await
    }
}
