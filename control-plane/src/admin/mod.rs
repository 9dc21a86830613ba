//! The door of the operators: gRPC, gRPC-web, health and reflection on one port.

mod config;
mod keys;
mod origin;
mod page;
mod watch;
mod workers;

use std::sync::Arc;

use ntonix_proto::DESCRIPTORS;
use ntonix_proto::admin::v1::config_service_server::{self, ConfigServiceServer};
use ntonix_proto::admin::v1::key_service_server::{self, KeyServiceServer};
use ntonix_proto::admin::v1::worker_service_server::{self, WorkerServiceServer};
use ntonix_runtime::drain::Drain;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

pub use origin::SameOrigin;

use crate::change::Ledger;
use crate::door::Peer;
use crate::push::fleet::Fleet;

/// The largest request: a configuration of tens of thousands of resources.
const REQUEST_MAX: usize = 32 * 1024 * 1024;
/// The largest reply: a change shows each resource before and after.
const REPLY_MAX: usize = 3 * REQUEST_MAX;

/// Who may change the configuration through the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Whoever gets through the door.
    Callers,
    /// Nobody: a file owns it.
    File,
}

/// What the services work with; clones share it.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Revisions and keys.
    pub ledger: Arc<Ledger>,
    /// Workers.
    pub fleet: Arc<Fleet>,
    /// Ends the watches.
    pub drain: Drain,
    /// Who may change the configuration.
    pub ownership: Ownership,
}

/// All services of the admin port, their health told by `health`.
///
/// # Errors
/// When the descriptors that this program was built with cannot be read.
pub fn routes(admin: &Admin, health: &HealthReporter) -> Result<Routes, tonic_reflection::server::Error> {
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.clone()),
    );
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let sizes = (REQUEST_MAX, REPLY_MAX);
    Ok(Routes::new(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            ConfigServiceServer::new(admin.clone())
                .max_decoding_message_size(sizes.0)
                .max_encoding_message_size(sizes.1),
        )
        .add_service(KeyServiceServer::new(admin.clone()))
        .add_service(WorkerServiceServer::new(admin.clone())))
}

/// The names under which health is told, beside the empty one for the whole.
pub const SERVICES: [&str; 3] =
    [config_service_server::SERVICE_NAME, key_service_server::SERVICE_NAME, worker_service_server::SERVICE_NAME];

/// Who sends a request, for the record.
fn author<T>(request: &tonic::Request<T>) -> String {
    request.extensions().get::<Peer>().map_or("local", Peer::author).to_owned()
}
