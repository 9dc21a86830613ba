//! The committed Rust is what the .proto files say. `NTONIX_REGENERATE=1 cargo test -p ntonix-proto` renews it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the whole file is a test")]

use std::{env, fs, path::Path};

use prost::Message;

const PROTOS: [&str; 5] = [
    "ntonix/config/v1/config.proto",
    "ntonix/sync/v1/sync.proto",
    "ntonix/admin/v1/config_service.proto",
    "ntonix/admin/v1/key_service.proto",
    "ntonix/admin/v1/worker_service.proto",
];

/// Generates everything into `out`: one Rust file for each package, and the descriptors for reflection.
fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(PROTOS, [root]).expect("the protos compile");
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(out.join("descriptors.bin"), bare.encode_to_vec()).unwrap();
    tonic_prost_build::configure().bytes(".").out_dir(out).compile_fds(descriptors).unwrap();
}

#[test]
fn the_committed_code_is_what_the_protos_say() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    #[expect(clippy::disallowed_methods, reason = "the one switch of this test")]
    if env::var("NTONIX_REGENERATE").is_ok() {
        fs::create_dir_all(&committed).unwrap();
        generate(&committed);
        return;
    }
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path());
    for entry in fs::read_dir(fresh.path()).unwrap() {
        let entry = entry.unwrap();
        let was = fs::read(committed.join(entry.file_name())).unwrap_or_default();
        assert!(
            was == fs::read(entry.path()).unwrap(),
            "{} is stale: run `NTONIX_REGENERATE=1 cargo test -p ntonix-proto`",
            entry.file_name().display()
        );
    }
}
