//! `ntonixctl apply`: makes a file the configuration.

use std::{io::Write, path::PathBuf};

use ntonix_proto::admin::v1::ConfigServiceApplyRequest;

use super::change::ChangeArgs;
use crate::{complaint::explain, connect::Server, file::File};

/// Make a file the configuration, and wait until every connected worker runs it
///
/// All or nothing: the file replaces the whole configuration as a new revision, or nothing happens and every fault is
/// told with its line. Keys made with `key create` stay as they are. Exits 1 when a worker refuses the revision (it goes
/// on running what it had) or is late.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl apply -f ntonix.yaml -m \"more GPUs\"
  ntonixctl apply -f ntonix.yaml --expected-revision 7     only if nobody was faster
  ntonixctl export | sed s/gpu-1/gpu-9/ | ntonixctl apply -f -")]
pub(crate) struct Args {
    /// The file, YAML or JSON; "-" reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let file = File::read(&self.file)?;
        let request = ConfigServiceApplyRequest {
            config: Some(file.draft().clone()),
            expected_revision: self.change.expected_revision,
            request_id: self.change.request_id.clone(),
            validate_only: false,
            message: self.change.message.clone(),
        };
        let applied =
            server.config().apply(request).await.map_err(|status| explain(&status, Some(&file)))?.into_inner();
        file.warn(applied.warnings.iter().map(|warning| (warning.path.as_str(), warning.reason.as_str())), out)?;
        self.change.finish(server, applied.revision.as_ref(), &applied.changes, out).await
    }
}
