//! A whole control plane in this process, asked over its sockets.

mod config;
mod file;
mod keys;
mod strangers;
mod tls;
mod workers;

use std::time::Duration;

use ntonix_proto::admin::v1::config_service_client::ConfigServiceClient;
use ntonix_proto::admin::v1::key_service_client::KeyServiceClient;
use ntonix_proto::admin::v1::worker_service_client::WorkerServiceClient;
use ntonix_proto::admin::v1::{ConfigServiceApplyRequest, ConfigServiceApplyResponse};
use ntonix_proto::config::v1::{Backend, Pool, Route, Target, Tenant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::*;

/// Long enough for anything that does happen.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Running {
    plane: ControlPlane,
    directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |_| {}).await
    }

    async fn start_in(directory: tempfile::TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::new(directory.path().to_owned());
        change(&mut settings);
        Self { plane: ControlPlane::start(settings).await.unwrap(), directory }
    }

    async fn stop(self) -> tempfile::TempDir {
        tokio::time::timeout(PATIENCE, self.plane.shutdown(PATIENCE)).await.unwrap();
        self.directory
    }

    async fn restart(self) -> Self {
        Self::start_in(self.stop().await, |_| {}).await
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.plane.addresses().admin)).unwrap().connect_lazy()
    }

    fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel())
    }

    fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel())
    }

    fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel())
    }

    async fn apply(&self, draft: Draft) -> ConfigServiceApplyResponse {
        self.try_apply(asks(draft)).await.unwrap()
    }

    async fn try_apply(&self, request: ConfigServiceApplyRequest) -> Result<ConfigServiceApplyResponse, Status> {
        self.config().apply(request).await.map(tonic::Response::into_inner)
    }
}

fn asks(draft: Draft) -> ConfigServiceApplyRequest {
    ConfigServiceApplyRequest { config: Some(draft), ..Default::default() }
}

/// One route and one pool for each name, and a tenant.
fn draft(names: &[&str]) -> Draft {
    let pool = |name: &&str| Pool {
        name: (*name).to_owned(),
        backends: vec![Backend { name: "one".to_owned(), url: "http://127.0.0.1:9".to_owned(), ..Backend::default() }],
        ..Pool::default()
    };
    let route = |name: &&str| Route {
        model: format!("model-{name}"),
        targets: vec![Target { pool: (*name).to_owned(), ..Target::default() }],
        ..Route::default()
    };
    Draft {
        pools: names.iter().map(pool).collect(),
        routes: names.iter().map(route).collect(),
        tenants: vec![Tenant { name: "research".to_owned(), ..Tenant::default() }],
        ..Draft::default()
    }
}

fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|found| found.field.clone()).collect()
}
