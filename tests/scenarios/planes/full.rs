//! The control plane's disk is full: writes are refused, everything else goes on, and it recovers by itself.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use ntonix_tests::client::Ask;
use ntonix_tests::cluster::Cluster;
use ntonix_tests::mock_llm::MockLlm;
use ntonix_tests::sandbox;

use super::to;
use crate::stage::assert_fine;

/// Fills the disk up to its last byte.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for piece in [4096, 1] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![0; piece]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_space_again() {
    // Row P12, item 45.
    let (old, new) = (MockLlm::start().unwrap(), MockLlm::start().unwrap());
    let mut cluster = Cluster::without_plane().unwrap();
    let state = cluster.state_of("control-plane");
    fs::create_dir_all(&state).unwrap();
    let Some(wrapper) = sandbox::small_disk(&state, "4m") else { return };
    cluster.wrap_plane(&wrapper);
    cluster.start_plane().await.unwrap();
    let tenants = "tenants: [{ name: research }]\n";
    cluster.apply(&format!("{}{tenants}", to(&old))).await.unwrap();
    let key = cluster.ctl("key create bob --tenant research").await.unwrap().done().unwrap();
    let asks = Ask::chat().key(key.trim());

    let inside = state.strip_prefix("/").unwrap();
    let ballast = Path::new("/proc").join(cluster.plane_id().unwrap().to_string()).join("root").join(inside);
    let ballast = ballast.join("ballast");
    fill(&ballast);
    let changed = format!("{}{tenants}", to(&new));
    for _ in 0..3 {
        let told = cluster.try_apply(&changed, "").await.unwrap().failed(1).unwrap();
        assert!(told.contains("the disk is full; nothing was written"), "{told}");
        let told = cluster.ctl("key create alice --tenant research").await.unwrap().failed(1).unwrap();
        assert!(told.contains("the disk is full; nothing was written"), "{told}");
    }
    assert!(cluster.plane_log().unwrap().contains("The disk is full: writes are refused, reads and workers go on"));
    // Reads and pushes go on.
    let history = cluster.ctl("history").await.unwrap().done().unwrap();
    assert_eq!(history.lines().count(), 2, "{history}");
    assert!(cluster.ctl("export").await.unwrap().done().unwrap().contains(&old.url()));
    let worker = cluster.worker("w1").await.unwrap();
    worker.runs(1).await.unwrap();
    assert_fine(&worker.connect().await.unwrap().ask(asks.clone()).await.unwrap());

    fs::remove_file(&ballast).unwrap();
    cluster.apply(&changed).await.unwrap();
    worker.runs(2).await.unwrap();
    assert_fine(&worker.connect().await.unwrap().ask(asks.clone()).await.unwrap());
    assert_eq!((old.counts().attempts, new.counts().attempts), (1, 1));
    cluster.ctl("key create alice --tenant research").await.unwrap().done().unwrap();
}
