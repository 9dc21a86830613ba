//! The config service.

use ntonix_config::{Draft, to_resources};
use ntonix_proto::admin::v1::config_service_server::ConfigService;
use ntonix_proto::admin::v1::{
    ConfigServiceApplyRequest, ConfigServiceApplyResponse, ConfigServiceExportRequest, ConfigServiceExportResponse,
    ConfigServiceGetRequest, ConfigServiceGetResponse, ConfigServiceGetRevisionRequest,
    ConfigServiceGetRevisionResponse, ConfigServiceListRequest, ConfigServiceListResponse,
    ConfigServiceListRevisionsRequest, ConfigServiceListRevisionsResponse, ConfigServicePlanRequest,
    ConfigServicePlanResponse, ConfigServiceRollbackRequest, ConfigServiceRollbackResponse, ConfigServiceWatchRequest,
};
use tonic::{Request, Response, Status};

use super::{Admin, Ownership, author, page, watch};
use crate::change::{Change, What, render};
use crate::refusal::Refusal;

/// The kinds that can be listed, as in the names of resources.
const KINDS: [&str; 6] = ["pools", "routes", "tenants", "keys", "secrets", "limits"];

#[tonic::async_trait]
impl ConfigService for Admin {
    type WatchStream = watch::Stream;

    async fn plan(
        &self,
        request: Request<ConfigServicePlanRequest>,
    ) -> Result<Response<ConfigServicePlanResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.ledger.plan(&given(request.config)?, request.expected_revision)?))
    }

    async fn apply(
        &self,
        request: Request<ConfigServiceApplyRequest>,
    ) -> Result<Response<ConfigServiceApplyResponse>, Status> {
        let author = author(&request);
        let request = request.into_inner();
        let reply = self
            .change(Change {
                what: What::Draft(given(request.config)?),
                author,
                message: request.message,
                expected_revision: request.expected_revision,
                request_id: request.request_id,
                validate_only: request.validate_only,
            })
            .await?;
        Ok(Response::new(reply))
    }

    async fn get(
        &self,
        request: Request<ConfigServiceGetRequest>,
    ) -> Result<Response<ConfigServiceGetResponse>, Status> {
        let ConfigServiceGetRequest { name, revision } = request.into_inner();
        let content = self.ledger.content(revision).await?;
        let revision = content.revision.number;
        let found = to_resources(&content.draft).into_iter().find(|(known, _)| *known == name);
        match found {
            Some((_, resource)) => Ok(Response::new(ConfigServiceGetResponse { resource: Some(resource), revision })),
            None => Err(Refusal::NotFound(format!("revision {revision} has no resource \"{name}\"")).into()),
        }
    }

    async fn list(
        &self,
        request: Request<ConfigServiceListRequest>,
    ) -> Result<Response<ConfigServiceListResponse>, Status> {
        Ok(Response::new(self.list_resources(request.into_inner()).await?))
    }

    async fn export(
        &self,
        request: Request<ConfigServiceExportRequest>,
    ) -> Result<Response<ConfigServiceExportResponse>, Status> {
        let content = self.ledger.content(request.into_inner().revision).await?;
        let revision = Some(render::revision(&content.revision));
        Ok(Response::new(ConfigServiceExportResponse { config: Some(content.draft.clone()), revision }))
    }

    async fn list_revisions(
        &self,
        request: Request<ConfigServiceListRevisionsRequest>,
    ) -> Result<Response<ConfigServiceListRevisionsResponse>, Status> {
        Ok(Response::new(self.list_history(request.into_inner()).await?))
    }

    async fn get_revision(
        &self,
        request: Request<ConfigServiceGetRevisionRequest>,
    ) -> Result<Response<ConfigServiceGetRevisionResponse>, Status> {
        let step = self.ledger.step(request.into_inner().number).await?;
        Ok(Response::new(ConfigServiceGetRevisionResponse {
            revision: Some(render::revision(&step.revision)),
            changes: step.changes.into_iter().map(render::change).collect(),
        }))
    }

    async fn rollback(
        &self,
        request: Request<ConfigServiceRollbackRequest>,
    ) -> Result<Response<ConfigServiceRollbackResponse>, Status> {
        let author = author(&request);
        let request = request.into_inner();
        let reply = self
            .change(Change {
                what: What::Rollback(request.to),
                author,
                message: request.message,
                expected_revision: request.expected_revision,
                request_id: request.request_id,
                validate_only: request.validate_only,
            })
            .await?;
        let ConfigServiceApplyResponse { revision, changes, warnings } = reply;
        Ok(Response::new(ConfigServiceRollbackResponse { revision, changes, warnings }))
    }

    async fn watch(&self, request: Request<ConfigServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(watch::start(self, request.into_inner()).await?))
    }
}

