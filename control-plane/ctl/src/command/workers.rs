//! `ntonixctl workers`: who runs what.

use std::io::Write;

use ntonix_proto::admin::v1::{Worker, WorkerServiceGetRequest, WorkerServiceListRequest};

use crate::{
    complaint::explain,
    connect::Server,
    render::{self, duration, or_dash, table, time},
};

/// Show the workers: which revision each one runs, since when, with which faults
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ntonixctl workers
  ntonixctl workers gpu-rack-1")]
pub(crate) struct Args {
    /// Only the one of this name
    name: Option<String>,
}

// === impl Args ===

impl Args {
    pub(super) async fn run(&self, server: &Server, out: &mut dyn Write) -> anyhow::Result<()> {
        let workers = match &self.name {
            Some(name) => {
                let request = WorkerServiceGetRequest { name: name.clone() };
                let found = server.workers().get(request).await.map_err(|status| explain(&status, None))?;
                found.into_inner().worker.into_iter().collect()
            }
            None => all(server).await?,
        };
        Ok(write!(out, "{}", overview(&workers))?)
    }
}

async fn all(server: &Server) -> anyhow::Result<Vec<Worker>> {
    let mut request = WorkerServiceListRequest::default();
    let mut workers = Vec::new();
    loop {
        let page = server.workers().list(request.clone()).await.map_err(|status| explain(&status, None))?.into_inner();
        workers.extend(page.workers);
        if page.next_page_token.is_empty() {
            return Ok(workers);
        }
        request.page_token = page.next_page_token;
    }
}

/// A table, and below it the faults of those that have some.
fn overview(workers: &[Worker]) -> String {
    if workers.is_empty() {
        return "no worker has connected since the control plane started\n".to_owned();
    }
    let heads = ["NAME", "STATE", "REVISION", "SINCE", "TOOK", "LAST-HEARD", "ADDRESS", "VERSION"];
    let text = table(heads, &workers.iter().map(row).collect::<Vec<_>>());
    let faulty = workers.iter().filter(|worker| !worker.faults.is_empty());
    faulty.fold(text, |text, worker| text + &format!("\n{}{}\n", worker.name, render::faults(worker, "  ")))
}

fn row(worker: &Worker) -> [String; 8] {
    let revision = match worker.running_revision {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    [
        worker.name.clone(),
        render::stand(worker),
        revision,
        time(worker.running_since),
        duration(worker.took),
        time(worker.last_heard),
        or_dash(&worker.address),
        or_dash(&worker.version),
    ]
}

#[cfg(test)]
mod tests {
    use ntonix_proto::admin::v1::{WorkerFault, WorkerState};

    use super::*;

    #[test]
    fn a_refusal_stands_below_the_table() {
        let worker = Worker {
            name: "w1".to_owned(),
            state: WorkerState::Refused.into(),
            running_revision: 2,
            refused_revision: 3,
            faults: vec![WorkerFault { path: "secrets[0].from".to_owned(), reason: "is not set".to_owned() }],
            ..Worker::default()
        };
        assert_eq!(
            overview(&[worker]),
            "NAME  STATE      REVISION  SINCE  TOOK  LAST-HEARD  ADDRESS  VERSION\n\
             w1    refused 3  2         -      -     -           -        -\n\nw1\n  secrets[0].from: is not set\n"
        );
        assert!(overview(&[]).starts_with("no worker"));
    }
}
