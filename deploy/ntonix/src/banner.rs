//! What a person reads first: where to send traffic, where to manage it, and commands that work as printed.

use std::{io::Write as _, net::SocketAddr, path::Path};

use ntonix_control_plane::ControlPlane;
use ntonix_data_plane::Worker;

/// Prints it to stdout. `config` is the file that owns the configuration, if one does.
pub(crate) fn print(worker: &Worker, plane: &ControlPlane, ops: SocketAddr, config: Option<&Path>) {
    let admin = plane.addresses().admin;
    let text = addresses(worker, plane, ops) + &key(worker, admin, config) + &commands(worker, admin);
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
            "Keys are required: those under \"keys\" in {}. This makes another one:\n\
             \x20 cargo run --release -p ntonixctl -- key new --offline\n\
             \x20 export NTONIX_KEY=ntx_...\n\n",
            file.display()
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
    let client = worker.addresses().client;
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
