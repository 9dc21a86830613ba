//! Who is measured, and what each of them needs: two backends, a configuration, ports and a certificate.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ntonix_tests::certs::{Authority, Pair};
use ntonix_tests::process;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::compare::cases::Case;
use crate::compare::config::{self, Size};
use crate::compare::instructions;
use crate::compare::programs::{Program, installed, unused_address};
use crate::settings::{Load, Over};

const NGINX: &str = include_str!("nginx.conf.in");
const HAPROXY: &str = include_str!("haproxy.cfg.in");

const CONTROL_PLANE: &str = "ntonix-control-plane";
/// Where a program of NTONIX says whether it serves.
const READY: &str = "/readyz";
/// How an answer begins that says yes, and any answer.
const OK: &str = "HTTP/1.1 200";
const HTTP: &str = "HTTP/1.1";

/// Who takes the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Nobody in between: the backends themselves
    Direct,
    /// nginx with two workers
    Nginx,
    /// HAProxy with two threads
    Haproxy,
    /// ntonix-data-plane with two threads, everything that is on in production, and a control plane
    Ntonix,
}

/// What all measurements of a run share.
#[derive(Debug)]
pub(crate) struct House {
    authority: Authority,
    pair: Pair,
}

/// One peer in front of two backends, all just started.
#[derive(Debug)]
pub(crate) struct Stage {
    kind: Kind,
    peer: Option<Program>,
    /// What gives NTONIX its configuration; held for what it ends when it is dropped.
    _control: Option<Program>,
    ports: Ports,
    size: Size,
    ca: PathBuf,
    /// The first of each process.
    backends: [SocketAddr; 2],
    /// Held for what they end when they are dropped, before their folder.
    _mocks: [Program; 2],
    folder: TempDir,
}

/// Where a peer listens.
#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: SocketAddr,
    h2c: SocketAddr,
    tls: SocketAddr,
    /// Of NTONIX: the worker's own pages, where its control plane takes it, and the pages of that.
    ops: SocketAddr,
    sync: SocketAddr,
    control: SocketAddr,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Ntonix => "NTONIX",
        }
    }

    /// The program, looked for before anything is measured; `None` for nobody in between.
    pub(crate) fn program(self) -> anyhow::Result<Option<PathBuf>> {
        Ok(Some(match self {
            Self::Direct => return Ok(None),
            Self::Nginx => installed("nginx")?,
            Self::Haproxy => installed("haproxy")?,
            Self::Ntonix => {
                process::program(CONTROL_PLANE)?;
                process::program("ntonix-data-plane")?
            }
        }))
    }

    /// The flag with which the program tells its version.
    pub(crate) fn version_flag(self) -> &'static str {
        if self == Self::Ntonix { "--version" } else { "-v" }
    }
}

// === impl Ports ===

impl Ports {
    fn unused() -> io::Result<Self> {
        let mut addresses = Vec::new();
        while addresses.len() < 6 {
            let address = unused_address()?;
            // A port that was looked at and left may be the next that there is.
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let [plain, h2c, tls, ops, sync, control] = addresses[..] else { return Err(ErrorKind::AddrInUse.into()) };
        Ok(Self { plain, h2c, tls, ops, sync, control })
    }
}

// === impl House ===

impl House {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let pair = authority.sign("compare", &["127.0.0.1", "localhost"])?;
        Ok(Self { authority, pair })
    }
}

// === impl Stage ===

impl Stage {
    /// Starts all of it; a peer whose instructions `is_counted` is many times slower.
    pub(crate) async fn start(house: &House, kind: Kind, size: Size, is_counted: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // Workers of nginx are another user when root starts it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (first, second) = (mock(folder.path(), 0, size).await?, mock(folder.path(), 1, size).await?);
        let all = first.1.iter().zip(&second.1).flat_map(|(first, second)| [*first, *second]);
        let all: Vec<SocketAddr> = all.take(size.backends as usize).collect();
        let backends = [first.1[0], second.1[0]];
        let ports = Ports::unused()?;
        let setting = Setting { folder: folder.path(), ports, backends: &all, house, size, is_counted };
        let control = if kind == Kind::Ntonix { Some(setting.control().await?) } else { None };
        let peer = match kind.program()? {
            None => None,
            Some(program) => {
                let mut peer = setting.start(kind, &program)?;
                match kind {
                    Kind::Ntonix => peer.answers(ports.ops, READY, OK).await?,
                    Kind::Direct | Kind::Nginx | Kind::Haproxy => peer.answers(ports.plain, "/", HTTP).await?,
                }
                Some(peer)
            }
        };
        let ca = house.authority.file();
        Ok(Self { kind, peer, _control: control, ports, size, ca, backends, _mocks: [first.0, second.0], folder })
    }

    /// Where a case finds it; of two backends without a proxy each has its own.
    pub(crate) fn urls(&self, case: &Case) -> Vec<String> {
        self.urls_for(case.over, case.is_tls)
    }

    fn urls_for(&self, over: Over, is_tls: bool) -> Vec<String> {
        let has_one_port = self.kind == Kind::Ntonix;
        let (scheme, address) = match (is_tls, over) {
            (true, _) => ("https", self.ports.tls),
            (false, Over::Http2) if !has_one_port => ("http", self.ports.h2c),
            (false, _) => ("http", self.ports.plain),
        };
        match self.kind {
            Kind::Direct => self.backends.map(|backend| format!("http://{backend}")).to_vec(),
            Kind::Nginx | Kind::Haproxy | Kind::Ntonix => vec![format!("{scheme}://{address}")],
        }
    }

