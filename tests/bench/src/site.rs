//! The configuration that rows are measured with.

use std::net::SocketAddr;

use anyhow::Context as _;
use ntonix_config::{Config, Draft, KeyDigest, validate};
use ntonix_proto::config::v1::{Backend, Key, Pool, Route, Target, Tenant, TenantLimits};

/// How much of everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) routes: u32,
    pub(crate) keys: u32,
    /// Of the one pool.
    pub(crate) backends: u32,
}

pub(crate) const SMALL: Site = Site { routes: 10, keys: 10, backends: 1 };
pub(crate) const LARGE: Site = Site { routes: 10_000, keys: 100_000, backends: 1 };

const TENANTS: u32 = 20;
/// Both are more than a bench asks for: they are counted, and never reached.
const REQUESTS_PER_MINUTE: u32 = 10_000_000;
const STREAMS: u32 = 20_000;

// === impl Site ===

impl Site {
    /// The configuration, with the first backend at `address`; nobody asks the others.
    pub(crate) fn config(self, address: SocketAddr) -> anyhow::Result<Config> {
        let url = |number: u32| match number {
            0 => format!("http://{address}"),
            _ => format!("http://backend-{number}.example:8000"),
        };
        let backend = |number| Backend { name: format!("b-{number}"), url: url(number), ..Backend::default() };
        let pool =
            Pool { name: "answers".to_owned(), backends: (0..self.backends).map(backend).collect(), ..Pool::default() };
        let draft = Draft {
            pools: vec![pool],
            routes: (0..self.routes).map(route).collect(),
            tenants: (0..TENANTS).map(tenant).collect(),
            keys: (0..self.keys).map(key).collect(),
            ..Draft::default()
        };
        validate(&draft).context("a configuration that is no good")
    }

    /// A model in the middle of the routes.
    pub(crate) fn model(self) -> String {
        nth_model(self.routes / 2)
    }

    /// The secret of a key in the middle.
    pub(crate) fn key(self) -> String {
        nth_secret(self.keys / 2)
    }
}

fn route(number: u32) -> Route {
    Route {
        model: nth_model(number),
        targets: vec![Target { pool: "answers".to_owned(), ..Target::default() }],
        ..Route::default()
    }
}

fn tenant(number: u32) -> Tenant {
    let limits = TenantLimits { requests_per_minute: Some(REQUESTS_PER_MINUTE), streams: Some(STREAMS) };
    Tenant { name: format!("tenant-{number}"), limits: Some(limits), ..Tenant::default() }
}

fn key(number: u32) -> Key {
    Key {
        name: format!("key-{number}"),
        tenant: format!("tenant-{}", number % TENANTS),
        digest: KeyDigest::of(nth_secret(number).as_bytes()).to_string(),
        ..Key::default()
    }
}

pub(crate) fn nth_model(number: u32) -> String {
    format!("model-{number:06}")
}

pub(crate) fn nth_secret(number: u32) -> String {
    format!("ntx_{number:043}")
}
