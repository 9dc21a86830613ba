//! The proxy over real sockets, and one direction of it over memory with a paused clock.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::relay::Pump;
use super::*;
use crate::client::Ask;
use crate::wait::{eventually, soon};

/// A client and the server's side of its connection, with a proxy between them.
struct Pair {
    proxy: FaultProxy,
    client: TcpStream,
    server: TcpStream,
}

async fn pair(faults: Faults) -> anyhow::Result<Pair> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = FaultProxy::start_with(listener.local_addr()?, faults, 3)?;
    let client = TcpStream::connect(proxy.address()).await?;
    let (server, _) = soon("the proxy connects", listener.accept()).await??;
    Ok(Pair { proxy, client, server })
}

async fn read(stream: &mut TcpStream, length: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    soon("the bytes", stream.read_exact(&mut bytes)).await??;
    Ok(bytes)
}

async fn rest(stream: &mut TcpStream) -> anyhow::Result<std::io::Result<Vec<u8>>> {
    let mut bytes = Vec::new();
    Ok(soon("the end", stream.read_to_end(&mut bytes)).await?.map(|_| bytes))
}

#[tokio::test]
async fn bytes_and_both_ends_pass() -> anyhow::Result<()> {
    let Pair { proxy, mut client, mut server } = pair(Faults::default()).await?;
    client.write_all(b"question").await?;
    assert_eq!(read(&mut server, 8).await?, b"question");
    client.shutdown().await?;
    assert_eq!(rest(&mut server).await??, b"");
    server.write_all(b"answer").await?;
    drop(server);
    assert_eq!(rest(&mut client).await??, b"answer");
    eventually("nothing is open", async || proxy.connections().open.is_empty()).await?;
    let Connections { opened, cut, reset, struck, .. } = proxy.connections();
    assert_eq!((opened, cut, reset, struck), (1, 0, 0, 0));
    Ok(())
}

