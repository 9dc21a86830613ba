//! Revisions: conflicts, replays, dry runs, pages, rollbacks and watches.

use ntonix_config::resource_name;
use ntonix_proto::admin::v1::{
    ChangeAction, ConfigServiceExportRequest, ConfigServiceGetRequest, ConfigServiceGetRevisionRequest,
    ConfigServiceListRequest, ConfigServiceListRevisionsRequest, ConfigServicePlanRequest,
    ConfigServiceRollbackRequest, ConfigServiceWatchRequest, ConfigServiceWatchResponse,
};
use tonic::Streaming;

use super::*;

async fn watch(running: &Running, after_revision: Option<u64>) -> Streaming<ConfigServiceWatchResponse> {
    let bookmark_every = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let request = ConfigServiceWatchRequest { after_revision, bookmark_every };
    running.config().watch(request).await.unwrap().into_inner()
}

async fn step(stream: &mut Streaming<ConfigServiceWatchResponse>) -> ConfigServiceWatchResponse {
    tokio::time::timeout(PATIENCE, stream.message()).await.unwrap().unwrap().unwrap()
}

/// The next revision, bookmarks passed over.
async fn number(stream: &mut Streaming<ConfigServiceWatchResponse>) -> u64 {
    loop {
        if let Some(revision) = step(stream).await.revision {
            return revision.number;
        }
    }
}

