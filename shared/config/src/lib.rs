//! The configuration: from what a person wrote to what cannot be wrong. Pure: no IO, no clock.
//!
//! A [`Source`] is the file, a [`Draft`] what it says, a [`Config`] what survived [`validate`]. What is wrong on the
//! way is a list of [`Fault`]s, never only the first. Both planes use the same code, so that what the control plane
//! accepted the worker accepts too.

mod fault;
mod nearest;
mod schema;
mod tree;
mod scalar;
mod draft;
mod write;
mod key;
mod model;
mod url;
mod config;
mod validate;
mod resources;
mod diff;

#[cfg(test)]
mod fuzz;

pub use config::{
    Backend, Balance, Breaker, Config, Deadlines, Dialect, Health, Key, Limits, Pool, Route, Secret, SecretSource,
    Target, Tenant, Warning,
};
pub use diff::{Action, Change, diff};
pub use draft::Source;
pub use fault::{Fault, Faults};
pub use key::{KeyDigest, SecretValue, key_from_entropy};
pub use model::{Glob, ModelPattern};
pub use nearest::nearest;
pub use resources::{MANAGED_KEYS, from_resources, resource_name, snapshot_digest, to_resources};
pub use url::BackendUrl;
pub use validate::validate;
pub use write::{resource_to_json, resource_to_yaml, to_json, to_yaml};

/// What a person wrote, before anybody checked it.
pub type Draft = ntonix_proto::config::v1::Config;
