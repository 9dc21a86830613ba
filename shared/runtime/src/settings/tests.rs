use super::*;

/// `PATH` stands in for a variable that is set to something useless: tests must not write the environment.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Demo {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,
    #[arg(long)]
    backend: Vec<u16>,
    #[arg(long, default_value_t = false)]
    open: bool,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Parser)]
#[command(name = "demo")]
struct FromEnvironment {
    #[arg(long, env = "PATH", default_value_t = 7)]
    port: u16,
    #[arg(long)]
    threads: Option<u16>,
}

fn demo(args: &str) -> Result<Demo, Ending> {
    read(std::iter::once("demo").chain(args.split_whitespace()).map(OsString::from).collect())
}

fn faults(args: &str) -> Vec<String> {
    match demo(args) {
        Err(Ending::Wrong(faults)) => faults,
        other => panic!("expected faults, found {other:?}"),
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let told = faults(
        "--lisen 1.2.3.4:5 --backend 1 --backend 70000 --backend=x --log-format jsn --log-level a=b=c --bogus=1",
    );
    let starts = ["--lisen: there is no such flag; did you mean --listen?", "--backend: \"70000\"", "--backend: \"x\""];
    for start in starts.into_iter().chain([
        "--log-format: \"jsn\" is not one of text, json; did you mean json?",
        "--log-level: \"a=b=c\": not a log level",
        "--bogus: there is no such flag",
    ]) {
        assert!(told.iter().any(|fault| fault.starts_with(start)), "{start} is missing in {told:#?}");
    }
    assert_eq!(told.len(), 6, "{told:#?}");
}

#[test]
fn a_flag_without_its_value_hides_no_other_fault() {
    let told = faults("--backend=y --listen");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().any(|fault| fault == "--listen: the value is missing"), "{told:#?}");
}

#[test]
fn a_flag_given_twice_is_a_fault() {
    assert_eq!(faults("--listen 127.0.0.1:1 --listen 127.0.0.1:2"), ["--listen: may be given only once"]);
}

#[test]
fn a_stray_word_is_a_fault() {
    assert_eq!(faults("serve"), ["serve: no such argument is expected"]);
}

#[test]
fn a_fault_in_the_environment_is_told_beside_one_in_a_flag() {
    let args = ["demo", "--threads", "many"].map(OsString::from).to_vec();
    let Err(Ending::Wrong(told)) = read::<FromEnvironment>(args) else { panic!("no faults") };
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().any(|fault| fault.starts_with("--port: ")), "{told:#?}");
}

#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Commands {
    #[arg(long, global = true, requires = "key", env = "NTONIX_TEST_CERT")]
    cert: Option<String>,
    #[arg(long, global = true, env = "NTONIX_TEST_KEY")]
    key: Option<String>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Apply,
    Get {
        revision: u16,
        #[arg(long)]
        limit: Option<u16>,
        #[arg(long)]
        most: Option<u64>,
    },
}

#[test]
fn a_mistyped_command_suggests_the_nearest_and_a_fault_is_told_once() {
    let read = |args: [&str; 4]| match read::<Commands>(args.into_iter().map(OsString::from).collect()) {
        Err(Ending::Wrong(faults)) => faults,
        other => panic!("expected faults, found {other:?}"),
    };
    assert_eq!(read(["demo", "aply", "--cert", "a"]), ["aply: there is no such command; did you mean apply?"]);
    assert_eq!(read(["demo", "--cert", "a", "apply"]), ["--key <KEY>: must be given"]);
}

#[test]
fn a_wrong_argument_without_a_flag_hides_no_other_fault_and_is_not_missed() {
    let args = ["demo", "get", "newest", "--limit", "many"].map(OsString::from).to_vec();
    let Err(Ending::Wrong(told)) = read::<Commands>(args) else { panic!("no faults") };
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].starts_with("<REVISION>: \"newest\"") && told[1].starts_with("--limit: \"many\""), "{told:#?}");
}

#[test]
fn a_missing_command_is_told_with_those_that_there_are() {
    for args in [&["demo"][..], &["demo", "--cert=a", "--key=b"]] {
        let Err(Ending::Wrong(told)) = read::<Commands>(args.iter().map(OsString::from).collect()) else {
            panic!("no faults")
        };
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].starts_with("a command is missing; there are apply, get"), "{told:#?}");
    }
}

#[test]
fn a_negative_number_is_a_value_out_of_range_and_no_flag() {
    assert_eq!(faults("--backend -1"), ["--backend: \"-1\": -1 is not in 0..=65535"]);
    let read = |args: &[&str]| match read::<Commands>(args.iter().map(OsString::from).collect()) {
        Err(Ending::Wrong(faults)) => faults,
        other => panic!("expected faults, found {other:?}"),
    };
    assert_eq!(read(&["demo", "get", "-7"]), ["<REVISION>: \"-7\": -7 is not in 0..=65535"]);
    assert_eq!(read(&["demo", "get", "7", "--most", "-7"]), ["--most: \"-7\": must not be negative"]);
}

#[test]
fn an_address_that_is_none_is_told_with_one_that_is() {
    for wrong in ["localhost:80", "127.0.0.1"] {
        let told = format!("--listen: \"{wrong}\": not an IP address and a port, as in 127.0.0.1:8000");
        assert_eq!(faults(&format!("--listen {wrong}")), [told]);
    }
}

#[test]
fn a_flag_wins_over_the_environment() {
    let args = ["demo", "--port", "9"].map(OsString::from).to_vec();
    assert_eq!(read::<FromEnvironment>(args).unwrap().port, 9);
}

#[test]
fn help_and_version_are_no_faults() {
    assert!(matches!(demo("--help"), Err(Ending::Told(text)) if text.contains("Where to listen")));
    assert!(matches!(demo("--bogus --version"), Err(Ending::Told(text)) if text.contains(env!("CARGO_PKG_VERSION"))));
}

#[test]
fn right_settings_are_read() {
    let demo = demo("--listen [::1]:80 --backend 1 --backend 2 --open --log-format json --log-level debug").unwrap();
    assert_eq!(demo.listen.port(), 80);
    assert_eq!(demo.backend, [1, 2]);
    assert!(demo.open);
    assert_eq!(demo.log.log_format, LogFormat::Json);
    assert_eq!(demo.log.log_level, "debug");
}
