//! One run: the stage is set, rounds are played on it, and the books are closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use ntonix_runtime::tasks;
use ntonix_tests::cluster::Cluster;
use ntonix_tests::ledger::{Books, Ending, Secrets, Transport};
use ntonix_tests::mock_llm::MockLlm;
use ntonix_tests::wait::eventually;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{CREDENTIAL, State, backend_name};
use crate::field::{Ends, Field, Found};
use crate::lanes::{self, Plane};
use crate::plan::{ALICE, GUEST, PROMPT};
use crate::progress;
use crate::report::{Report, Resident, Run};
use crate::schedule::Schedule;
use crate::settings::Settings;
use crate::stage::Stage;
use crate::strike::WORKERS;
use crate::worker::Watched;
use crate::{http, socket};

/// Streams at once on each connection of HTTP/2, and on each socket.
const LANES: usize = 5;
/// Streams of each transport after the faults, which must all be complete.
const CALM: u64 = 20;

/// What lives over the rounds.
struct Cast {
    stage: Stage,
    plane: Plane,
    workers: Vec<Watched>,
    books: Books,
    total: Found,
    rounds_kib: Vec<u64>,
}

pub(crate) async fn run(settings: &Settings, seed: u64, schedule: &Schedule) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut cast = Cast::gather(seed).await?;
    for round in 1..=settings.rounds {
        cast = cast.play(settings, seed, schedule, round).await.with_context(|| format!("round {round}"))?;
    }
    let memory = Resident {
        start_kib: cast.workers[0].start_kib,
        peak_kib: cast.workers[0].peak_kib,
        rounds_kib: std::mem::take(&mut cast.rounds_kib),
    };
    let (books, total) = cast.close(seed).await?;
    Ok(Report::new(Run {
        seed,
        seconds: begun.elapsed().as_secs_f64(),
        books,
        violations: total.violations,
        struck: total.struck,
        pushed: total.pushed,
        memory,
        must_exercise_all: settings.must_exercise_all(),
    }))
}

fn secrets() -> Secrets {
    Secrets::default()
        .and("a client's key", ALICE)
        .and("a client's key", GUEST)
        .and("a backend's credential", CREDENTIAL.1)
        .and("a prompt", PROMPT)
}

// === impl Cast ===