#[tokio::test]
async fn a_conflict_is_aborted_with_the_newest_revision() {
    let running = Running::start().await;
    let expect = |expected, names: &[&str]| ConfigServiceApplyRequest {
        expected_revision: Some(expected),
        ..asks(draft(names))
    };
    running.try_apply(expect(0, &["a"])).await.unwrap();
    let status = running.try_apply(expect(0, &["b"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["current_revision"], "1");
    running.try_apply(expect(1, &["b"])).await.unwrap();
    let plan = ConfigServicePlanRequest { config: Some(draft(&["c"])), expected_revision: Some(1) };
    assert_eq!(running.config().plan(plan).await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn every_fault_of_a_bad_configuration_is_named_and_nothing_is_written() {
    let running = Running::start().await;
    let mut bad = draft(&["a"]);
    bad.routes[0].targets[0].pool = "nope".to_owned();
    bad.pools[0].backends[0].url = "not a url".to_owned();
    let found = fields(&running.try_apply(asks(bad.clone())).await.unwrap_err());
    assert!(found.contains(&"routes[0].targets[0].pool".to_owned()), "{found:?}");
    assert!(found.contains(&"pools[0].backends[0].url".to_owned()), "{found:?}");
    let dry = ConfigServiceApplyRequest { validate_only: true, ..asks(bad) };
    assert_eq!(fields(&running.try_apply(dry).await.unwrap_err()), found);
    assert_eq!(fields(&running.try_apply(ConfigServiceApplyRequest::default()).await.unwrap_err()), ["config"]);
    let long = ConfigServiceApplyRequest { message: "x".repeat(1025), request_id: "x".repeat(129), ..asks(draft(&[])) };
    assert_eq!(fields(&running.try_apply(long).await.unwrap_err()), ["message", "request_id"]);
    assert_eq!(running.plane.revision(), 0);
}

#[tokio::test]
async fn the_same_request_gets_the_same_answer_also_after_a_restart() {
    let running = Running::start().await;
    let request = ConfigServiceApplyRequest { request_id: "one".to_owned(), ..asks(draft(&["a"])) };
    let first = running.try_apply(request.clone()).await.unwrap();
    running.apply(draft(&["b"])).await;
    assert_eq!(running.try_apply(request.clone()).await.unwrap(), first);
    let unchanged = ConfigServiceApplyRequest { request_id: "two".to_owned(), ..asks(draft(&["b"])) };
    let nothing = running.try_apply(unchanged.clone()).await.unwrap();
    assert!(nothing.changes.is_empty());
    running.apply(draft(&["c"])).await;

    let running = running.restart().await;
    assert_eq!(running.try_apply(request.clone()).await.unwrap(), first);
    assert_eq!(running.try_apply(unchanged).await.unwrap(), nothing);
    let dry = ConfigServiceApplyRequest { validate_only: true, ..request.clone() };
    assert_eq!(running.try_apply(dry).await.unwrap(), first);
    let other = ConfigServiceApplyRequest { config: Some(draft(&["x"])), ..request };
    assert_eq!(fields(&running.try_apply(other).await.unwrap_err()), ["request_id"]);
    let rollback = ConfigServiceRollbackRequest { to: 1, request_id: "one".to_owned(), ..Default::default() };
    assert_eq!(fields(&running.config().rollback(rollback).await.unwrap_err()), ["request_id"]);
    assert_eq!(running.plane.revision(), 3);
}

#[tokio::test]
async fn a_dry_run_gives_the_real_answer_and_writes_nothing() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let request = ConfigServiceApplyRequest { message: "more".to_owned(), ..asks(draft(&["a", "b"])) };
    let mut dry =
        running.try_apply(ConfigServiceApplyRequest { validate_only: true, ..request.clone() }).await.unwrap();
    assert_eq!(running.plane.revision(), 1);
    let plan = ConfigServicePlanRequest { config: request.config.clone(), expected_revision: None };
    let plan = running.config().plan(plan).await.unwrap().into_inner();
    assert_eq!((&plan.changes, plan.base_revision), (&dry.changes, 1));
    let mut real = running.try_apply(request).await.unwrap();
    for reply in [&mut dry, &mut real] {
        reply.revision.as_mut().unwrap().time = None;
    }
    assert_eq!(dry, real);
    assert_eq!(real.revision.unwrap().author, "local");
}

#[tokio::test]
async fn a_configuration_equal_to_the_newest_makes_no_revision() {
    let running = Running::start().await;
    let first = running.apply(draft(&["a"])).await;
    let again = running.apply(draft(&["a"])).await;
    assert_eq!(again.revision, first.revision);
    assert!(again.changes.is_empty() && !first.changes.is_empty());
}

#[tokio::test]
async fn pages_show_one_revision_while_others_are_written() {
    let running = Running::start().await;
    let names: Vec<String> = (0..25).map(|number| format!("p{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    running.apply(draft(&names)).await;
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    for round in 0.. {
        let request = ConfigServiceListRequest { page_size: 7, page_token, ..Default::default() };
        let page = running.config().list(request).await.unwrap().into_inner();
        assert_eq!(page.revision, 1);
        seen.extend(page.resources.iter().filter_map(resource_name));
        running.apply(draft(&names[round + 1..])).await;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let pools = names.iter().map(|name| format!("pools/{name}"));
    let routes = names.iter().map(|name| format!("routes/model-{name}"));
    assert_eq!(seen, pools.chain(routes).chain(["tenants/research".to_owned()]).collect::<Vec<_>>());
}

#[tokio::test]
async fn lists_refuse_what_they_do_not_know() {
    let running = Running::start().await;
    let list = async |kind: &str, page_size: u32, page_token: &str, revision: u64| {
        let (kind, page_token) = (kind.to_owned(), page_token.to_owned());
        let request = ConfigServiceListRequest { kind, page_size, page_token, revision };
        running.config().list(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(list("", 0, "", 0).await.unwrap().resources.len(), 0);
    running.apply(draft(&["a", "b"])).await;
    assert_eq!(fields(&list("pool", 0, "", 0).await.unwrap_err()), ["kind"]);
    assert_eq!(fields(&list("pools", 1001, "", 0).await.unwrap_err()), ["page_size"]);
    assert_eq!(fields(&list("pools", 0, "made up", 0).await.unwrap_err()), ["page_token"]);
    assert_eq!(list("pools", 0, "", 9).await.unwrap_err().code(), Code::NotFound);
    let page = list("pools", 1, "", 0).await.unwrap();
    assert_eq!(fields(&list("routes", 1, &page.next_page_token, 0).await.unwrap_err()), ["page_token"]);
    assert_eq!(list("pools", 1, &page.next_page_token, 0).await.unwrap().next_page_token, "");
}

#[tokio::test]
async fn a_page_of_a_revision_that_is_gone_is_out_of_range() {
    let running = Running::start_in(tempfile::tempdir().unwrap(), |settings| settings.revisions_kept = 3).await;
    running.apply(draft(&["a", "b"])).await;
    let request = ConfigServiceListRequest { page_size: 1, ..Default::default() };
    let page = running.config().list(request.clone()).await.unwrap().into_inner();
    running.apply(draft(&["b"])).await;
    let history = ConfigServiceListRevisionsRequest { page_size: 1, ..Default::default() };
    let newest = running.config().list_revisions(history.clone()).await.unwrap().into_inner();
    for name in ["c", "d", "e", "f"] {
        running.apply(draft(&[name])).await;
    }
    let next = ConfigServiceListRequest { page_token: page.next_page_token, ..request };
    assert_eq!(running.config().list(next).await.unwrap_err().code(), Code::OutOfRange);
    let next = ConfigServiceListRevisionsRequest { page_token: newest.next_page_token, ..history };
    assert_eq!(running.config().list_revisions(next).await.unwrap_err().code(), Code::OutOfRange);
    let request = ConfigServiceWatchRequest { after_revision: Some(1), bookmark_every: None };
    assert_eq!(running.config().watch(request).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(number(&mut watch(&running, Some(0)).await).await, 4);
}

#[tokio::test]
async fn single_resources_and_whole_revisions_are_read() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    running.apply(draft(&["b"])).await;
    let get = async |name: &str, revision: u64| {
        let request = ConfigServiceGetRequest { name: name.to_owned(), revision };
        running.config().get(request).await.map(|reply| reply.into_inner().revision)
    };
    assert_eq!(get("pools/a", 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(get("pools/a", 1).await.unwrap(), 1);
    assert_eq!(get("routes/model-b", 0).await.unwrap(), 2);
    let export = async |revision| {
        let reply = running.config().export(ConfigServiceExportRequest { revision }).await;
        reply.map(|reply| reply.into_inner().config.unwrap())
    };
    assert_eq!(export(1).await.unwrap(), draft(&["a"]));
    assert_eq!(export(0).await.unwrap(), draft(&["b"]));
    assert_eq!(export(3).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_old_content() {
    let running = Running::start().await;
    let first = running.apply(draft(&["a"])).await.revision.unwrap();
    running.apply(draft(&["b"])).await;
    let roll = async |to: u64, expected_revision: Option<u64>| {
        let request = ConfigServiceRollbackRequest { to, expected_revision, ..Default::default() };
        running.config().rollback(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(fields(&roll(0, None).await.unwrap_err()), ["to"]);
    assert_eq!(roll(7, None).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(roll(1, Some(1)).await.unwrap_err().code(), Code::Aborted);
    let reply = roll(1, Some(2)).await.unwrap();
    let revision = reply.revision.unwrap();
    assert_eq!((revision.number, revision.rollback_of, revision.digest), (3, 1, first.digest));
    assert_eq!(reply.changes.len(), 4);
    let request = ConfigServiceGetRevisionRequest { number: 3 };
    let step = running.config().get_revision(request).await.unwrap().into_inner();
    assert_eq!(step.changes, reply.changes);
    assert!(step.changes.iter().any(|change| change.action() == ChangeAction::Deleted && change.resource == "pools/b"));
}

#[tokio::test]
async fn history_is_listed_newest_first_in_pages() {
    let running = Running::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        running.apply(draft(&[name])).await;
    }
    let (mut numbers, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ConfigServiceListRevisionsRequest { page_size: 2, page_token };
        let page = running.config().list_revisions(request).await.unwrap().into_inner();
        numbers.extend(page.revisions.iter().map(|revision| revision.number));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn a_watch_shows_every_revision_from_where_it_resumes() {
    let running = Running::start().await;
    let mut from_the_start = watch(&running, Some(0)).await;
    for name in ["a", "b", "c"] {
        running.apply(draft(&[name])).await;
    }
    for expected in 1..=3 {
        assert_eq!(number(&mut from_the_start).await, expected);
    }
    let mut resumed = watch(&running, Some(1)).await;
    let first = step(&mut resumed).await;
    assert_eq!((first.revision.unwrap().number, first.current_revision, first.changes.len()), (2, 2, 4));
    assert_eq!(number(&mut resumed).await, 3);
    let mut from_now = watch(&running, None).await;
    assert_eq!(number(&mut from_now).await, 3);
    running.apply(draft(&["d"])).await;
    for stream in [&mut from_the_start, &mut resumed, &mut from_now] {
        assert_eq!(number(stream).await, 4);
    }
    let bookmark = step(&mut from_now).await;
    assert_eq!((bookmark.revision, bookmark.current_revision), (None, 4));
}

#[tokio::test]
async fn a_watch_that_cannot_begin_says_so() {
    let running = Running::start().await;
    let watch = async |after, seconds| {
        let bookmark_every = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = ConfigServiceWatchRequest { after_revision: Some(after), bookmark_every };
        running.config().watch(request).await.unwrap_err()
    };
    assert_eq!(watch(5, 10).await.code(), Code::OutOfRange);
    assert_eq!(fields(&watch(0, 0).await), ["bookmark_every"]);
    assert_eq!(fields(&watch(0, -1).await), ["bookmark_every"]);
}

#[tokio::test]
async fn the_end_of_the_process_ends_watches_with_a_word() {
    let running = Running::start().await;
    let mut stream = watch(&running, Some(0)).await;
    running.stop().await;
    let status = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let second = running.apply(draft(&["b"])).await.revision;
    let running = running.restart().await;
    let reply = running.config().export(ConfigServiceExportRequest::default()).await.unwrap().into_inner();
    assert_eq!((reply.config.unwrap(), reply.revision), (draft(&["b"]), second));
    assert_eq!(number(&mut watch(&running, Some(0)).await).await, 1);
}

#[tokio::test]
async fn a_taken_port_and_bad_settings_keep_it_from_starting() {
    let running = Running::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(directory.path().to_owned());
    settings.admin = running.plane.addresses().admin;
    let error = ControlPlane::start(settings).await.unwrap_err();
    assert!(error.to_string().contains("--admin: cannot listen on"), "{error}");
    let mut settings = Settings::new(directory.path().to_owned());
    settings.sync = "0.0.0.0:0".parse().unwrap();
    let error = ControlPlane::start(settings).await.unwrap_err();
    assert!(error.to_string().contains("--sync-ca must be given"), "{error}");
    assert!(ControlPlane::start(Settings::new(running.directory.path().to_owned())).await.is_err());
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_leaves_only_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::change::tests::Flawed::open(directory.path(), Duration::ZERO);
    let settings = Settings::new(directory.path().to_owned());
    let running = Running { plane: ControlPlane::start_with(settings, store.clone()).await.unwrap(), directory };
    running.apply(draft(&["a"])).await;
    store.break_syncs();
    let status = running.try_apply(asks(draft(&["b"]))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let failure = tokio::time::timeout(PATIENCE, running.plane.finished()).await.unwrap();
    assert_eq!(failure.to_string(), "the store is broken: fsync failed");
    assert!(matches!(running.plane.readiness(), Readiness::NotReady(_)));
    assert_eq!(running.restart().await.plane.revision(), 1);
}

#[tokio::test]
async fn health_reflection_metrics_and_readiness_tell_what_is_there() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(running.channel());
    for service in ["", "ntonix.admin.v1.ConfigService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};
    let symbol = MessageRequest::FileContainingSymbol("ntonix.admin.v1.ConfigService".to_owned());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let stream = ServerReflectionClient::new(running.channel())
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap();
    let answer = stream.into_inner().message().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains("FileDescriptorResponse"));
    let text = running.plane.metrics_text();
    for line in ["ntonix_control_revision 1", "ntonix_control_commits_total 1", "ntonix_control_commit_seconds_count 1"]
    {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert_eq!(running.plane.readiness(), Readiness::Ready("revision 1, 0 of 0 workers up to date".to_owned()));
}

/// A request as a browser sends it: gRPC-web over HTTP/1.1.
async fn from_a_browser(running: &Running, origin: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = running.plane.addresses().admin;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /ntonix.admin.v1.ConfigService/List HTTP/1.1\r\nhost: {address}\r\norigin: {origin}\r\n\
         content-type: application/grpc-web+proto\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[0; 5]).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn browsers_are_served_over_grpc_web_unless_a_strange_page_sends_them() {
    let running = Running::start().await;
    let reply = from_a_browser(&running, "http://localhost:5173").await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("grpc-status:0"), "{reply}");
    let reply = from_a_browser(&running, "http://evil.test:7070").await;
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
}
