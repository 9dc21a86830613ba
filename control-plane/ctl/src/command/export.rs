//! `ntonixctl export`: a whole configuration as a file.

use std::io::Write;

use ntonix_config::{to_json, to_yaml};
use ntonix_proto::admin::v1::ConfigServiceExportRequest;

use crate::{complaint::explain, connect::Server};

/// Print the whole configuration as a file that can be applied again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl export > ntonix.yaml
  ntonixctl export --revision 3 -o json")]
pub(crate) struct Args {
    /// Of an older revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    revision: u64,
    /// How to write it
    #[arg(long, short, value_enum, value_name = "FORM", default_value = "yaml")]
    output: Form,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Form {
    Yaml,
    Json,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let request = ConfigServiceExportRequest { revision: self.revision };
        let exported = server.config().export(request).await.map_err(|status| explain(&status, None))?;
        let draft = exported.into_inner().config.unwrap_or_default();
        let text = match self.output {
            Form::Yaml => to_yaml(&draft),
            Form::Json => to_json(&draft),
        };
        Ok(write!(out, "{text}")?)
    }
}
