//! What the programs are told at their start: every fault at once, the nearest name, the right exit code.

use std::net::TcpListener;

use ntonix_tests::gateway::PROGRAM;
use ntonix_tests::mock_llm::MockLlm;
use ntonix_tests::process::{Ended, Process};

use crate::stage::config;

async fn ended(program: &str, args: &[&str]) -> Ended {
    Process::start(program, args).unwrap().ended().await.unwrap()
}

#[tokio::test]
async fn wrong_flags_are_all_named_at_once() {
    let args = ["--listn=127.0.0.1:0", "--threads=0", "--drain=soon", "--log-format=xml", "--config=x.yaml"];
    let ended = ended(PROGRAM, &args).await;
    assert_eq!(ended.status.code(), Some(2));
    for fault in ["--listn", "did you mean --listen?", "--threads", "--drain", "--log-format"] {
        assert!(ended.log.contains(fault), "{fault} is not in {}", ended.log);
    }
}

#[tokio::test]
async fn a_wrong_variable_is_a_wrong_setting() {
    let variables = [("NTONIX_THREADS", "many"), ("NTONIX_CONFIG", "x.yaml")];
    let ended = Process::start_with(PROGRAM, [""; 0], &variables).unwrap().ended().await.unwrap();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("many"), "{}", ended.log);
}

#[tokio::test]
async fn without_a_configuration_there_is_nothing_to_serve() {
    let ended = ended(PROGRAM, &[]).await;
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("--config") && ended.log.contains("--control-plane"), "{}", ended.log);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_wrong_setting() {
    let state = tempfile::tempdir().unwrap();
    let state = format!("--state-dir={}", state.path().display());
    let args = ["--config=/not/there.yaml", "--listen=127.0.0.1:0", "--ops=127.0.0.1:0", &state];
    let ended = ended(PROGRAM, &args).await;
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("/not/there.yaml"), "{}", ended.log);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let mock = MockLlm::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ntonix.yaml");
    std::fs::write(&file, config(&[&mock], "", "", "")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let own = [format!("--config={}", file.display()), format!("--state-dir={}", folder.path().display())];
    for flag in ["--listen", "--ops"] {
        let mut args: Vec<String> = own.to_vec();
        for other in ["--listen", "--ops"] {
            let value = if other == flag { &address } else { "127.0.0.1:0" };
            args.push(format!("{other}={value}"));
        }
        let ended = Process::start(PROGRAM, args).unwrap().ended().await.unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains(&format!("{flag} {address}")), "{}", ended.log);
    }
}

#[tokio::test]
async fn every_program_tells_its_version_and_its_flags() {
    for program in [PROGRAM, "ntonix-control-plane", "ntonixctl", "ntonix"] {
        let version = ended(program, &["--version"]).await;
        assert_eq!(version.status.code(), Some(0));
        assert_eq!(version.output.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
        let help = ended(program, &["--help"]).await;
        assert_eq!(help.status.code(), Some(0));
        assert!(help.output.contains("Usage:"), "{}", help.output);
    }
}
