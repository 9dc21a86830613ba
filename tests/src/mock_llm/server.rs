//! The mock's socket side: accepts connections and hands each request to its script.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ntonix_llm::{Op, openai};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::ask::Ask;
use super::frames::{FrameFaults, Frames};
use super::play::{Answer, Below, Broken, play, reply};
use super::script::{Headers, Script};
use super::socket::{Sabotage, Socket};
use super::state::{Recorded, State};

/// Serves until the future is dropped, and with it every connection.
///
/// # Errors
/// When the listener is not non-blocking or does not belong to a runtime's reactor.
pub async fn serve(listener: TcpListener, state: Arc<State>, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let tls = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Losing either branch loses nothing: both can be polled again.
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => drop(connections.spawn(serve_connection(tcp, state.clone(), tls.clone()))),
                // Out of descriptors: wait for some to come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Lets the system take as much as it likes, as it does for other servers: what a script has written before a cut is on
/// its way then. Our listeners ask for less.
fn take_all(tcp: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // A connection that is gone already has nothing to take.
    let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(u32::MAX);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = tcp;
}

async fn serve_connection(tcp: TcpStream, state: Arc<State>, tls: Option<TlsAcceptor>) {
    let _connected = state.connected();
    // Without it a token would wait for the acknowledgement of the one before; a mock without it still works.
    let _ = tcp.set_nodelay(true);
    take_all(&tcp);
    let sabotage = Arc::new(Sabotage::default());
    let socket = Socket::new(tcp, sabotage.clone());
    match tls {
        None => serve_http(socket, state, sabotage).await,
        Some(tls) => {
            // A handshake that fails is the client's to report.
            if let Ok(socket) = tls.accept(socket).await {
                serve_http(socket, state, sabotage).await;
            }
        }
    }
}

async fn serve_http<S>(socket: S, state: Arc<State>, sabotage: Arc<Sabotage>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (window, streams) = (state.window(), state.http2_streams());
    let frames = Arc::new(FrameFaults::default());
    let socket = Frames::new(socket, frames.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = (request.version() == Version::HTTP_2).then(|| frames.next_stream());
        let below = Below { sabotage: sabotage.clone(), frames: frames.clone(), stream };
        answer(request, state.clone(), below)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).half_close(false);
    server.http2().timer(TokioTimer::new());
    if let Some(streams) = streams {
        server.http2().max_concurrent_streams(streams);
    }
    if let Some(window) = window {
        server.http2().initial_stream_window_size(window);
    }
    // How the connection ends is what the script says, or what the client did; the counts tell of both.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>, below: Below) -> Answer {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken::default())?.to_bytes();
    let op = Op::from_path(head.uri.path());
    let path = head.uri.path().to_owned();
    let exchange = head.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let (method, query) = (head.method.clone(), head.uri.query().unwrap_or_default().to_owned());
    state.record(Recorded {
        method: head.method,
        path: head.uri.path_and_query().map_or_else(|| path.clone(), ToString::to_string),
        version: head.version,
        headers: head.headers,
        body: body.clone(),
    });
    let ask = Ask::read(&body);
    let for_path = state.script_for_path(&path);
    match (op, for_path) {
        (None, None) if path == "/mock/script" => change_script(&method, &query, &body, &state),
        (None, None) => built_in(&path, &state),
        (op, for_path) => {
            // A script for another path may leave it unanswered, so it is watched too; it counts as an attempt then.
            let in_flight = state.begin(ask.user.clone(), exchange);
            let script = for_path.unwrap_or_else(|| state.script_for(ask.model.as_deref()));
            play(script, op.unwrap_or(Op::ChatCompletions), ask, in_flight, below).await
        }
    }
}

/// What a backend answers beside its work.
fn built_in(path: &str, state: &State) -> Answer {
    let json = typed("application/json");
    match path {
        "/health" => reply(200, &json, Bytes::from_static(br#"{"status":"ok"}"#)),
        "/v1/models" => {
            let models = state.models();
            let models = models.iter().map(|id| openai::Model { id, created: 1_700_000_000, owned_by: "mock" });
            reply(200, &json, openai::models_body(models))
        }
        "/mock/cuts" => {
            let cuts = serde_json::to_vec(&state.cuts()).map_err(|_| Broken::default())?;
            reply(200, &json, cuts.into())
        }
        "/mock/ledger" => {
            let lines = state.ledger_lines().map_err(|_| Broken::default())?;
            reply(200, &typed("application/jsonl"), lines.into())
        }
        _ => whole(Script::status(404, "the mock has no such path")),
    }
}

/// Takes a script for everything or for one model (`?model=NAME`), or takes it back (DELETE).
fn change_script(method: &Method, query: &str, body: &[u8], state: &State) -> Answer {
    let model = match model_in(query) {
        Ok(model) => model,
        Err(fault) => return bad_request(&fault),
    };
    if *method == Method::DELETE {
        match model {
            Some(model) => state.forget_model(model),
            None => state.reset_default(),
        }
        return reply(204, &Headers::new(), Bytes::new());
    }
    if *method != Method::POST {
        let told = Script::status(405, "a script is set with POST and taken back with DELETE");
        return whole(told.header("allow", "POST, DELETE"));
    }
    if body.trim_ascii().is_empty() {
        return bad_request("the script is empty; DELETE takes one back");
    }
    let script = match String::from_utf8_lossy(body).parse::<Script>() {
        Ok(script) => script,
        Err(faults) => return bad_request(&faults.to_string()),
    };
    match model {
        Some(model) => state.set_for_model(model, script),
        None => state.set_default(script),
    }
    reply(204, &Headers::new(), Bytes::new())
}

/// The model that a query names; `Err` is what is wrong with it.
fn model_in(query: &str) -> Result<Option<&str>, String> {
    let mut model = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("model", "") => return Err("the name of the model is missing".to_owned()),
            ("model", name) => model = Some(name),
            (other, _) => return Err(format!("there is no parameter {other:?}, only \"model\"")),
        }
    }
    Ok(model)
}

fn bad_request(fault: &str) -> Answer {
    reply(400, &typed("text/plain; charset=utf-8"), format!("{fault}\n").into())
}

fn typed(media_type: &str) -> Headers {
    vec![("content-type".into(), media_type.to_owned())]
}

fn whole(script: Script) -> Answer {
    let Script::Reply { status, headers, body } = script else { return Err(Broken::default()) };
    reply(status, &headers, body)
}
