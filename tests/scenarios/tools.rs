//! What the tools say to somebody who holds them wrong.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use ntonix_tests::process::{Ended, Process};
use rustix::process::Signal;

async fn ended(program: &str, args: &[&str]) -> Ended {
    Process::start(program, args).unwrap().ended().await.unwrap()
}

#[tokio::test]
async fn the_load_driver_without_a_command_tells_which_there_are() {
    let ended = ended("ntonix-load", &[]).await;
    assert_eq!(ended.status.code(), Some(2));
    let told = "ntonix-load: a command is missing; there are unary, paced, fast, held, ws, cancel, compare, grow, plot";
    assert!(ended.log.starts_with(told), "{}", ended.log);
}

#[tokio::test]
async fn numbers_out_of_range_and_names_of_hosts_are_told_as_such() {
    for (program, args, told) in [
        ("ntonix-load", &["paced", "--tokens", "-1"][..], "--tokens: \"-1\": must not be negative"),
        ("ntonix-load", &["paced", "--count", "0"], "--count: \"0\": 0 is not in 1.."),
        ("ntonix-chaos", &["--minutes", "-1"], "--minutes: \"-1\": 0.05 to 1440 minutes"),
        (
            "mock-llm",
            &["--listen=localhost:80"],
            "\"localhost:80\": not an IP address and a port, as in 127.0.0.1:8000",
        ),
        ("mock-llm", &["--faults=nope"], "silent-end, stream-error, garbage, html, no-reply and MODEL=FILE"),
        ("fault-proxy", &["--to=127.0.0.1:1", "--faults=[]"], "there are no arrays in them"),
    ] {
        let ended = ended(program, args).await;
        assert_eq!(ended.status.code(), Some(2), "{program} {args:?}");
        assert!(ended.log.contains(told) && !ended.log.contains("settings are wrong"), "{}", ended.log);
    }
}

#[tokio::test]
async fn a_port_of_a_tool_that_is_taken_is_told_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (program, flag, others) in [
        ("mock-llm", "--listen", &[][..]),
        ("fault-proxy", "--listen", &["--to=127.0.0.1:1", "--api=127.0.0.1:0"]),
        ("fault-proxy", "--api", &["--to=127.0.0.1:1", "--listen=127.0.0.1:0"]),
    ] {
        let ended = ended(program, &[others, &[flag, &address]].concat()).await;
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.log.contains(&format!("cannot listen on {flag} {address}")), "{}", ended.log);
    }
}

#[tokio::test]
async fn a_chaos_run_whose_result_has_no_place_does_not_begin() {
    let ended = ended("ntonix-chaos", &["--json=/not/there/result.json"]).await;
    assert_eq!((ended.status.code(), ended.output.as_str()), (Some(1), ""));
    assert!(ended.log.starts_with("ntonix-chaos: cannot write --json /not/there/result.json: "), "{}", ended.log);
}

#[tokio::test]
async fn a_chaos_run_that_is_interrupted_says_so() {
    for (signal, name, code) in [(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)] {
        let chaos = Process::start("ntonix-chaos", ["--seed=5"]).unwrap();
        chaos.printed("chaos with seed 5").await.unwrap();
        chaos.signal(signal).unwrap();
        let ended = chaos.ended().await.unwrap();
        assert_eq!(ended.status.code(), Some(code), "{}", ended.log);
        assert!(ended.log.contains(&format!("interrupted by {name}")), "{}", ended.log);
    }
}

#[test]
fn a_stage_of_the_tests_that_is_not_there_is_named() {
    let run = concat!(env!("CARGO_MANIFEST_DIR"), "/run");
    let output = Command::new(run).arg("nonsense").stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(told.starts_with("there is no stage nonsense") && told.contains("scenarios"), "{told}");
}
