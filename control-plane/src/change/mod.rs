//! The change: one writer at a time, checked, stored, published, in this order.

mod read;
mod check;
mod access;
mod apply;
mod keys;
pub mod file;
pub mod render;

#[cfg(test)]
pub(crate) mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use ntonix_config::Draft;
use ntonix_runtime::tasks;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

pub use apply::{Change, What};
pub use keys::NewKey;
pub use read::Step;

use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::snapshot::publish::Publisher;
use crate::snapshot::{Content, Keys, Snapshot};
use crate::store::{Contents, Store, StoreFault, stored_time};

/// All revisions and keys: what they are comes from the store, what they become goes through here.
#[derive(Debug)]
pub struct Ledger {
    store: Arc<dyn Store>,
    store_id: String,
    publisher: Arc<Publisher>,
    metrics: Metrics,
    /// Held while something is written, from the first check until it is published.
    turn: Mutex<()>,
    /// Why the store is broken, once it is.
    broken: watch::Sender<Option<String>>,
}

impl Ledger {
    /// Reads what the store holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn Store>, metrics: Metrics) -> Result<Self, StoreFault> {
        let Contents { store_id, newest, keys, keys_version } = store.load().await?;
        let keys = Arc::new(Keys { version: keys_version, all: keys });
        let content = newest.map(Content::read).transpose()?.map(Arc::new);
        let first = content.map(|content| Arc::new(Snapshot::new(&store_id, content, keys, None)));
        let publisher = Arc::new(Publisher::new(first));
        let ledger =
            Self { store, store_id, publisher, metrics, turn: Mutex::new(()), broken: watch::Sender::new(None) };
        ledger.show_newest();
        Ok(ledger)
    }

    /// Where the newest snapshot is to be seen.
    pub fn publisher(&self) -> &Arc<Publisher> {
        &self.publisher
    }

    /// Waits until the store is broken, and says why. The process must end then.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let reason = broken.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Whether the store can no longer be used.
    pub fn is_broken(&self) -> bool {
        self.broken.borrow().is_some()
    }

    /// Lets go of the store's files.
    pub async fn close(&self) {
        self.store.close().await;
    }

    fn newest(&self) -> Option<Arc<Snapshot>> {
        self.publisher.newest()
    }

    /// The keys of the moment.
    pub fn managed_keys(&self) -> Arc<Keys> {
        // Without a revision there is no tenant, and so no key.
        self.newest().map(|newest| newest.keys.clone()).unwrap_or_default()
    }

    /// Runs a change to its end, even when who asked for it goes away in the middle: what is on disk must be published.
    async fn in_turn<T, F>(self: &Arc<Self>, change: impl FnOnce(Arc<Self>) -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let (ledger, change) = (self.clone(), change(self.clone()));
        let work = async move {
            let _turn = ledger.turn.lock().await;
            if ledger.is_broken() {
                return Err(Refusal::Unavailable("the store is broken, the control plane ends".to_owned()));
            }
            change.await
        };
        tasks::spawn("change", work)
            .await
            .unwrap_or_else(|_| Err(Refusal::Unavailable("the change was cut off".to_owned())))
    }

    /// Waits for a write, measures it, and raises the alarm when the store turns out to be broken.
    async fn written<T>(&self, write: impl Future<Output = Result<T, StoreFault>>) -> Result<T, StoreFault> {
        let begun = Instant::now();
        let outcome = write.await;
        match &outcome {
            Ok(_) => {
                self.metrics.commits.inc();
                self.metrics.commit_seconds.observe(begun.elapsed());
            }
            Err(fault) => {
                self.metrics.commit_failures.inc();
                self.note(fault);
            }
        }
        outcome
    }

    /// Waits for a read, and raises the alarm when the store turns out to be broken.
    async fn looked_up<T>(&self, read: impl Future<Output = Result<T, StoreFault>>) -> Result<T, StoreFault> {
        let outcome = read.await;
        if let Err(fault) = &outcome {
            self.note(fault);
        }
        outcome
    }

    fn note(&self, fault: &StoreFault) {
        if let StoreFault::Broken(reason) = fault {
            tracing::error!(error = %reason, "The store is broken");
            self.broken.send_replace(Some(reason.clone()));
        } else if matches!(fault, StoreFault::Full) {
            tracing::warn!("The disk is full: writes are refused, reads and workers go on");
        }
    }

    fn publish(&self, content: Arc<Content>, keys: Arc<Keys>) {
        let before = self.newest();
        let snapshot = Snapshot::new(&self.store_id, content, keys, before.as_deref());
        self.publisher.publish(Arc::new(snapshot));
        self.show_newest();
    }

    fn show_newest(&self) {
        if let Some(newest) = self.newest() {
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.metrics.revision.set(gauge(newest.id.revision));
            self.metrics.keys_version.set(gauge(newest.id.keys_version));
        }
    }
}

/// The time as it will be stored.
fn now() -> SystemTime {
    stored_time(SystemTime::now())
}

/// What the newest revision says; nothing before the first.
fn draft_of(newest: Option<&Snapshot>) -> Draft {
    newest.map(|newest| newest.content.draft.clone()).unwrap_or_default()
}
