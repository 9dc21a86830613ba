//! A thread that owns a database connection and does one job after the other.

use std::fmt;
use std::fs::File;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::store::StoreFault;

/// Jobs that may wait; more wait in their callers.
const JOBS_MAX: usize = 64;

/// Where jobs for one connection are handed in.
pub(super) struct Desk {
    jobs: mpsc::Sender<Job>,
}

enum Job {
    Run(Box<dyn FnOnce(&mut Connection) + Send>),
    Close(oneshot::Sender<()>),
}

impl Desk {
    /// Starts the thread. It ends, and lets go of `lock`, when the desk is closed or dropped.
    pub(super) fn start(name: &str, mut connection: Connection, lock: Option<File>) -> Result<Self, StoreFault> {
        let (jobs, mut waiting) = mpsc::channel(JOBS_MAX);
        let work = move || {
            let mut closed = None;
            while let Some(job) = waiting.blocking_recv() {
                match job {
                    Job::Run(run) => run(&mut connection),
                    Job::Close(done) => {
                        closed = Some(done);
                        break;
                    }
                }
            }
            drop(connection);
            drop(lock);
            if let Some(closed) = closed {
                // Nobody may be waiting for it any more.
                let _ = closed.send(());
            }
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|error| StoreFault::Unavailable(format!("no thread for the store: {error}")))?;
        Ok(Self { jobs })
    }

    /// Has `job` done and waits for what it returns. Once handed in, it is done even when nobody waits.
    pub(super) async fn run<T, F>(&self, job: F) -> Result<T, StoreFault>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreFault> + Send + 'static,
    {
        let closed = || StoreFault::Unavailable("it is closed".to_owned());
        let (reply, result) = oneshot::channel();
        let run = Box::new(move |connection: &mut Connection| {
            // The caller may have gone; the work counts all the same.
            let _ = reply.send(job(connection));
        });
        self.jobs.send(Job::Run(run)).await.map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }

    /// Waits until the jobs before are done and the connection is closed.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok() {
            // An error means that it was closed in between.
            let _ = closed.await;
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}