#[tokio::test]
async fn a_cut_after_some_bytes_is_a_clean_end_on_both_sides() -> anyhow::Result<()> {
    let Pair { proxy, mut client, mut server } = pair(Faults::to_client(Direction::ending(4, How::Cut))).await?;
    client.write_all(b"x").await?;
    server.write_all(b"abcdef").await?;
    assert_eq!(rest(&mut client).await??, b"abcd");
    assert_eq!(rest(&mut server).await??, b"x");
    assert_eq!((proxy.connections().cut, proxy.connections().reset), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_reset_is_a_reset_on_both_sides() -> anyhow::Result<()> {
    let Pair { proxy, mut client, mut server } = pair(Faults::to_server(Direction::ending(2, How::Reset))).await?;
    client.write_all(b"abc").await?;
    for side in [&mut client, &mut server] {
        let error = rest(side).await?.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(proxy.connections().reset, 1);
    Ok(())
}

#[tokio::test]
async fn a_half_close_ends_one_direction_alone() -> anyhow::Result<()> {
    let faults = Faults::to_server(Direction::ending(1, How::HalfClose));
    let Pair { proxy: _proxy, mut client, mut server } = pair(faults).await?;
    client.write_all(b"abc").await?;
    assert_eq!(rest(&mut server).await??, b"a");
    server.write_all(b"still here").await?;
    assert_eq!(read(&mut client, 10).await?, b"still here");
    Ok(())
}

#[tokio::test]
async fn faults_change_on_a_live_connection() -> anyhow::Result<()> {
    let Pair { proxy, mut client, mut server } = pair(Faults::to_client(Direction::ending(2, How::Stall))).await?;
    server.write_all(b"abcd").await?;
    assert_eq!(read(&mut client, 2).await?, b"ab");
    client.write_all(b"the other direction passes").await?;
    assert_eq!(read(&mut server, 26).await?, b"the other direction passes");
    assert_eq!(proxy.connections().open[0].to_client, 2);
    proxy.clear();
    assert_eq!(read(&mut client, 2).await?, b"cd");
    Ok(())
}

#[tokio::test]
async fn live_connections_are_cut_by_hand() -> anyhow::Result<()> {
    let Pair { proxy, mut client, mut server } = pair(Faults::default()).await?;
    eventually("it is open", async || proxy.connections().open.len() == 1).await?;
    assert_eq!(proxy.cut(How::Cut), 1);
    assert_eq!(rest(&mut client).await??, b"");
    assert_eq!(rest(&mut server).await??, b"");
    Ok(())
}

#[tokio::test]
async fn who_connects_to_an_absent_server_gets_a_reset() -> anyhow::Result<()> {
    let nobody = crate::cluster::Port::reserve()?;
    let proxy = FaultProxy::start(nobody.address())?;
    let mut client = TcpStream::connect(proxy.address()).await?;
    assert_eq!(rest(&mut client).await?.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.connections().refused, 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_direction_keeps_its_delay_and_its_rate() -> anyhow::Result<()> {
    let (mut sender, mut from) = duplex(1024);
    let (mut to, mut receiver) = duplex(1024);
    let faults =
        Direction { rate: std::num::NonZeroU64::new(10), ..Direction::delayed(Duration::from_secs(1), Duration::ZERO) };
    let (_changes, faults) = watch::channel(Faults::to_client(faults));
    let (passed, struck) = (AtomicU64::new(0), AtomicU64::new(0));
    let pump = Pump { plan: Plan::new(1), faults, toward: Toward::Client, passed: &passed, struck: &struck };
    let begun = Instant::now();
    sender.write_all(b"abcde").await?;
    drop(sender);
    let mut bytes = Vec::new();
    let (ended, read) = tokio::join!(pump.run(&mut from, &mut to), async {
        let read = receiver.read_to_end(&mut bytes).await;
        (read, begun.elapsed())
    });
    assert_eq!((ended, read.0?), (Ok(()), 5));
    // One second of delay, then four tenths between five bytes; timers tick in milliseconds.
    let expected = Duration::from_millis(1_400);
    assert!((expected..expected + Duration::from_millis(10)).contains(&read.1), "{:?}", read.1);
    Ok(())
}

#[tokio::test]
async fn the_api_shows_and_changes_faults_and_cuts() -> anyhow::Result<()> {
    let Pair { proxy, mut client, server: _server } = pair(Faults::default()).await?;
    let listener = listen::bind("127.0.0.1:0".parse()?, ReusePort::No)?;
    let address = listener.local_addr()?;
    let api = tasks::spawn("api", serve_api(listener, proxy.state().clone()));
    let call = async |method: http::Method, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let ask = Ask::post(path, body).method(method);
        let answer = crate::client::Connection::open(address).await?.ask(ask).await?;
        anyhow::Ok((answer.status(), answer.json()))
    };
    use http::Method;
    assert_eq!(call(Method::GET, "/faults", Value::Null).await?, (200, json!({})));
    let slow = json!({ "to_client": { "delay": "1s" } });
    assert_eq!(call(Method::PUT, "/faults", slow.clone()).await?, (200, slow.clone()));
    assert_eq!(call(Method::GET, "/faults", Value::Null).await?, (200, slow.clone()));
    let (status, error) = call(Method::PUT, "/faults", json!({ "delay": "1s" })).await?;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap_or_default().contains("unknown field `delay`"), "{error}");
    // Neither takes anything back.
    for wrong in ["[]", "null", ""] {
        let ask = Ask::post("/faults", wrong).method(Method::PUT);
        assert_eq!(crate::client::Connection::open(address).await?.ask(ask).await?.status(), 400, "{wrong:?}");
    }
    assert_eq!(call(Method::GET, "/faults", Value::Null).await?, (200, slow));
    assert_eq!(call(Method::POST, "/cut", json!([])).await?.0, 400);
    assert_eq!(call(Method::DELETE, "/faults", Value::Null).await?, (200, json!({})));
    let (_, connections) = call(Method::GET, "/connections", Value::Null).await?;
    assert_eq!((&connections["opened"], &connections["open"][0]["id"]), (&json!(1), &json!(1)));
    assert_eq!(call(Method::POST, "/cut", json!({ "how": "stall" })).await?.0, 400);
    assert_eq!(
        call(Method::POST, "/cut", json!({ "how": "reset", "connection": 9 })).await?,
        (200, json!({ "cut": 0 }))
    );
    assert_eq!(call(Method::POST, "/cut", json!({ "how": "reset" })).await?, (200, json!({ "cut": 1 })));
    assert!(rest(&mut client).await?.is_err());
    let told = json!({ "error": "this path takes GET, PUT, DELETE" });
    assert_eq!(call(Method::POST, "/faults", Value::Null).await?, (405, told));
    assert_eq!(call(Method::GET, "/", Value::Null).await?.0, 404);
    api.abort();
    Ok(())
}
