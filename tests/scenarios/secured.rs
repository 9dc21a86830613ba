//! Mutual TLS between the planes and towards operators: who has no certificate of the authority does not get in.

use std::fs;

use ntonix_runtime::tls;
use ntonix_tests::certs::{Authority, Pair};
use ntonix_tests::client::{Ask, Connection};
use ntonix_tests::cluster::{Cluster, WorkerProcess};
use ntonix_tests::mock_llm::MockLlm;
use ntonix_tests::terminal::Terminal;
use ntonix_tests::wait::eventually;

use crate::stage::{assert_fine, config};

/// The flags `--<door>-cert`, `-key` and `-ca`.
fn files(door: &str, pair: &Pair, authority: &Authority) -> [String; 3] {
    [
        format!("--{door}-cert={}", pair.certificate.display()),
        format!("--{door}-key={}", pair.key.display()),
        format!("--{door}-ca={}", authority.file().display()),
    ]
}

/// A control plane whose two doors know people and workers by this authority.
struct Secured {
    authority: Authority,
    plane: Pair,
    cluster: Cluster,
}

// === impl Secured ===

impl Secured {
    async fn start() -> Self {
        let authority = Authority::new().unwrap();
        let plane = authority.sign("plane", &["localhost", "127.0.0.1"]).unwrap();
        let flags = [files("admin", &plane, &authority), files("sync", &plane, &authority)].concat();
        let mut cluster = Cluster::start_with(&flags).await.unwrap();
        let server = format!("https://localhost:{}", cluster.admin().port());
        cluster.terminal().set("NTONIX_SERVER", &server);
        let operator = authority.sign("olga", &[]).unwrap();
        let mut secured = Self { authority, plane, cluster };
        secured.operate_as(&operator);
        secured
    }

    /// From now on commands are typed by who has this certificate.
    fn operate_as(&mut self, operator: &Pair) {
        let ca = self.authority.file();
        let terminal = self.cluster.terminal();
        let files = [("NTONIX_CERT", &operator.certificate), ("NTONIX_KEY_FILE", &operator.key), ("NTONIX_CA", &ca)];
        for (variable, file) in files {
            terminal.set(variable, &file.display().to_string());
        }
    }

    /// A worker that calls itself `name` and shows this certificate.
    async fn worker(&self, name: &str, pair: &Pair, authority: &Authority) -> WorkerProcess {
        let url = format!("--control-plane=https://localhost:{}", self.cluster.sync().port());
        let flags = [vec![url], files("sync", pair, authority).to_vec()].concat();
        self.cluster.worker_with(name, &flags, &[]).await.unwrap()
    }

    async fn workers(&self) -> String {
        self.cluster.ctl("workers").await.unwrap().done().unwrap()
    }
}

#[tokio::test]
async fn workers_and_authors_go_by_the_names_in_their_certificates() {
    let mock = MockLlm::start().unwrap();
    let secured = Secured::start().await;
    let pair = secured.authority.sign("rack-7", &[]).unwrap();
    let worker = secured.worker("somebody-else", &pair, &secured.authority).await;
    worker.connected(1).await.unwrap();
    let told = secured.cluster.apply(&config(&[&mock], "", "", "")).await.unwrap();
    assert!(told.starts_with("revision 1 by olga at ") && told.contains("  rack-7 runs it"), "{told}");
    let table = secured.workers().await;
    assert!(table.contains("\nrack-7  up to date") && !table.contains("somebody-else"), "{table}");
    let history = secured.cluster.ctl("history").await.unwrap().done().unwrap();
    assert!(history.contains("  olga  "), "{history}");
    assert_fine(&worker.connect().await.unwrap().ask(Ask::chat()).await.unwrap());
}

#[tokio::test]
async fn a_worker_without_a_certificate_of_the_authority_is_not_let_in() {
    let mock = MockLlm::start().unwrap();
    let secured = Secured::start().await;
    secured.cluster.apply(&config(&[&mock], "", "", "")).await.unwrap();
    let stranger = Authority::new().unwrap();
    let forged = stranger.sign("rack-7", &["localhost"]).unwrap();
    let good = secured.authority.sign("rack-8", &[]).unwrap();
    let sync = secured.cluster.sync();
    let none = [
        format!("--control-plane=https://localhost:{}", sync.port()),
        format!("--sync-ca={}", secured.authority.file().display()),
    ];
    let plain = [format!("--control-plane=http://{sync}")];
    let refused = [
        // It believes the control plane, which does not believe it.
        secured.worker("forged", &forged, &secured.authority).await,
        // It does not believe the control plane.
        secured.worker("doubting", &good, &stranger).await,
        secured.cluster.worker_with("bare", &none, &[]).await.unwrap(),
        secured.cluster.worker_with("plain", &plain, &[]).await.unwrap(),
    ];
    for worker in &refused {
        // More than once: it goes on trying, and goes on failing.
        worker.process().logged_times("Not connected; what runs runs on", 2).await.unwrap();
        let (status, text) = worker.page("/readyz").await.unwrap();
        assert_eq!((status, text.as_str()), (503, "no configuration yet\n"));
    }
    assert_eq!(secured.workers().await, "no worker has connected since the control plane started\n");
    assert_eq!(secured.cluster.plane_metric("ntonix_control_workers_connected").await.unwrap(), 0.0);
}

