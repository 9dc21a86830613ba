//! What the gateway does, seen from outside: real sockets, a scripted backend, no sleeps.
#![cfg(test)]

mod stage;

mod unary;
mod sse;
#[cfg(target_os = "linux")]
mod sockets;
mod backends;
mod requests;
mod cancel;
mod backpressure;
mod limits;
mod routing;
mod balancing;
mod models;
mod usage;
mod records;
mod headers;
mod deadlines;
mod heartbeats;
mod websocket;
mod planes;
mod tls;
mod change;
mod crowd;
mod drain;
#[cfg(target_os = "linux")]
mod handover;
mod files;
mod settings;
mod tools;
mod golden;
mod robustness;
mod clients;
#[cfg(target_os = "linux")]
mod vanished;
#[cfg(target_os = "linux")]
mod process;
mod small_frames;
mod overload;
mod architecture;
mod ctl;
mod all_in_one;
mod secured;
