//! What both planes stand on: tasks, drain, TLS, telemetry, probes.

pub mod settings;
pub mod telemetry;
pub mod lines;
pub mod tasks;
pub mod drain;
pub mod reload;
pub mod listen;
pub mod silence;
pub mod handover;
pub mod tls;
pub mod metrics;
pub mod probe;
pub mod backoff;
pub mod chain;
pub mod stamp;
pub mod json;
pub mod pages;
