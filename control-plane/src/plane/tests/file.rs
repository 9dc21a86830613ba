//! A file that owns the configuration.

use ntonix_proto::admin::v1::{
    ConfigServiceExportRequest, ConfigServicePlanRequest, ConfigServiceRollbackRequest, KeyServiceCreateRequest,
};

use super::*;
use crate::FileFault;

const ONE: &str = r#"
pools:
  - name: a
    backends: [{ name: one, url: "http://127.0.0.1:9", ca: { file: ca.pem } }]
routes:
  - { model: m, targets: [{ pool: a }] }
"#;

async fn start(text: &str) -> anyhow::Result<Running> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ntonix.yaml");
    std::fs::write(&path, text).unwrap();
    let mut settings = Settings::new(directory.path().join("state"));
    settings.config = Some(path);
    Ok(Running { plane: ControlPlane::start(settings).await?, directory })
}

#[tokio::test]
async fn a_bad_file_keeps_it_from_starting_and_every_fault_is_named_with_its_line() {
    let error = start("pools: [{ name: a }]\nroutes:\n  - { model: m, targets: [{ pool: b }] }\n").await.unwrap_err();
    assert!(error.downcast_ref().is_some_and(FileFault::is_wrong_setting));
    let text = error.to_string();
    for part in ["pools[0].backends (line 1)", "routes[0].targets[0].pool (line 3)"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[tokio::test]
async fn the_file_is_the_first_revision_and_calls_may_only_read() {
    let running = start(ONE).await.unwrap();
    let config = running.config().export(ConfigServiceExportRequest::default()).await.unwrap().into_inner().config;
    let ca = config.unwrap().pools[0].backends[0].ca.clone().unwrap().file;
    assert_eq!(ca, running.directory.path().join("ca.pem").to_str().unwrap());
    let refused = [
        running.try_apply(asks(draft(&["x"]))).await.unwrap_err(),
        running.try_apply(ConfigServiceApplyRequest { validate_only: true, ..asks(draft(&["x"])) }).await.unwrap_err(),
        running.config().rollback(ConfigServiceRollbackRequest { to: 1, ..Default::default() }).await.unwrap_err(),
        running.keys().create(KeyServiceCreateRequest::default()).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    let plan = ConfigServicePlanRequest { config: Some(draft(&["x"])), expected_revision: None };
    assert!(!running.config().plan(plan).await.unwrap().into_inner().changes.is_empty());
    assert_eq!(running.plane.revision(), 1);
}

#[tokio::test]
async fn saving_the_file_applies_it() {
    let running = start(ONE).await.unwrap();
    let mut newest = running.plane.shared.ledger.publisher().subscribe();
    std::fs::write(running.directory.path().join("ntonix.yaml"), ONE.replace("model: m", "model: n")).unwrap();
    let second = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.id.revision == 2));
    tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_program_itself_may_still_apply() {
    let running = start(ONE).await.unwrap();
    let reply = running.plane.apply_draft(draft(&["x"]), "ntonix").await.unwrap();
    let revision = reply.revision.unwrap();
    assert_eq!((revision.number, revision.author.as_str()), (2, "ntonix"));
}
