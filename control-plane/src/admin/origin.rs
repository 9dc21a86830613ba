//! Refuses browsers that act for a page of somebody else: such pages could reach a port on loopback by DNS rebinding.

use std::net::IpAddr;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::{Either, Ready, ready};
use http::header::ORIGIN;
use http::{Request, Response, StatusCode, Uri};
use tower::{Layer, Service};

/// The layer. Only browsers send an origin, and with it they may call from pages of this very machine.
#[derive(Clone, Copy, Debug)]
pub struct SameOrigin;

/// The service that the layer makes.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
}

impl<S> Layer<S> for SameOrigin {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner }
    }
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let strange = request.headers().get_all(ORIGIN).iter().any(|origin| !origin.to_str().is_ok_and(is_local));
        if strange {
            let mut refusal = Response::new(R::default());
            *refusal.status_mut() = StatusCode::FORBIDDEN;
            return ready(Ok(refusal)).left_future();
        }
        self.inner.call(request).right_future()
    }
}

fn is_local(origin: &str) -> bool {
    let Some(host) = origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)) else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_are_local() {
        for origin in ["http://localhost:5173", "https://localhost", "http://127.0.0.1:7070", "http://[::1]:7070"] {
            assert!(is_local(origin), "{origin}");
        }
        for origin in ["null", "", "http://evil.test:7070", "http://localhost.evil.test", "http://10.0.0.1", "file://"]
        {
            assert!(!is_local(origin), "{origin}");
        }
    }
}