    /// The same for HTTP/1.1 without TLS.
    pub(crate) fn plain_urls(&self) -> Vec<String> {
        self.urls_for(Over::Http1, false)
    }

    /// Forgets the instructions that the peer has run so far.
    pub(crate) fn forget_instructions(&self) -> anyhow::Result<()> {
        self.peer.as_ref().map_or(Ok(()), |peer| instructions::forget(peer.id()))
    }

    /// The instructions that it has run since.
    pub(crate) fn instructions(&self) -> anyhow::Result<u64> {
        self.peer.as_ref().map_or(Ok(0), |peer| instructions::counted(peer.id(), self.folder.path()))
    }

    /// Makes a load watch the peer's processes, believe its certificate and show a key that it knows.
    pub(crate) fn aim(&self, load: Load) -> anyhow::Result<Load> {
        let watch_pid = self.peer.as_ref().map_or(Ok(Vec::new()), Program::processes)?;
        let key = (self.kind == Kind::Ntonix).then(|| config::key(self.size));
        Ok(Load { watch_pid, key, ca: Some(self.ca.clone()), ..load })
    }
}

/// Starts a process that is half of the backends, and says where they are.
async fn mock(folder: &Path, number: usize, size: Size) -> anyhow::Result<(Program, Vec<SocketAddr>)> {
    let port = unused_address()?.port();
    let count = u16::try_from(size.backends.div_ceil(2).max(1))?;
    // From 127.0.0.1 on, as many as are needed.
    let address =
        |index: u16| SocketAddr::from((Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + u32::from(index)), port));
    let addresses: Vec<SocketAddr> = (0..count).map(address).collect();
    let args = addresses.iter().map(|address| format!("--listen={address}"));
    let mut mock = Program::start(&process::program("mock-llm")?, args, folder, &format!("mock-{number}"))?;
    mock.answers(addresses[0], "/health", OK).await?;
    Ok((mock, addresses))
}

/// What a peer's configuration is made from.
struct Setting<'a> {
    folder: &'a Path,
    ports: Ports,
    /// Two or more.
    backends: &'a [SocketAddr],
    house: &'a House,
    size: Size,
    is_counted: bool,
}

// === impl Setting ===

impl Setting<'_> {
    fn start(&self, kind: Kind, program: &Path) -> anyhow::Result<Program> {
        match kind {
            Kind::Nginx => {
                let config = self.filled(NGINX, "nginx.conf")?;
                let args = ["-e".into(), self.folder.join("nginx.log"), "-c".into(), config];
                Program::start(program, args, self.folder, "nginx")
            }
            Kind::Haproxy => {
                let Pair { certificate, key } = &self.house.pair;
                fs::write(self.folder.join("bundle.pem"), [fs::read(certificate)?, fs::read(key)?].concat())?;
                let config = self.filled(HAPROXY, "haproxy.cfg")?;
                Program::start(program, ["-db".into(), "-f".into(), config], self.folder, "haproxy")
            }
            Kind::Direct | Kind::Ntonix => {
                let line = (program.to_owned(), Vec::new());
                let (program, mut args) =
                    if self.is_counted { instructions::line(program, self.folder)? } else { line };
                args.extend(self.worker().into_iter().map(OsString::from));
                Program::start(&program, args, self.folder, "ntonix")
            }
        }
    }

    /// Starts the control plane that has the configuration.
    async fn control(&self) -> anyhow::Result<Program> {
        let config = self.folder.join("ntonix.yaml");
        fs::write(&config, config::yaml(self.size, self.backends))?;
        let flags = [
            ("config", config.display().to_string()),
            ("admin", "127.0.0.1:0".to_owned()),
            ("sync", self.ports.sync.to_string()),
            ("ops", self.ports.control.to_string()),
            ("state-dir", self.folder.join("revisions").display().to_string()),
        ];
        let args = flags.iter().map(|(flag, value)| format!("--{flag}={value}"));
        let mut control = Program::start(&process::program(CONTROL_PLANE)?, args, self.folder, CONTROL_PLANE)?;
        control.answers(self.ports.control, READY, OK).await?;
        Ok(control)
    }

    /// The flags of a worker whose access log is in a file, as its records are.
    fn worker(&self) -> Vec<String> {
        let Pair { certificate, key } = &self.house.pair;
        let path = |path: &Path| path.display().to_string();
        let flags = [
            ("control-plane", format!("http://{}", self.ports.sync)),
            ("listen", self.ports.plain.to_string()),
            ("listen-tls", self.ports.tls.to_string()),
            ("ops", self.ports.ops.to_string()),
            ("tls-cert", path(certificate)),
            ("tls-key", path(key)),
            ("threads", "2".to_owned()),
            ("state-dir", path(&self.folder.join("state"))),
            ("usage-log", path(&self.folder.join("usage.jsonl"))),
        ];
        flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect()
    }

    /// Writes the file that a template makes.
    fn filled(&self, template: &str, name: &str) -> anyhow::Result<PathBuf> {
        let path = |path: &Path| path.display().to_string();
        let values = [
            ("@FOLDER@", path(self.folder)),
            ("@BACKEND_0@", self.backends[0].to_string()),
            ("@BACKEND_1@", self.backends[1].to_string()),
            ("@PLAIN@", self.ports.plain.port().to_string()),
            ("@H2C@", self.ports.h2c.port().to_string()),
            ("@TLS@", self.ports.tls.port().to_string()),
            ("@CERTIFICATE@", path(&self.house.pair.certificate)),
            ("@KEY@", path(&self.house.pair.key)),
            ("@BUNDLE@", path(&self.folder.join("bundle.pem"))),
        ];
        let text = values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value));
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }
}
