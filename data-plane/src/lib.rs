//! A worker: takes client traffic, picks a backend, relays the stream.
//!
//! Modules in the order in which a request meets them, then those that bring the configuration in.

mod exchange;
mod refusal;

mod listener;
mod edge;
mod policy;
mod routing;
mod access;
mod balance;
mod upstream;
mod relay;

mod live;
mod sync;
mod file;
mod metrics;
mod usage;
mod ops;
mod settings;
mod sockets;
mod succession;
mod worker;

pub mod steps;

/// What a worker makes of the frames of the control plane, without sockets and clocks: for simulations of both sides.
pub mod pushed {
    pub use crate::sync::{
        session::{Action, Session},
        snapshot::Snapshot,
    };
}

pub use crate::{
    file::FileFault,
    settings::{ConfigOrigin, DataPlaneArgs, OriginArgs, Settings, SyncTls, TrafficArgs},
    worker::{Addresses, Worker},
};
