//! What a person reads first: where to send traffic, where to manage it, and commands that work as printed.

use std::{io::Write as _, net::SocketAddr};

use ntonix_control_plane::ControlPlane;
use ntonix_data_plane::Worker;

/// Prints it to stdout.
pub(crate) fn print(worker: &Worker, plane: &ControlPlane, ops: SocketAddr) {
    let text = text(worker, plane, ops);
    // A closed stdout is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn text(worker: &Worker, plane: &ControlPlane, ops: SocketAddr) -> String {
    let (client, admin) = (worker.addresses().client, plane.addresses().admin);
    let model = worker.models().into_iter().next();
    let mut text = format!(
        "\nNTONIX {version} serves\n\
         \x20 traffic     http://{client}{tls}\n\
         \x20 management  http://{admin} (gRPC)\n\
         \x20 workers     http://{sync} (gRPC)\n\
         \x20 operations  http://{ops}/readyz and /metrics\n\n",
        version = env!("CARGO_PKG_VERSION"),
        tls = worker.addresses().client_tls.map(|address| format!(" and https://{address}")).unwrap_or_default(),
        sync = plane.addresses().sync,
    );
    if !worker.is_open() {
        text.push_str(&format!(
            "Keys are required. Make one for a tenant of your configuration:\n\
             \x20 cargo run --release -p ntonixctl -- --server http://{admin} key create NAME --tenant TENANT\n\n"
        ));
    }
    let key = if worker.is_open() { "" } else { " -H 'authorization: Bearer KEY'" };
    let flag = if worker.is_open() { "" } else { " --key KEY" };
    let Some(model) = model else {
        text.push_str(&format!(
            "No backend has said yet which models it has. When one is up:\n\x20 curl{key} http://{client}/v1/models\n\n"
        ));
        return text;
    };
    text.push_str(&format!(
        "Try it:\n\
         \x20 curl -N http://{client}/v1/chat/completions{key} -H 'content-type: application/json' \\\n\
         \x20      -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n\
         \x20 cargo run --release -p ntonixctl -- chat --url http://{client}{flag} --model '{model}' \"hello\"\n\
         \x20 cargo run --release -p ntonixctl -- --server http://{admin} workers\n\n"
    ));
    text
}
