//! What a person reads first: where to send traffic, where to manage it, and commands that work as printed.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use ntonix_control_plane::ControlPlane;
use ntonix_data_plane::Worker;

use crate::settings::NtonixArgs;

/// Prints it to stdout.
pub(crate) fn print(worker: &Worker, plane: &ControlPlane, ops: SocketAddr, args: &NtonixArgs) {
    let admin = plane.addresses().admin;
    let client = worker.addresses().client;
    let refuses_all = worker.is_open() && !client.ip().is_loopback() && !args.traffic.allow_anonymous;
    let how = if refuses_all {
        format!(
            "Every request gets 401: there are no keys yet, and others than this machine may reach {client}.\n\
             Configure keys, or start it with --allow-anonymous.\n\n"
        )
    } else {
        key(worker, admin, args.config.as_deref()) + &commands(worker, admin)
    };
    let text = addresses(worker, plane, ops) + &how;
    // A closed stdout is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn addresses(worker: &Worker, plane: &ControlPlane, ops: SocketAddr) -> String {
    format!(
        "\nNTONIX {version} serves\n\
         \x20 traffic     http://{client}{tls}\n\
         \x20 management  http://{admin} (gRPC)\n\
         \x20 workers     http://{sync} (gRPC)\n\
         \x20 operations  http://{ops}/readyz and /metrics\n\n",
        version = env!("CARGO_PKG_VERSION"),
        client = worker.addresses().client,
        tls = worker.addresses().client_tls.map(|address| format!(" and https://{address}")).unwrap_or_default(),
        admin = plane.addresses().admin,
        sync = plane.addresses().sync,
    )
}

/// How to come by a key, when one is needed.
fn key(worker: &Worker, admin: SocketAddr, config: Option<&Path>) -> String {
    match (worker.is_open(), config) {
        (true, _) => String::new(),
        (false, Some(file)) => format!(
            "Keys are required: those under \"keys\" in {file}. This makes another one:\n\
             \x20 cargo run --release -p ntonixctl -- key new --offline\n\
             It opens nothing until its digest stands in {file}, as that of a key there. Then:\n\
             \x20 export NTONIX_KEY=ntx_...\n\n",
            file = file.display()
        ),
        (false, None) => format!(
            "Keys are required. This makes one:\n\
             \x20 export NTONIX_KEY=$(cargo run --release -p ntonixctl -- --server http://{admin} \\\n\
             \x20      key create my-key --tenant {})\n\n",
            worker.any_tenant().unwrap_or_else(|| "TENANT".to_owned())
        ),
    }
}

fn commands(worker: &Worker, admin: SocketAddr) -> String {
    let client = from_here(worker.addresses().client);
    // ntonixctl reads NTONIX_KEY itself.
    let key = if worker.is_open() { "" } else { " -H \"authorization: Bearer $NTONIX_KEY\"" };
    let Some(model) = worker.models().into_iter().next() else {
        return format!(
            "No backend has said yet which models it has. When one is up:\n\x20 curl{key} http://{client}/v1/models\n\n"
        );
    };
    format!(
        "Try it:\n\
         \x20 curl -N http://{client}/v1/chat/completions{key} -H 'content-type: application/json' \\\n\
         \x20      -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n\
         \x20 cargo run --release -p ntonixctl -- chat --url http://{client} --model '{model}' \"hello\"\n\
         \x20 cargo run --release -p ntonixctl -- --server http://{admin} workers\n\n"
    )
}

/// Where this machine reaches a listener: one on every address is on loopback, too.
fn from_here(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_called_on_loopback() {
        for (listener, called) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(from_here(listener.parse().unwrap()).to_string(), called);
        }
    }
}
