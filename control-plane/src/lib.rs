//! The control plane: numbered revisions over gRPC, pushed to workers.
//!
//! A change meets the modules in this order: it comes in through [`door`] and [`admin`], is checked and written by
//! [`change`] into the [`store`], becomes a [`snapshot`], and is pushed by [`push`] to the workers.

pub mod settings;
pub mod refusal;
pub mod door;
pub mod admin;
pub mod change;
pub mod store;
pub mod snapshot;
pub mod push;
pub mod metrics;

mod plane;

pub use change::file::FileFault;
pub use plane::{Addresses, ControlPlane};
pub use settings::{ControlPlaneArgs, DoorArgs, Settings, TlsFiles};
