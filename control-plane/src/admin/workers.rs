//! The worker service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ntonix_proto::admin::v1::worker_service_server::WorkerService;
use ntonix_proto::admin::v1::{
    Worker, WorkerServiceGetRequest, WorkerServiceGetResponse, WorkerServiceListRequest, WorkerServiceListResponse,
    WorkerServiceWatchRequest, WorkerServiceWatchResponse,
};
use ntonix_proto::sync::v1::SnapshotId;
use ntonix_runtime::tasks;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Admin, page};
use crate::refusal::Refusal;
use crate::snapshot::Snapshot;

/// Changes within this time are told together: when a whole fleet reconnects, each round would look at all of it.
const MERGED_FOR: Duration = Duration::from_millis(20);
/// Steps between a watch and its socket: what changes meanwhile is merged, so more would only be older.
const STEPS_MAX: usize = 16;

#[tonic::async_trait]
impl WorkerService for Admin {
    type WatchStream = ReceiverStream<Result<WorkerServiceWatchResponse, Status>>;

    async fn list(
        &self,
        request: Request<WorkerServiceListRequest>,
    ) -> Result<Response<WorkerServiceListResponse>, Status> {
        const KIND: &str = "workers";
        let request = request.into_inner();
        let (size, after) = (page::size(request.page_size)?, page::place(KIND, &request.page_token)?);
        let target = self.target();
        let all = self.fleet.list(target.as_ref()).into_iter();
        let (workers, next_page_token) = page::cut(KIND, all, |worker| &worker.name, after.as_deref(), size);
        let current_revision = revision(target.as_ref());
        Ok(Response::new(WorkerServiceListResponse { workers, next_page_token, current_revision }))
    }

    async fn get(
        &self,
        request: Request<WorkerServiceGetRequest>,
    ) -> Result<Response<WorkerServiceGetResponse>, Status> {
        let name = request.into_inner().name;
        match self.fleet.find(&name, self.target().as_ref()) {
            Some(worker) => Ok(Response::new(WorkerServiceGetResponse { worker: Some(worker) })),
            None => Err(Refusal::NotFound(format!("no worker \"{name}\" has connected")).into()),
        }
    }

    async fn watch(&self, _: Request<WorkerServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (steps, stream) = mpsc::channel(STEPS_MAX);
        tasks::spawn("watch-workers", watch(self.clone(), steps));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Admin {
    fn target(&self) -> Option<SnapshotId> {
        self.ledger.publisher().newest().map(|newest| newest.id.clone())
    }
}

fn revision(target: Option<&SnapshotId>) -> u64 {
    target.map_or(0, |target| target.revision)
}

type Steps = mpsc::Sender<Result<WorkerServiceWatchResponse, Status>>;

/// Sends workers that differ from what was sent of them, until the client leaves or the process ends.
async fn watch(admin: Admin, steps: Steps) {
    let mut changes = admin.fleet.subscribe();
    let mut newest = admin.ledger.publisher().subscribe();
    let mut sent = HashMap::new();
    let mut first = true;
    loop {
        changes.mark_unchanged();
        let target = newest.borrow_and_update().as_ref().map(|newest: &Arc<Snapshot>| newest.id.clone());
        let current_revision = revision(target.as_ref());
        for worker in admin.fleet.list(target.as_ref()) {
            if is_news(&mut sent, &worker) {
                let step = WorkerServiceWatchResponse { worker: Some(worker), current_revision };
                if steps.send(Ok(step)).await.is_err() {
                    return;
                }
            }
        }
        if std::mem::take(&mut first) {
            let step = WorkerServiceWatchResponse { worker: None, current_revision };
            if steps.send(Ok(step)).await.is_err() {
                return;
            }
        }
        // All are cancel-safe; whatever happened, the next round sends what is new.
        tokio::select! {
            _ = changes.changed() => sleep(MERGED_FOR).await,
            _ = newest.changed() => {}
            () = steps.closed() => return,
            () = admin.drain.draining() => {
                // The client may be gone or not reading: it learns of the end either way.
                let _ = steps.try_send(Err(Status::unavailable("the control plane ends")));
                return;
            }
        }
    }
}

/// Whether a worker differs from what was sent of it, heartbeats aside; if so, it is noted as sent.
fn is_news(sent: &mut HashMap<String, Worker>, worker: &Worker) -> bool {
    let shown = Worker { last_heard: None, ..worker.clone() };
    if sent.get(&worker.name) == Some(&shown) {
        return false;
    }
    sent.insert(worker.name.clone(), shown);
    true
}
