//! Several writers, writers that ask again, and readers that come back.

use ntonix_config::Source;
use ntonix_proto::admin::v1::config_service_client::ConfigServiceClient;
use ntonix_proto::admin::v1::{
    ConfigServiceApplyRequest, ConfigServiceApplyResponse, ConfigServiceWatchRequest, ConfigServiceWatchResponse,
};
use ntonix_tests::cluster::Cluster;
use ntonix_tests::wait::soon;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

/// A configuration that differs from others by a number.
fn draft(number: u32) -> String {
    format!("tenants: [{{ name: research, limits: {{ streams: {number} }} }}]\n")
}

fn request(number: u32) -> ConfigServiceApplyRequest {
    let source = Source::read(&draft(number), std::path::Path::new("/")).unwrap();
    ConfigServiceApplyRequest { config: Some(source.draft), ..ConfigServiceApplyRequest::default() }
}

fn client(cluster: &Cluster) -> ConfigServiceClient<Channel> {
    ConfigServiceClient::new(cluster.channel().unwrap())
}

async fn apply(cluster: &Cluster, request: ConfigServiceApplyRequest) -> Result<ConfigServiceApplyResponse, Status> {
    client(cluster).apply(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn of_two_writers_with_one_expected_revision_exactly_one_wins() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.apply(&draft(1)).await.unwrap();
    let expecting = |number| ConfigServiceApplyRequest { expected_revision: Some(1), ..request(number) };
    let (one, other) = tokio::join!(apply(&cluster, expecting(2)), apply(&cluster, expecting(3)));
    let (won, lost) = match (one, other) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        both => panic!("not exactly one won: {both:?}"),
    };
    assert_eq!(won.revision.unwrap().number, 2);
    assert_eq!(lost.code(), Code::Aborted);
    let details = lost.get_details_error_info().unwrap();
    assert_eq!(details.reason, "REVISION_CONFLICT");
    assert_eq!(details.metadata["current_revision"], "2");

    // As an operator sees it: also of a plan, and nothing is written.
    cluster.terminal().save("late.yaml", &draft(4)).unwrap();
    for command in ["apply", "plan"] {
        let told = cluster.ctl(&format!("{command} -f late.yaml --expected-revision 1")).await.unwrap();
        let told = told.failed(1).unwrap();
        assert!(told.contains("the newest revision is 2, not the expected one"), "{told}");
    }
    assert_eq!(cluster.plane_metric("ntonix_control_revision").await.unwrap(), 2.0);
    cluster.ctl("apply -f late.yaml --expected-revision 2").await.unwrap().done().unwrap();
}

#[tokio::test]
async fn a_request_asked_again_gets_the_same_answer_also_after_a_kill() {
    let mut cluster = Cluster::start().await.unwrap();
    let asked = |number| ConfigServiceApplyRequest { request_id: "deploy-7".to_owned(), ..request(number) };
    let first = apply(&cluster, asked(1)).await.unwrap();
    // Killed as soon as it is acknowledged: what was acknowledged is on disk.
    cluster.kill_plane().await.unwrap();
    cluster.start_plane().await.unwrap();
    assert_eq!(apply(&cluster, asked(1)).await.unwrap(), first);
    apply(&cluster, request(2)).await.unwrap();
    assert_eq!(apply(&cluster, asked(1)).await.unwrap(), first);
    assert_eq!(cluster.plane_metric("ntonix_control_revision").await.unwrap(), 2.0);

    let other = apply(&cluster, asked(3)).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument, "{other}");
    assert!(other.message().contains("request_id"), "{other}");
}

#[tokio::test]
async fn no_acknowledged_revision_is_lost_when_the_control_plane_is_killed() {
    let mut cluster = Cluster::start().await.unwrap();
    for number in 1..=3 {
        let applied = apply(&cluster, request(number)).await.unwrap();
        assert_eq!(applied.revision.unwrap().number, u64::from(number));
        cluster.kill_plane().await.unwrap();
        cluster.start_plane().await.unwrap();
    }
    let exported = cluster.ctl("export").await.unwrap().done().unwrap();
    assert!(exported.contains("streams: 3"), "{exported}");
    let history = cluster.ctl("history").await.unwrap().done().unwrap();
    assert_eq!(history.lines().count(), 4, "{history}");
}

/// The next revision of a watch, bookmarks left out.
async fn next(watch: &mut Streaming<ConfigServiceWatchResponse>) -> Result<ConfigServiceWatchResponse, Status> {
    loop {
        let step = soon("a step of the watch", watch.message()).await.unwrap()?;
        let step = step.ok_or_else(|| Status::unavailable("the watch has ended"))?;
        if step.revision.is_some() {
            return Ok(step);
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_after_a_kill_where_it_was() {
    let mut cluster = Cluster::start().await.unwrap();
    let screen = cluster.terminal().start("ntonixctl watch --after 0").unwrap();
    let from = |after: u64| ConfigServiceWatchRequest { after_revision: Some(after), bookmark_every: None };
    let mut watch = client(&cluster).watch(from(0)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    for number in 1..=2 {
        apply(&cluster, request(number)).await.unwrap();
        seen.push(next(&mut watch).await.unwrap().current_revision);
    }
    screen.shown("revision 2 by local at ").await.unwrap();

    cluster.kill_plane().await.unwrap();
    assert!(next(&mut watch).await.is_err());
    screen.shown("the control plane is away; trying again\n").await.unwrap();
    cluster.start_plane().await.unwrap();
    for number in 3..=4 {
        apply(&cluster, request(number)).await.unwrap();
    }
    let mut watch = client(&cluster).watch(from(*seen.last().unwrap())).await.unwrap().into_inner();
    for _ in 3..=4 {
        let step = next(&mut watch).await.unwrap();
        assert_eq!((step.changes.len(), step.changes[0].resource.as_str()), (1, "tenants/research"));
        seen.push(step.current_revision);
    }
    assert_eq!(seen, [1, 2, 3, 4]);
    screen.shown("revision 4 by local at ").await.unwrap();
    let shown = screen.output();
    for number in 1..=4 {
        assert_eq!(shown.matches(&format!("revision {number} by local at ")).count(), 1, "{shown}");
    }
}
