//! The sync service on the wire: frames that were encoded once go out as they are, to every worker that needs them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ntonix_proto::sync::v1::{SyncRequest, SyncResponse, sync_service_server::SERVICE_NAME};
use tokio_stream::Stream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::Push;

/// The one method.
const SYNC: &str = "/ntonix.sync.v1.SyncService/Sync";
/// The largest frame of a worker: a nack with many faults.
const REQUEST_MAX: usize = 1024 * 1024;

/// What is sent to a worker.
pub(super) type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// The service, for a tonic router.
#[derive(Clone, Debug)]
pub struct SyncServer {
    push: Push,
}

impl SyncServer {
    /// Serves workers with `push`.
    pub fn new(push: Push) -> Self {
        Self { push }
    }
}

impl NamedService for SyncServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<tonic::body::Body>> for SyncServer {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let push = self.push.clone();
        async move {
            if request.uri().path() != SYNC {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let mut grpc = Grpc::new(Encoded).apply_max_message_size_config(Some(REQUEST_MAX), None);
            Ok(grpc.streaming(Method(push), request).await)
        }
        .boxed()
    }
}

struct Method(Push);

impl StreamingService<SyncRequest> for Method {
    type Response = Bytes;
    type ResponseStream = Replies;
    type Future = BoxFuture<'static, Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<Streaming<SyncRequest>>) -> Self::Future {
        let push = self.0.clone();
        async move { push.sync(request).await }.boxed()
    }
}

/// Messages of prost inwards, bytes that prost has encoded before outwards.
#[derive(Clone, Copy, Debug)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = SyncRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<SyncRequest>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<SyncResponse, SyncRequest>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(frame.len());
        buffer.put(frame);
        Ok(())
    }
}
