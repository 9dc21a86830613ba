//! Managed keys.

use ntonix_config::KeyDigest;
use ntonix_proto::admin::v1::{
    ConfigServiceRollbackRequest, KeyServiceCreateRequest, KeyServiceCreateResponse, KeyServiceListRequest,
    KeyServiceRevokeRequest, ManagedKey,
};

use super::*;

async fn create(running: &Running, name: &str, tenant: &str) -> Result<KeyServiceCreateResponse, Status> {
    let request = KeyServiceCreateRequest { name: name.to_owned(), tenant: tenant.to_owned(), expires: None };
    running.keys().create(request).await.map(tonic::Response::into_inner)
}

async fn revoke(running: &Running, name: &str) -> Result<ManagedKey, Status> {
    let request = KeyServiceRevokeRequest { name: name.to_owned() };
    running.keys().revoke(request).await.map(|reply| reply.into_inner().key.unwrap())
}

#[tokio::test]
async fn a_key_that_cannot_be_made_says_why() {
    let running = Running::start().await;
    assert_eq!(create(&running, "bob", "research").await.unwrap_err().code(), Code::NotFound);
    let mut with_key = draft(&["a"]);
    with_key.keys.push(ntonix_proto::config::v1::Key {
        name: "alice".to_owned(),
        tenant: "research".to_owned(),
        digest: KeyDigest::of(b"x").to_string(),
        expires: None,
    });
    running.apply(with_key).await;
    assert_eq!(create(&running, "bob", "nobody").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(create(&running, "alice", "research").await.unwrap_err().code(), Code::AlreadyExists);
    for name in ["", "-bob", "Bob", "b b", &"x".repeat(64)] {
        assert_eq!(fields(&create(&running, name, "research").await.unwrap_err()), ["name"], "{name}");
    }
    let past = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let request = KeyServiceCreateRequest { name: "bob".to_owned(), tenant: "research".to_owned(), expires: past };
    assert_eq!(fields(&running.keys().create(request).await.unwrap_err()), ["expires"]);
    assert_eq!(revoke(&running, "bob").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_key_is_shown_once_and_revoked_for_good() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let made = create(&running, "bob", "research").await.unwrap();
    assert!(made.secret.starts_with("ntx_") && made.secret.len() == 47);
    let key = made.key.unwrap();
    assert_eq!(key.digest, KeyDigest::of(made.secret.as_bytes()).to_string());
    assert_eq!(create(&running, "bob", "research").await.unwrap_err().code(), Code::AlreadyExists);
    let revoked = revoke(&running, "bob").await.unwrap();
    assert!(revoked.revoked.is_some());

    let running = running.restart().await;
    assert_eq!(revoke(&running, "bob").await.unwrap(), revoked);
    assert_eq!(create(&running, "bob", "research").await.unwrap_err().code(), Code::AlreadyExists);
    let rollback = ConfigServiceRollbackRequest { to: 1, ..Default::default() };
    running.apply(draft(&["b"])).await;
    running.config().rollback(rollback).await.unwrap();
    let listed = running.keys().list(KeyServiceListRequest::default()).await.unwrap().into_inner().keys;
    assert_eq!(listed, [ManagedKey { revoked: revoked.revoked, ..key }]);
}

#[tokio::test]
async fn keys_are_listed_by_name_and_tenant_in_pages() {
    let running = Running::start().await;
    let mut two_tenants = draft(&["a"]);
    two_tenants.tenants.push(Tenant { name: "other".to_owned(), ..Tenant::default() });
    running.apply(two_tenants).await;
    for (name, tenant) in [("d", "research"), ("a", "research"), ("c", "other"), ("b", "research")] {
        create(&running, name, tenant).await.unwrap();
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = KeyServiceListRequest { tenant: "research".to_owned(), page_size: 2, page_token };
        let page = running.keys().list(request).await.unwrap().into_inner();
        names.extend(page.keys.into_iter().map(|key| key.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "d"]);
}
