//! `ntonixctl history`: the revisions, or what one of them changed.

use std::io::Write;

use ntonix_proto::admin::v1::{ConfigServiceGetRevisionRequest, ConfigServiceListRevisionsRequest, Revision};

use crate::{
    complaint::explain,
    connect::Server,
    render::{self, or_dash, table, time},
};

/// Show the revisions, newest first, or what one of them changed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl history
  ntonixctl history 3        what revision 3 changed against revision 2")]
pub(crate) struct Args {
    /// Only this one, with its changes
    revision: Option<u64>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "revision")]
    limit: usize,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        match self.revision {
            Some(number) => one(server, number, out).await,
            None => {
                let revisions = self.newest(server).await?;
                let rows: Vec<_> = revisions.iter().map(row).collect();
                Ok(write!(out, "{}", table(["REVISION", "TIME", "AUTHOR", "MESSAGE"], &rows))?)
            }
        }
    }

    async fn newest(&self, server: &Server) -> anyhow::Result<Vec<Revision>> {
        let mut request = ConfigServiceListRevisionsRequest::default();
        let mut revisions = Vec::new();
        loop {
            let page =
                server.config().list_revisions(request.clone()).await.map_err(|status| explain(&status, None))?;
            let page = page.into_inner();
            revisions.extend(page.revisions);
            if page.next_page_token.is_empty() || revisions.len() >= self.limit {
                revisions.truncate(self.limit);
                return Ok(revisions);
            }
            request.page_token = page.next_page_token;
        }
    }
}

async fn one(server: &Server, number: u64, out: &mut dyn Write) -> anyhow::Result<()> {
    let request = ConfigServiceGetRevisionRequest { number };
    let found = server.config().get_revision(request).await.map_err(|status| explain(&status, None))?.into_inner();
    let head = found.revision.as_ref().map(render::revision).unwrap_or_default();
    Ok(write!(out, "{head}\n{}", render::changes_in_full(&found.changes))?)
}

fn row(revision: &Revision) -> [String; 4] {
    let message = match (revision.rollback_of, revision.message.as_str()) {
        (0, message) => or_dash(message),
        (to, "") => format!("rollback to {to}"),
        (to, message) => format!("rollback to {to}: {message}"),
    };
    [revision.number.to_string(), time(revision.time), or_dash(&revision.author), message]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_is_told_from_an_apply() {
        let revision = |rollback_of, message: &str| Revision {
            number: 2,
            rollback_of,
            message: message.to_owned(),
            ..Revision::default()
        };
        assert_eq!(row(&revision(0, "")), ["2", "-", "-", "-"]);
        assert_eq!(row(&revision(1, ""))[3], "rollback to 1");
        assert_eq!(row(&revision(1, "oops"))[3], "rollback to 1: oops");
    }
}
