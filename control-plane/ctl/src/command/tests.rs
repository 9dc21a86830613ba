//! The commands against a control plane of a few lines, which keeps one revision and pages by one.

use std::{path::PathBuf, pin::Pin};

use clap::Parser;
use futures_util::{Stream, StreamExt, stream};
use ntonix_config::{resource_name, to_resources, validate};
use ntonix_proto::{
    admin::v1::{
        Change, ChangeAction, ConfigServiceApplyRequest, ConfigServiceApplyResponse, ConfigServiceExportRequest,
        ConfigServiceExportResponse, ConfigServiceGetRequest, ConfigServiceGetResponse,
        ConfigServiceGetRevisionRequest, ConfigServiceGetRevisionResponse, ConfigServiceListRequest,
        ConfigServiceListResponse, ConfigServiceListRevisionsRequest, ConfigServiceListRevisionsResponse,
        ConfigServicePlanRequest, ConfigServicePlanResponse, ConfigServiceRollbackRequest,
        ConfigServiceRollbackResponse, ConfigServiceWatchRequest, ConfigServiceWatchResponse, Revision,
        config_service_server::{ConfigService, ConfigServiceServer},
    },
    config::v1::{Config, Resource},
};
use ntonix_runtime::tasks;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, transport};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::Cli;

const TEXT: &str = "pools:\n  - name: p\n    backends: [{name: b, url: 'http://b'}]\n  - name: q\n    backends: [{name: b, url: 'http://b'}]\n";

/// Keeps what it was made with; every write is revision 2.
struct OneRevision(Config);

// === impl OneRevision ===

impl OneRevision {
    fn resources(&self) -> Vec<(String, Resource)> {
        to_resources(&self.0)
    }

    fn revision() -> Option<Revision> {
        Some(Revision { number: 2, author: "local".to_owned(), ..Revision::default() })
    }

    fn changes() -> Vec<Change> {
        vec![Change { action: ChangeAction::Created.into(), resource: "pools/p".to_owned(), ..Change::default() }]
    }
}

#[tonic::async_trait]
impl ConfigService for OneRevision {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<ConfigServiceWatchResponse, Status>> + Send>>;

    async fn plan(&self, _: Request<ConfigServicePlanRequest>) -> Result<Response<ConfigServicePlanResponse>, Status> {
        let changes = Self::changes();
        Ok(Response::new(ConfigServicePlanResponse { changes, base_revision: 1, ..Default::default() }))
    }

    async fn apply(
        &self,
        request: Request<ConfigServiceApplyRequest>,
    ) -> Result<Response<ConfigServiceApplyResponse>, Status> {
        let config = request.into_inner().config.unwrap_or_default();
        validate(&config).map_err(|faults| {
            let violations: Vec<_> =
                faults.iter().map(|fault| FieldViolation::new(&fault.path, &fault.reason)).collect();
            Status::with_error_details(Code::InvalidArgument, "faults", ErrorDetails::with_bad_request(violations))
        })?;
        let (revision, changes) = (Self::revision(), Self::changes());
        Ok(Response::new(ConfigServiceApplyResponse { revision, changes, ..Default::default() }))
    }

    async fn get(
        &self,
        request: Request<ConfigServiceGetRequest>,
    ) -> Result<Response<ConfigServiceGetResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.resources().into_iter().find(|(known, _)| *known == name);
        let resource = Some(found.ok_or_else(|| Status::not_found(format!("there is no {name}")))?.1);
        Ok(Response::new(ConfigServiceGetResponse { resource, revision: 2 }))
    }

    async fn list(
        &self,
        request: Request<ConfigServiceListRequest>,
    ) -> Result<Response<ConfigServiceListResponse>, Status> {
        let request = request.into_inner();
        let at: usize = request.page_token.parse().unwrap_or_default();
        let wanted = |resource: &Resource| resource_name(resource).is_some_and(|name| name.starts_with(&request.kind));
        let all: Vec<Resource> = self.resources().into_iter().map(|(_, resource)| resource).filter(wanted).collect();
        let next_page_token = if at + 1 < all.len() { (at + 1).to_string() } else { String::new() };
        let resources = all.into_iter().skip(at).take(1).collect();
        Ok(Response::new(ConfigServiceListResponse { resources, next_page_token, revision: 2 }))
    }

    async fn export(
        &self,
        _: Request<ConfigServiceExportRequest>,
    ) -> Result<Response<ConfigServiceExportResponse>, Status> {
        Ok(Response::new(ConfigServiceExportResponse { config: Some(self.0.clone()), revision: Self::revision() }))
    }

    async fn list_revisions(
        &self,
        request: Request<ConfigServiceListRevisionsRequest>,
    ) -> Result<Response<ConfigServiceListRevisionsResponse>, Status> {
        let is_first = request.into_inner().page_token.is_empty();
        let (number, next_page_token) = if is_first { (2, "1".to_owned()) } else { (1, String::new()) };
        let revisions = vec![Revision { number, ..Revision::default() }];
        Ok(Response::new(ConfigServiceListRevisionsResponse { revisions, next_page_token }))
    }

    async fn get_revision(
        &self,
        _: Request<ConfigServiceGetRevisionRequest>,
    ) -> Result<Response<ConfigServiceGetRevisionResponse>, Status> {
        let (revision, changes) = (Self::revision(), Self::changes());
        Ok(Response::new(ConfigServiceGetRevisionResponse { revision, changes }))
    }

    async fn rollback(
        &self,
        request: Request<ConfigServiceRollbackRequest>,
    ) -> Result<Response<ConfigServiceRollbackResponse>, Status> {
        let revision = Self::revision().map(|revision| Revision { rollback_of: request.into_inner().to, ..revision });
        let changes = Self::changes();
        Ok(Response::new(ConfigServiceRollbackResponse { revision, changes, ..Default::default() }))
    }

    async fn watch(&self, _: Request<ConfigServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
}