impl Admin {
    async fn change(&self, change: Change) -> Result<ConfigServiceApplyResponse, Refusal> {
        match self.ownership {
            Ownership::Callers => self.ledger.change(change).await,
            Ownership::File => Err(Refusal::OwnedByFile),
        }
    }

    async fn list_resources(&self, request: ConfigServiceListRequest) -> Result<ConfigServiceListResponse, Refusal> {
        let kind = request.kind;
        if !kind.is_empty() && !KINDS.contains(&kind.as_str()) {
            return Err(Refusal::field("kind", format!("\"{kind}\" is none of {}", KINDS.join(", "))));
        }
        let size = page::size(request.page_size)?;
        let list = format!("resources/{kind}");
        let (revision, start) = match page::place(&list, &request.page_token)? {
            None => (request.revision, 0),
            Some(place) => pinned(&place).ok_or_else(page::no_token)?,
        };
        let content = match self.ledger.content(revision).await {
            Ok(content) => content,
            // Before the first revision there is nothing to list.
            Err(Refusal::NotFound(_)) if revision == 0 => return Ok(ConfigServiceListResponse::default()),
            Err(refusal) => return Err(refusal),
        };
        let revision = content.revision.number;
        let of_kind = |name: &str| kind.is_empty() || name.split('/').next() == Some(kind.as_str());
        let mut found = to_resources(&content.draft).into_iter().filter(|(name, _)| of_kind(name)).skip(start);
        let resources = found.by_ref().take(size).map(|(_, resource)| resource).collect();
        let next_page_token = match found.next() {
            Some(_) => page::token(&list, &format!("{revision} {}", start + size)),
            None => String::new(),
        };
        Ok(ConfigServiceListResponse { resources, next_page_token, revision })
    }

    async fn list_history(
        &self,
        request: ConfigServiceListRevisionsRequest,
    ) -> Result<ConfigServiceListRevisionsResponse, Refusal> {
        const LIST: &str = "revisions";
        let size = page::size(request.page_size)?;
        let below = match page::place(LIST, &request.page_token)? {
            None => u64::MAX,
            Some(place) => {
                let below = place.parse().map_err(|_| page::no_token())?;
                // The page before ended at this one, so there was an older one then.
                if below <= self.ledger.oldest().await? {
                    return Err(Refusal::NoLonger("the revisions of this page are no longer kept".to_owned()));
                }
                below
            }
        };
        let mut revisions = self.ledger.revisions(below, size + 1).await?;
        let mut next_page_token = String::new();
        if revisions.len() > size {
            revisions.truncate(size);
            next_page_token =
                revisions.last().map(|last| page::token(LIST, &last.number.to_string())).unwrap_or_default();
        }
        let revisions = revisions.iter().map(render::revision).collect();
        Ok(ConfigServiceListRevisionsResponse { revisions, next_page_token })
    }
}

fn given(config: Option<Draft>) -> Result<Draft, Refusal> {
    config.ok_or_else(|| Refusal::field("config", "must be given"))
}

/// The revision and the place in it that a token of a list of resources names.
fn pinned(place: &str) -> Option<(u64, usize)> {
    let (revision, start) = place.split_once(' ')?;
    Some((revision.parse().ok().filter(|revision| *revision > 0)?, start.parse().ok()?))
}
