//! A worker that is only its half of `ntonix.sync.v1`, so that a test sees every frame.

use std::net::SocketAddr;

use ntonix_proto::sync::v1::sync_service_client::SyncServiceClient;
use ntonix_proto::sync::v1::{
    Ack, Hello, SnapshotId, SyncRequest, SyncResponse, Welcome, sync_request, sync_response::Frame,
};
use ntonix_tests::wait::soon;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Frames that wait to be sent.
const FRAMES_MAX: usize = 16;

/// A stream to the control plane.
pub(super) struct ScriptedWorker {
    frames: mpsc::Sender<SyncRequest>,
    replies: Streaming<SyncResponse>,
}

/// A transition, put together from its frames.
#[derive(Debug)]
pub(super) struct Transition {
    pub(super) base_digest: Vec<u8>,
    pub(super) target: SnapshotId,
    pub(super) upserts: Vec<String>,
    pub(super) deletes: Vec<String>,
}

// === impl ScriptedWorker ===

impl ScriptedWorker {
    /// Says hello and takes the welcome.
    pub(super) async fn connect(sync: SocketAddr, running: Option<SnapshotId>) -> (Self, Welcome) {
        let (frames, requests) = mpsc::channel(FRAMES_MAX);
        let hello = Hello { name: "scripted".to_owned(), instance: "1".to_owned(), running, ..Hello::default() };
        frames.send(SyncRequest { frame: Some(sync_request::Frame::Hello(hello)) }).await.unwrap();
        let mut client = SyncServiceClient::connect(format!("http://{sync}")).await.unwrap();
        let replies = client.sync(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let mut worker = Self { frames, replies };
        match worker.next().await {
            Frame::Welcome(welcome) => (worker, welcome),
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> Frame {
        let reply = soon("a frame from the control plane", self.replies.message()).await.unwrap();
        reply.unwrap().and_then(|reply| reply.frame).unwrap()
    }

    /// The next transition, heartbeats left out.
    pub(super) async fn transition(&mut self) -> Transition {
        let mut begun: Option<Transition> = None;
        loop {
            match (self.next().await, begun.as_mut()) {
                (Frame::Begin(begin), None) => {
                    let (base_digest, target) = (begin.base_digest.to_vec(), begin.target.unwrap());
                    begun = Some(Transition { base_digest, target, upserts: Vec::new(), deletes: Vec::new() });
                }
                (Frame::Chunk(chunk), Some(transition)) => {
                    transition.upserts.extend(chunk.upserts.into_iter().map(|entry| entry.name));
                    transition.deletes.extend(chunk.deletes);
                }
                (Frame::Commit(commit), Some(transition)) => {
                    assert_eq!(commit.target.as_ref(), Some(&transition.target));
                    return begun.unwrap();
                }
                (Frame::Heartbeat(_), _) => {}
                (other, _) => panic!("out of place: {other:?}"),
            }
        }
    }

    /// Says that a snapshot runs.
    pub(super) async fn acknowledge(&self, snapshot: &SnapshotId) {
        let ack = Ack { snapshot: Some(snapshot.clone()), degraded: Vec::new() };
        self.frames.send(SyncRequest { frame: Some(sync_request::Frame::Ack(ack)) }).await.unwrap();
    }
}