impl Cast {
    /// Starts everything and waits until both workers run the first configuration.
    async fn gather(seed: u64) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let stage = Stage::start(&cluster, seed)?;
        let mut workers = Vec::new();
        for index in 0..WORKERS {
            workers.push(Watched::start(&stage, index).await?);
        }
        let state = State::default();
        cluster.apply(&stage.config(&state)?).await?;
        let plane = Plane { cluster, state };
        Ok(Self { stage, plane, workers, books: Books::default(), total: Found::default(), rounds_kib: Vec::new() })
    }

    async fn play(self, settings: &Settings, seed: u64, schedule: &Schedule, round: u8) -> anyhow::Result<Self> {
        let Self { stage, plane, workers, mut books, mut total, rounds_kib } = self;
        let begun = Instant::now();
        let field = Arc::new(Field::new(stage.doors()?, secrets(), seed, round, Ends::At(begun + settings.minutes)));
        let (over, is_over) = watch::channel(false);
        let clients = async {
            for client in clients(&field, usize::from(settings.streams)) {
                client.await?;
            }
            over.send_replace(true);
            anyhow::Ok(())
        };
        let backends = async {
            lanes::backends(&stage, &field, schedule, begun).await;
            anyhow::Ok(())
        };
        let progress = async {
            progress::tell(&field, settings.minutes, round, is_over.clone()).await;
            anyhow::Ok(())
        };
        let workers = workers.into_iter().map(|worker| worker.run(&stage, &field, schedule, begun, is_over.clone()));
        // All in this task: who strikes has little to do, and what it waits with may stay on one thread.
        let (plane, workers, (), (), (), ()) = tokio::try_join!(
            plane.run(&stage, &field, schedule, begun),
            try_join_all(workers),
            backends,
            lanes::links(&stage, &field, schedule, begun),
            clients,
            progress,
        )?;
        add(&mut books, &mut total, field.take());
        let mut cast = Self { stage, plane, workers, books, total, rounds_kib };
        cast.recover(seed, round).await.context("after the faults")?;
        Ok(cast)
    }

    /// After the faults all is as before: the control plane takes a change that both workers run, every backend may
    /// be asked, every stream is complete, and no stream is left over.
    async fn recover(&mut self, seed: u64, round: u8) -> anyhow::Result<()> {
        let Self { stage, plane, workers, books, total, rounds_kib } = self;
        stage.clear();
        stage.mocks.iter().for_each(MockLlm::forget_next);
        plane.state = State::default();
        if let Err(error) = plane.cluster.apply(&stage.config(&plane.state)?).await {
            progress::note(&format!(
                "a worker did not run the last change within the patience of ntonixctl: {error:#}"
            ));
        }
        one_revision(workers).await?;
        for worker in &*workers {
            worker.recovers().await?;
        }
        // Rounds are numbered up to 10.
        let field = Arc::new(Field::new(stage.doors()?, secrets(), seed, round + 100, Ends::Calmly(CALM)));
        for client in clients(&field, Transport::ALL.len() * WORKERS) {
            client.await?;
        }
        let mut found = field.take();
        for account in std::mem::take(&mut found.accounts) {
            let is_fine = account.ending == Ending::Complete && account.wrong.is_none();
            anyhow::ensure!(is_fine, "a stream without faults is not complete: {account:?}");
            // It is not counted: what a run must exercise, it must exercise under faults.
            found.others.extend(account.exchange);
        }
        add(books, total, found);
        for (index, worker) in workers.iter().enumerate() {
            let kib = worker.settled_kib().await?;
            if index == 0 {
                rounds_kib.push(kib);
            }
        }
        Ok(())
    }

    /// Ends the workers and takes all books.
    async fn close(self, seed: u64) -> anyhow::Result<(Books, Found)> {
        let Self { stage, plane, workers, mut books, mut total, .. } = self;
        let field = Field::new(stage.doors()?, secrets(), seed, 0, Ends::Calmly(0));
        for worker in workers {
            books.records.extend(worker.end(&field).await?);
        }
        drop(plane);
        for (index, mock) in stage.mocks.iter().enumerate() {
            eventually("the mocks are idle", async || mock.counts().active == 0).await?;
            books.add_mock(&backend_name(index), mock.ledger());
        }
        add(&mut books, &mut total, field.take());
        Ok((books, total))
    }
}

/// Waits until both workers run the same revision, the newest that either has. A link whose last bytes were corrupted is
/// missed after three heartbeats and tried again after up to ten seconds, so that this may take twice our patience.
async fn one_revision(workers: &[Watched]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let same = async || {
            seen.clear();
            for worker in workers {
                seen.push(worker.revision().await);
            }
            seen.iter().all(|revision| revision.is_some() && *revision == seen[0])
        };
        if eventually("both workers run one revision", same).await.is_ok() {
            return Ok(());
        }
    }
    let logs: Vec<_> = workers.iter().map(Watched::last_words).collect();
    anyhow::bail!("the workers run {seen:?} a minute after the faults:\n{}", logs.join("\n"))
}

fn add(books: &mut Books, total: &mut Found, found: Found) {
    books.accounts.extend(found.accounts);
    books.others.extend(found.others);
    total.violations.extend(found.violations);
    total.pushed += found.pushed;
    let struck: BTreeMap<&'static str, u64> = found.struck;
    for (kind, times) in struck {
        *total.struck.entry(kind).or_default() += times;
    }
}

/// Starts clients for so many streams at once, evenly over transports and workers.
fn clients(field: &Arc<Field>, streams: usize) -> Vec<JoinHandle<()>> {
    let mut clients = Vec::new();
    let share = streams.div_ceil(Transport::ALL.len());
    for transport in Transport::ALL {
        let lanes = match transport {
            Transport::Http1 | Transport::Http1Tls => 1,
            _ => LANES.min(share.div_ceil(WORKERS)),
        };
        for index in 0..share.div_ceil(lanes).max(WORKERS) {
            let (field, worker) = (field.clone(), index % WORKERS);
            clients.push(match transport {
                Transport::SocketAuto | Transport::SocketCredit => {
                    // Every third pair of sockets is a guest's.
                    let is_guest = index / WORKERS % 3 == 2;
                    tasks::spawn("client", socket::client(field, transport, worker, lanes, is_guest))
                }
                _ => tasks::spawn("client", http::client(field, transport, worker, lanes)),
            });
        }
    }
    clients
}
