//! Clients of HTTP/2 that leave: a stream is reset, the connection stays.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ntonix_runtime::tasks;

use crate::cancel::{Left, first_token, wait};
use crate::plan::Plan;
use crate::streams::brief;
use crate::tally::Check;

pub(super) async fn leave_all(plan: &Plan, left: &Left) -> anyhow::Result<()> {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(plan.target.tcp().await?)).await?;
    // How it ends shows in the requests.
    let connection = tasks::spawn("connection", async move { drop(connection.await) });
    while let Some(nonce) = plan.begin() {
        let reached = reach(plan, &mut sender, &nonce).await;
        left.note(plan, nonce, reached);
    }
    // The last reset leaves before the connection does.
    drop(sender);
    connection.await?;
    Ok(())
}

async fn reach(plan: &Plan, sender: &mut SendRequest<Full<Bytes>>, nonce: &str) -> Result<u64, String> {
    let check = Check::new(nonce.to_owned(), plan.tokens);
    let answered = sender.send_request(request(plan, nonce).map_err(|error| error.to_string())?);
    if plan.departure.is_early() {
        return wait(answered).await;
    }
    let response = answered.await.map_err(|error| brief(&error))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status().as_u16()));
    }
    first_token(plan, response.into_body(), check).await
}

fn request(plan: &Plan, nonce: &str) -> http::Result<Request<Full<Bytes>>> {
    let path = plan.target.path("/v1/chat/completions");
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{path}", plan.target.authority()))
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(bearer) = plan.target.bearer() {
        request = request.header(AUTHORIZATION, bearer);
    }
    request.body(Full::new(plan.body_bytes(nonce)))
}