/// Runs `ntonixctl` with these words against such a control plane: how it ended, and what it said.
async fn ctl(words: &str) -> (anyhow::Result<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("--server=http://{}", listener.local_addr().unwrap());
    let service = OneRevision(crate::file::File::from_text("x", TEXT).unwrap().draft().clone());
    let incoming =
        stream::unfold(listener, |listener| async { Some((listener.accept().await.map(|(io, _)| io), listener)) });
    let served = transport::Server::builder().add_service(ConfigServiceServer::new(service));
    tasks::spawn("server", served.serve_with_incoming(incoming));

    let args = ["ntonixctl", &server].into_iter().chain(words.split_whitespace());
    let cli = Cli::try_parse_from(args).unwrap();
    let mut out = Vec::new();
    let ended = cli.command.run(&cli.server, &mut out).await;
    (ended, String::from_utf8(out).unwrap())
}

/// What it said, when it ended well.
async fn told(words: &str) -> String {
    let (ended, told) = ctl(words).await;
    ended.unwrap();
    told
}

/// A file with this text, and the folder that keeps it alive.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.yaml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[tokio::test]
async fn an_apply_of_a_bad_file_tells_each_fault_with_its_line() {
    let (_folder, path) = file("routes:\n  - model: a\n    targets:\n      - pool: nobody\n");
    let (ended, told) = ctl(&format!("apply -f {} --no-wait", path.display())).await;
    let error = ended.unwrap_err().to_string();
    assert!(error.ends_with("x.yaml:4: routes[0].targets[0].pool: no pool is named \"nobody\""), "{error}");
    assert_eq!(told, "");
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let (ended, _) = ctl("get pool nobody").await;
    assert_eq!(ended.unwrap_err().to_string(), "there is no pools/nobody");
}

#[tokio::test]
async fn a_change_tells_its_revision_and_what_it_changed() {
    let (_folder, path) = file(TEXT);
    let applied = told(&format!("apply -f {} --no-wait", path.display())).await;
    assert_eq!(applied, "revision 2 by local at -\n  + pools/p\n");
    assert_eq!(told("rollback 1 --no-wait").await, "revision 2 by local at - (rollback to 1)\n  + pools/p\n");
    assert_eq!(told(&format!("plan -f {}", path.display())).await, "against revision 1\n  + pools/p\n");
}

#[tokio::test]
async fn every_page_is_read() {
    assert_eq!(told("get pools").await.lines().count(), 3);
    assert_eq!(told("history").await.lines().count(), 3);
    assert_eq!(told("history --limit 1").await.lines().count(), 2);
}

#[tokio::test]
async fn what_is_read_can_be_applied_again() {
    for words in ["export", "export -o json", "get pools -o yaml", "get pools -o json"] {
        let text = told(words).await;
        let read = crate::file::File::from_text(words, &text).unwrap();
        assert_eq!(read.draft(), crate::file::File::from_text("x", TEXT).unwrap().draft(), "{words}");
    }
    assert!(told("get pool p -o yaml").await.starts_with("name: p\n"));
}

#[tokio::test]
async fn a_revision_is_told_with_its_changes() {
    assert_eq!(told("history 2").await, "revision 2 by local at -\n  + pools/p\n");
}
