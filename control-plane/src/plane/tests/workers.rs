//! Workers that are only a script: what is pushed to them, and what is told of them.

use bytes::Bytes;
use ntonix_proto::admin::v1::{
    KeyServiceCreateRequest, KeyServiceRevokeRequest, Worker, WorkerServiceGetRequest, WorkerServiceListRequest,
    WorkerServiceWatchRequest, WorkerState,
};
use ntonix_proto::sync::v1::sync_service_client::SyncServiceClient;
use ntonix_proto::sync::v1::{
    Ack, Fault, Heartbeat, Hello, Nack, Resync, SnapshotId, SyncRequest, SyncResponse, Welcome, sync_request,
    sync_response::Frame,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;
use crate::snapshot::delta::tests::apply as apply_frames;

/// A worker that says what the test says.
pub(super) struct Script {
    out: mpsc::Sender<SyncRequest>,
    frames: Streaming<SyncResponse>,
    entries: Vec<(String, Bytes)>,
    running: Option<SnapshotId>,
}

impl Script {
    pub(super) async fn connect(running: &Running) -> Self {
        let (out, requests) = mpsc::channel(8);
        let address = format!("http://{}", running.plane.addresses().sync);
        let mut client = SyncServiceClient::connect(address).await.unwrap();
        let frames = client.sync(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { out, frames, entries: Vec::new(), running: None }
    }

    pub(super) async fn hello(&mut self, name: &str, instance: &str) -> Welcome {
        let hello = Hello {
            name: name.to_owned(),
            instance: instance.to_owned(),
            running: self.running.clone(),
            ..Hello::default()
        };
        self.say(sync_request::Frame::Hello(hello)).await;
        match self.hear().await {
            Frame::Welcome(welcome) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    pub(super) async fn say(&self, frame: sync_request::Frame) {
        self.out.send(SyncRequest { frame: Some(frame) }).await.unwrap();
    }

    pub(super) async fn hear(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.frames.message()).await.unwrap().unwrap().unwrap().frame.unwrap()
    }

    /// How the stream ended.
    pub(super) async fn end(&mut self) -> Code {
        loop {
            match tokio::time::timeout(PATIENCE, self.frames.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }

    /// Takes the next transition in and returns where it leads and how many chunks it had.
    pub(super) async fn transition(&mut self) -> (SnapshotId, usize) {
        let mut frames = Vec::new();
        loop {
            let frame = self.hear().await;
            match &frame {
                Frame::Heartbeat(_) => continue,
                Frame::Begin(begin) if !begin.base_digest.is_empty() => {
                    assert_eq!(Some(&begin.base_digest), self.running.as_ref().map(|running| &running.digest));
                }
                Frame::Begin(_) => self.entries.clear(),
                _ => {}
            }
            let target = match &frame {
                Frame::Commit(commit) => commit.target.clone(),
                _ => None,
            };
            frames.push(Bytes::from(SyncResponse { frame: Some(frame) }.encode_to_vec()));
            if let Some(target) = target {
                let (entries, promised) = apply_frames(std::mem::take(&mut self.entries), &frames);
                let digest = ntonix_config::snapshot_digest(entries.iter().map(|(n, b)| (n.as_str(), b.as_ref())));
                assert_eq!(promised, digest.as_slice());
                self.entries = entries;
                return (target, frames.len() - 2);
            }
        }
    }

    async fn ack(&mut self, id: SnapshotId) {
        self.running = Some(id.clone());
        self.say(sync_request::Frame::Ack(Ack { snapshot: Some(id), degraded: Vec::new() })).await;
    }

    fn names(&self) -> Vec<&str> {
        self.entries.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Waits until the worker service shows the worker in this state.
pub(super) async fn shown(running: &Running, name: &str, state: WorkerState) -> Worker {
    let mut stream = running.workers().watch(WorkerServiceWatchRequest {}).await.unwrap().into_inner();
    let find = async {
        loop {
            let step = stream.message().await.unwrap().unwrap();
            if let Some(worker) = step.worker.filter(|worker| worker.name == name && worker.state() == state) {
                return worker;
            }
        }
    };
    tokio::time::timeout(PATIENCE, find).await.unwrap()
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_hello_is_refused() {
    let running = Running::start().await;
    let mut script = Script::connect(&running).await;
    script.say(sync_request::Frame::Heartbeat(Heartbeat::default())).await;
    assert_eq!(script.end().await, Code::InvalidArgument);
    let mut script = Script::connect(&running).await;
    script.say(sync_request::Frame::Hello(Hello::default())).await;
    assert_eq!(script.end().await, Code::InvalidArgument, "a worker without a name");
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    script.say(sync_request::Frame::Hello(Hello::default())).await;
    assert_eq!(script.end().await, Code::InvalidArgument, "a second hello");
}

#[tokio::test]
async fn a_worker_gets_everything_then_only_differences() {
    let running = Running::start().await;
    running.apply(draft(&["a", "b"])).await;
    let mut script = Script::connect(&running).await;
    let welcome = script.hello("w", "1").await;
    let (first, _) = script.transition().await;
    assert_eq!(welcome.target.as_ref(), Some(&first));
    assert_eq!(welcome.heartbeat_interval.unwrap().seconds, 5);
    let all = ["pools/a", "pools/b", "routes/model-a", "routes/model-b", "tenants/research"];
    assert_eq!(script.names(), all);
    script.ack(first).await;
    let worker = shown(&running, "w", WorkerState::UpToDate).await;
    assert_eq!((worker.running_revision, worker.target_revision), (1, 1));
    assert!(worker.took.is_some());
    running.apply(draft(&["b"])).await;
    let (second, chunks) = script.transition().await;
    assert_eq!(chunks, 1);
    assert_eq!(script.names(), ["pools/b", "routes/model-b", "tenants/research"]);
    assert_eq!(shown(&running, "w", WorkerState::Applying).await.target_revision, 2);
    script.ack(second).await;
    shown(&running, "w", WorkerState::UpToDate).await;
}

#[tokio::test]
async fn who_is_up_to_date_is_sent_nothing_also_after_a_restart() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (id, _) = script.transition().await;
    script.ack(id.clone()).await;
    shown(&running, "w", WorkerState::UpToDate).await;
    let running = running.restart().await;
    let mut again = Script { running: Some(id.clone()), ..Script::connect(&running).await };
    assert_eq!(again.hello("w", "1").await.target, Some(id));
    let worker = shown(&running, "w", WorkerState::UpToDate).await;
    assert_eq!(worker.took, None);
    assert!(running.plane.metrics_text().contains("ntonix_control_pushes_total 0"));
}

#[tokio::test]
async fn what_was_deleted_while_a_worker_was_away_is_deleted_when_it_returns() {
    let running = Running::start().await;
    running.apply(draft(&["a", "b"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (id, _) = script.transition().await;
    script.ack(id.clone()).await;
    shown(&running, "w", WorkerState::UpToDate).await;
    let entries = std::mem::take(&mut script.entries);
    drop(script);
    shown(&running, "w", WorkerState::Disconnected).await;
    running.apply(draft(&["a"])).await;
    let mut again = Script { running: Some(id), entries, ..Script::connect(&running).await };
    again.hello("w", "1").await;
    again.transition().await;
    assert_eq!(again.names(), ["pools/a", "routes/model-a", "tenants/research"]);
}

#[tokio::test]
async fn while_one_transition_is_unanswered_only_the_newest_waits() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (first, _) = script.transition().await;
    for name in ["b", "c", "d"] {
        running.apply(draft(&[name])).await;
    }
    script.ack(first).await;
    let (next, _) = script.transition().await;
    assert_eq!(next.revision, 4);
    assert_eq!(script.names(), ["pools/d", "routes/model-d", "tenants/research"]);
}

#[tokio::test]
async fn a_refusal_is_shown_and_not_answered_with_the_same_again() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (first, _) = script.transition().await;
    script.ack(first).await;
    running.apply(draft(&["b"])).await;
    let before = script.entries.clone();
    let (second, _) = script.transition().await;
    script.entries = before;
    let faults = vec![Fault { path: "secrets[0].from".to_owned(), reason: "missing".to_owned() }];
    script.say(sync_request::Frame::Nack(Nack { snapshot: Some(second), faults })).await;
    let worker = shown(&running, "w", WorkerState::Refused).await;
    assert_eq!((worker.running_revision, worker.refused_revision, worker.target_revision), (1, 2, 2));
    assert_eq!(worker.faults[0].path, "secrets[0].from");
    assert!(running.plane.metrics_text().contains("ntonix_control_nacks_total 1"));
    running.apply(draft(&["c"])).await;
    let (third, _) = script.transition().await;
    assert_eq!(third.revision, 3, "the refused one is not sent again");
    script.ack(third).await;
    let worker = shown(&running, "w", WorkerState::UpToDate).await;
    assert!(worker.faults.is_empty() && worker.refused_revision == 0);
}

#[tokio::test]
async fn a_worker_that_lost_its_way_asks_for_everything() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (first, _) = script.transition().await;
    script.ack(first).await;
    running.apply(draft(&["b"])).await;
    script.transition().await;
    script.say(sync_request::Frame::Resync(Resync { reason: "digest".to_owned() })).await;
    script.running = None;
    let (second, chunks) = script.transition().await;
    assert_eq!((second.revision, chunks), (2, 1));
    assert_eq!(script.names(), ["pools/b", "routes/model-b", "tenants/research"]);
}

#[tokio::test]
async fn a_revoked_key_leaves_connected_workers_at_once() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    let (id, _) = script.transition().await;
    script.ack(id).await;
    let request = KeyServiceCreateRequest { name: "bob".to_owned(), tenant: "research".to_owned(), expires: None };
    running.keys().create(request).await.unwrap();
    let (id, _) = script.transition().await;
    assert_eq!((id.revision, id.keys_version), (1, 1));
    assert!(script.names().contains(&"managed-keys/bob"));
    script.ack(id).await;
    running.keys().revoke(KeyServiceRevokeRequest { name: "bob".to_owned() }).await.unwrap();
    let (id, _) = script.transition().await;
    assert_eq!((id.revision, id.keys_version), (1, 2));
    assert!(!script.names().contains(&"managed-keys/bob"));
}

#[tokio::test]
async fn a_worker_is_welcome_before_the_first_revision() {
    let running = Running::start().await;
    let mut script = Script::connect(&running).await;
    assert_eq!(script.hello("w", "1").await.target, None);
    shown(&running, "w", WorkerState::UpToDate).await;
    running.apply(draft(&["a"])).await;
    assert_eq!(script.transition().await.0.revision, 1);
}

#[tokio::test]
async fn a_second_stream_of_a_name_takes_its_place() {
    let running = Running::start().await;
    let mut old = Script::connect(&running).await;
    old.hello("w", "1").await;
    let mut new = Script::connect(&running).await;
    new.hello("w", "2").await;
    assert_eq!(old.end().await, Code::Aborted);
    let request = WorkerServiceGetRequest { name: "w".to_owned() };
    let worker = running.workers().get(request).await.unwrap().into_inner().worker.unwrap();
    assert_eq!(worker.instance, "2");
    let request = WorkerServiceGetRequest { name: "nobody".to_owned() };
    assert_eq!(running.workers().get(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn silence_is_noticed_and_heartbeats_are_sent() {
    let fast = |settings: &mut Settings| settings.heartbeat = Duration::from_millis(50);
    let running = Running::start_in(tempfile::tempdir().unwrap(), fast).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    assert!(matches!(script.hear().await, Frame::Heartbeat(_)));
    assert_eq!(script.end().await, Code::DeadlineExceeded);
    shown(&running, "w", WorkerState::Silent).await;
}

#[tokio::test]
async fn workers_are_listed_in_pages_and_told_once_in_a_watch() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut scripts = Vec::new();
    for name in ["c", "a", "b"] {
        let mut script = Script::connect(&running).await;
        script.hello(name, "1").await;
        scripts.push(script);
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = WorkerServiceListRequest { page_size: 2, page_token };
        let page = running.workers().list(request).await.unwrap().into_inner();
        assert_eq!(page.current_revision, 1);
        names.extend(page.workers.into_iter().map(|worker| worker.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
    let mut stream = running.workers().watch(WorkerServiceWatchRequest {}).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(worker) = stream.message().await.unwrap().unwrap().worker {
        told.push(worker.name);
    }
    assert_eq!(told, ["a", "b", "c"]);
}

#[tokio::test]
async fn the_end_of_the_process_sends_workers_away() {
    let running = Running::start().await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "1").await;
    running.stop().await;
    assert_eq!(script.end().await, Code::Unavailable);
}
