//! Workers and sockets that ask too much: what they get, and what it costs the others.

use ntonix_proto::admin::v1::{WorkerServiceGetRequest, WorkerServiceListRequest, WorkerState};
use ntonix_proto::sync::v1::{Ack, Fault, Hello, Nack, sync_request, sync_response::Frame};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::workers::{Script, shown};
use super::*;

fn fault(bytes: usize) -> Fault {
    Fault { path: "secrets[0]".to_owned(), reason: "y".repeat(bytes) }
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_answered_with_its_status() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "i").await;
    let (id, _) = script.transition().await;
    let nack = Nack { snapshot: Some(id), faults: vec![fault(1_100_000)] };
    script.say(sync_request::Frame::Nack(nack)).await;
    assert_eq!(script.end().await, Code::OutOfRange);
}

#[tokio::test]
async fn a_worker_that_just_goes_is_no_fault() {
    let running = Running::start().await;
    let mut script = Script::connect(&running).await;
    script.hello("w", "i").await;
    drop(script);
    shown(&running, "w", WorkerState::Disconnected).await;
}

#[tokio::test]
async fn workers_that_tell_too_much_are_listed_all_the_same() {
    let running = Running::start().await;
    running.apply(draft(&["a"])).await;
    let mut scripts = Vec::new();
    for number in 0..60 {
        let mut script = Script::connect(&running).await;
        let name = format!("w{number:02}");
        // Two bytes to a letter, so that a bound in the middle of one would be seen.
        let long = "ü".repeat(100_000);
        let hello = Hello {
            name: name.clone(),
            instance: long.clone(),
            version: long.clone(),
            address: long,
            ..Hello::default()
        };
        script.say(sync_request::Frame::Hello(hello)).await;
        assert!(matches!(script.hear().await, Frame::Welcome(_)));
        let (id, _) = script.transition().await;
        let faults = (0..300).map(|_| fault(3_000)).collect();
        if number % 2 == 0 {
            script.say(sync_request::Frame::Nack(Nack { snapshot: Some(id), faults })).await;
            shown(&running, &name, WorkerState::Refused).await;
        } else {
            script.say(sync_request::Frame::Ack(Ack { snapshot: Some(id), degraded: faults })).await;
            shown(&running, &name, WorkerState::Degraded).await;
        }
        scripts.push(script);
    }
    let listed = running.workers().list(WorkerServiceListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.workers.len(), 60);
    let asked = WorkerServiceGetRequest { name: "w00".to_owned() };
    let worker = running.workers().get(asked).await.unwrap().into_inner().worker.unwrap();
    let last = worker.faults.last().unwrap();
    assert_eq!(last.reason, format!("and {} more", 300 - (worker.faults.len() - 1)));
}

#[tokio::test(start_paused = true)]
async fn a_socket_on_which_nothing_comes_loses_its_place() {
    let running = Running::start().await;
    let admin = running.plane.addresses().admin;
    // The clock goes on when nothing happens, which is what is waited for.
    let mut silent = TcpStream::connect(admin).await.unwrap();
    let cut = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 256])).await;
    assert!(matches!(cut, Ok(Ok(0) | Err(_))), "it holds a place for good: {cut:?}");
}