#[tokio::test]
async fn an_operator_without_a_certificate_of_the_authority_changes_and_reads_nothing() {
    let mut secured = Secured::start().await;
    secured.cluster.apply("tenants: [{ name: research }]\n").await.unwrap();
    let (port, ca) = (secured.cluster.admin().port(), secured.authority.file());
    let stranger = Authority::new().unwrap();
    let forged = stranger.sign("olga", &[]).unwrap();
    let show = |pair: &Pair| format!("--cert {} --key-file {}", pair.certificate.display(), pair.key.display());
    let tls = format!("--server https://localhost:{port} --ca {}", ca.display());
    let clean = Terminal::new().unwrap();
    let unbelieving = format!("--server https://localhost:{port} --ca {}", stranger.file().display());
    let attempts =
        [tls.clone(), format!("{tls} {}", show(&forged)), unbelieving, format!("--server http://127.0.0.1:{port}")];
    for flags in attempts {
        for command in ["get tenants", "rollback 1", "key list"] {
            let told = clean.run(&format!("ntonixctl {flags} {command}")).await.unwrap();
            let told = told.exited(1).unwrap();
            assert!(told.output.is_empty(), "{flags}: {}", told.output);
            assert!(told.complaints.starts_with("ntonixctl: "), "{}", told.complaints);
        }
    }
    let other = secured.authority.sign("pavel", &[]).unwrap();
    secured.operate_as(&other);
    let told = secured.cluster.ctl("rollback 1").await.unwrap().done().unwrap();
    assert!(told.starts_with("nothing to change"), "{told}");
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_without_certificates() {
    let terminal = Terminal::new().unwrap();
    for program in ["ntonix-control-plane", "ntonix"] {
        let line = format!("{program} --admin 0.0.0.0:0 --sync 0.0.0.0:0 --ops 127.0.0.1:0 --state-dir state");
        let told = terminal.run(&line).await.unwrap().failed(2).unwrap();
        for flag in ["admin", "sync"] {
            let wanted = format!(
                "--{flag}: 0.0.0.0:0 is not on loopback, so --{flag}-cert, --{flag}-key and --{flag}-ca must be given"
            );
            assert!(told.contains(&wanted), "{told}");
        }
    }
}

#[tokio::test]
async fn certificates_that_are_replaced_are_used_for_new_connections() {
    let mut secured = Secured::start().await;
    let pair = secured.authority.sign("rack-7", &[]).unwrap();
    let worker = secured.worker("w", &pair, &secured.authority).await;
    worker.connected(1).await.unwrap();

    // The control plane shows the new one, without a signal and without losing anybody.
    let old = secured.plane.der().unwrap();
    secured.authority.sign("plane", &["localhost", "127.0.0.1"]).unwrap();
    let new = secured.plane.der().unwrap();
    assert_ne!(old, new);
    let identity = (pair.certificate.as_path(), pair.key.as_path());
    let config = tls::client_config(Some(&secured.authority.file()), Some(identity), &[b"h2"]).unwrap();
    for door in [secured.cluster.admin(), secured.cluster.sync()] {
        let shown = async || {
            let connection = Connection::open_tls(door, config.clone(), "localhost").await.unwrap();
            connection.certificate() == Some(new.as_slice())
        };
        eventually("the new certificate is shown", shown).await.unwrap();
    }
    assert!(secured.workers().await.contains("\nrack-7  "), "{}", secured.workers().await);

    // A worker shows its new one when it connects again.
    let renewed = secured.authority.sign("rack-8", &[]).unwrap();
    fs::copy(&renewed.key, &pair.key).unwrap();
    fs::copy(&renewed.certificate, &pair.certificate).unwrap();
    secured.cluster.kill_plane().await.unwrap();
    secured.cluster.start_plane().await.unwrap();
    worker.connected(2).await.unwrap();
    let table = secured.workers().await;
    assert!(table.contains("\nrack-8  ") && !table.contains("rack-7"), "{table}");
}
