//! The key service.

use std::time::SystemTime;

use ntonix_proto::admin::v1::key_service_server::KeyService;
use ntonix_proto::admin::v1::{
    KeyServiceCreateRequest, KeyServiceCreateResponse, KeyServiceListRequest, KeyServiceListResponse,
    KeyServiceRevokeRequest, KeyServiceRevokeResponse,
};
use tonic::{Request, Response, Status};

use super::{Admin, Ownership, author, page};
use crate::change::{NewKey, render};
use crate::refusal::Refusal;

#[tonic::async_trait]
impl KeyService for Admin {
    async fn create(
        &self,
        request: Request<KeyServiceCreateRequest>,
    ) -> Result<Response<KeyServiceCreateResponse>, Status> {
        if self.ownership == Ownership::File {
            return Err(Refusal::OwnedByFile.into());
        }
        let author = author(&request);
        let KeyServiceCreateRequest { name, tenant, expires } = request.into_inner();
        let expires = expires.map(SystemTime::try_from).transpose();
        let expires = expires.map_err(|_| Refusal::field("expires", "is not a time that this system knows"))?;
        let (key, secret) = self.ledger.create_key(NewKey { name, tenant, expires, author }).await?;
        Ok(Response::new(KeyServiceCreateResponse { key: Some(render::key(&key)), secret }))
    }

    async fn list(&self, request: Request<KeyServiceListRequest>) -> Result<Response<KeyServiceListResponse>, Status> {
        const KIND: &str = "keys";
        let request = request.into_inner();
        let (size, after) = (page::size(request.page_size)?, page::place(KIND, &request.page_token)?);
        let keys = self.ledger.managed_keys();
        let asked = keys.all.iter().filter(|key| request.tenant.is_empty() || key.tenant == request.tenant);
        let (keys, next_page_token) = page::cut(KIND, asked, |key| &key.name, after.as_deref(), size);
        Ok(Response::new(KeyServiceListResponse { keys: keys.into_iter().map(render::key).collect(), next_page_token }))
    }

    /// Also where a file owns the configuration: a key that has leaked must be stopped.
    async fn revoke(
        &self,
        request: Request<KeyServiceRevokeRequest>,
    ) -> Result<Response<KeyServiceRevokeResponse>, Status> {
        let author = author(&request);
        let key = self.ledger.revoke_key(request.into_inner().name, author).await?;
        Ok(Response::new(KeyServiceRevokeResponse { key: Some(render::key(&key)) }))
    }
}
