//! `ntonixctl plan`: what an apply would change.

use std::{io::Write, path::PathBuf};

use ntonix_proto::admin::v1::ConfigServicePlanRequest;

use crate::{complaint::explain, connect::Server, file::File, render};

/// Show what an apply of a file would change; nothing is changed
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  ntonixctl plan -f ntonix.yaml
    + created   - deleted   ~ updated, with the lines that go and come   > moved in the order")]
pub(crate) struct Args {
    /// The file, YAML or JSON; "-" reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Fail when another revision than this one is the newest; 0: when there is one
    #[arg(long, value_name = "N")]
    expected_revision: Option<u64>,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let file = File::read(&self.file)?;
        let request =
            ConfigServicePlanRequest { config: Some(file.draft().clone()), expected_revision: self.expected_revision };
        let plan = server.config().plan(request).await.map_err(|status| explain(&status, Some(&file)))?.into_inner();
        file.warn(plan.warnings.iter().map(|warning| (warning.path.as_str(), warning.reason.as_str())), out)?;
        let base = match plan.base_revision {
            0 => "an empty configuration".to_owned(),
            number => format!("revision {number}"),
        };
        match plan.changes.as_slice() {
            [] => writeln!(out, "nothing would change against {base}")?,
            changes => write!(out, "against {base}\n{}", render::changes_in_full(changes))?,
        }
        Ok(())
    }
}
