//! Who is waited for, and what is told of it; with a control plane of a few lines at the other end.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use ntonix_proto::admin::v1::{
    WorkerFault, WorkerServiceGetRequest, WorkerServiceGetResponse, WorkerServiceListRequest,
    WorkerServiceListResponse, WorkerServiceWatchResponse,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use ntonix_runtime::tasks;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::*;
use crate::connect::{ServerArgs, TlsArgs, parse_url};

fn worker(name: &str, state: WorkerState, running: u64, refused: u64) -> Worker {
    let faults = if refused > 0 || state == WorkerState::Degraded {
        vec![WorkerFault { path: "secrets[0].from".to_owned(), reason: "is not set".to_owned() }]
    } else {
        Vec::new()
    };
    Worker {
        name: name.to_owned(),
        state: state.into(),
        running_revision: running,
        refused_revision: refused,
        faults,
        ..Worker::default()
    }
}

fn complete() -> Rollout {
    Rollout { complete: true, ..Rollout::new(3) }
}

#[test]
fn a_refusal_is_told_with_its_reasons_and_fails() {
    let mut rollout = complete();
    let line = rollout.hear(&worker("w1", WorkerState::Refused, 2, 3)).unwrap();
    assert_eq!(line, "  w1 refuses it\n    secrets[0].from: is not set");
    assert_eq!(rollout.verdict(), Some(Verdict::Refused(vec!["w1".to_owned()])));
    let error = rollout.conclude(rollout.verdict().unwrap(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("refused by w1"));
}

#[test]
fn an_older_refusal_is_not_meant() {
    let mut rollout = complete();
    assert_eq!(rollout.hear(&worker("w1", WorkerState::Refused, 1, 2)), None);
    assert_eq!(rollout.verdict(), None);
}

#[test]
fn nothing_is_decided_before_every_worker_was_heard_of() {
    let mut rollout = Rollout::new(3);
    rollout.hear(&worker("w1", WorkerState::UpToDate, 3, 0));
    assert_eq!(rollout.verdict(), None);
    rollout.complete = true;
    assert_eq!(rollout.verdict(), Some(Verdict::Taken));
}

#[test]
fn out_of_time_names_who_is_late_and_who_refused() {
    let mut rollout = complete();
    rollout.hear(&worker("w1", WorkerState::Applying, 2, 0));
    rollout.hear(&worker("w2", WorkerState::Refused, 2, 3));
    let error = rollout.out_of_time(Duration::from_secs(30)).unwrap_err().to_string();
    assert_eq!(error, "revision 3 is stored, but after 30s not yet taken by w1; refused by w2");
}

#[test]
fn each_worker_is_told_once_when_it_takes_the_revision() {
    let mut rollout = complete();
    assert_eq!(rollout.hear(&worker("w1", WorkerState::Applying, 2, 0)), None);
    assert_eq!(
        rollout.hear(&worker("w2", WorkerState::Degraded, 3, 0)).unwrap(),
        "  w2 runs it\n    secrets[0].from: is not set"
    );
    assert_eq!(rollout.verdict(), None);
    assert_eq!(rollout.hear(&worker("w1", WorkerState::UpToDate, 3, 0)).unwrap(), "  w1 runs it");
    assert_eq!(rollout.hear(&worker("w1", WorkerState::UpToDate, 3, 0)), None);
    assert_eq!(rollout.verdict(), Some(Verdict::Taken));
}

#[test]
fn nobody_waits_for_a_worker_that_left() {
    let mut rollout = complete();
    rollout.hear(&worker("w1", WorkerState::Applying, 2, 0));
    assert_eq!(rollout.hear(&worker("w1", WorkerState::Disconnected, 2, 0)).unwrap(), "  w1 has left");
    assert_eq!(rollout.verdict(), Some(Verdict::Nobody));
    assert_eq!(complete().verdict(), Some(Verdict::Nobody));
}

/// A control plane that tells these workers, `None` for the end of the first round, and then keeps silent or ends.
#[derive(Clone)]
struct Telling {
    steps: Vec<Option<Worker>>,
    ends: bool,
}

#[tonic::async_trait]
impl WorkerService for Telling {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WorkerServiceWatchResponse, Status>> + Send>>;

    async fn list(&self, _: Request<WorkerServiceListRequest>) -> Result<Response<WorkerServiceListResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn get(&self, _: Request<WorkerServiceGetRequest>) -> Result<Response<WorkerServiceGetResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn watch(&self, _: Request<WorkerServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let steps = self.steps.clone().into_iter();
        let steps = stream::iter(steps.map(|worker| Ok(WorkerServiceWatchResponse { worker, current_revision: 3 })));
        Ok(Response::new(if self.ends { steps.boxed() } else { steps.chain(stream::pending()).boxed() }))
    }
}

/// Follows revision 3 on such a control plane: how it ended, and what was told.
async fn followed(steps: Vec<Option<Worker>>, ends: bool, patience: Duration) -> (anyhow::Result<()>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = parse_url(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let service = WorkerServiceServer::new(Telling { steps, ends });
    let incoming =
        stream::unfold(listener, |listener| async { Some((listener.accept().await.map(|(io, _)| io), listener)) });
    tasks::spawn("server", tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let server = Server::connect(&ServerArgs { server, tls: TlsArgs::default() }).await.unwrap();
    let mut out = Vec::new();
    let ended = follow(&server, 3, patience, &mut out).await;
    (ended, String::from_utf8(out).unwrap())
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_control_plane_that_stops_is_told() {
    let (ended, _) = followed(vec![Some(worker("w1", WorkerState::Applying, 2, 0)), None], true, PATIENCE).await;
    assert!(ended.unwrap_err().to_string().contains("revision 3 is stored"));
}

#[tokio::test]
async fn a_late_worker_ends_the_patience() {
    let late = vec![Some(worker("w1", WorkerState::Applying, 2, 0)), None];
    let (ended, _) = followed(late, false, Duration::from_millis(100)).await;
    assert!(ended.unwrap_err().to_string().ends_with("not yet taken by w1"));
}

#[tokio::test]
async fn it_ends_with_the_last_worker() {
    let steps = vec![
        Some(worker("w1", WorkerState::Applying, 2, 0)),
        Some(worker("w2", WorkerState::UpToDate, 3, 0)),
        None,
        Some(worker("w1", WorkerState::UpToDate, 3, 0)),
    ];
    let (ended, told) = followed(steps, false, PATIENCE).await;
    ended.unwrap();
    assert_eq!(told, "  w2 runs it\n  w1 runs it\n");
}

#[tokio::test]
async fn without_workers_it_says_so_when_none_has_come() {
    let (ended, told) = followed(vec![None], false, Duration::from_millis(100)).await;
    ended.unwrap();
    assert_eq!(told, "  no worker is connected; those that come will take it\n");
}

#[tokio::test]
async fn a_worker_that_connects_a_moment_later_is_waited_for() {
    let steps =
        vec![None, Some(worker("w1", WorkerState::Applying, 0, 0)), Some(worker("w1", WorkerState::UpToDate, 3, 0))];
    let (ended, told) = followed(steps, false, PATIENCE).await;
    ended.unwrap();
    assert_eq!(told, "  w1 runs it\n");
}
