//! What happens when a new process is to take the place of this one.

use std::{sync::Arc, time::Duration};

use ntonix_runtime::{
    chain::Chain,
    drain::{Drain, Trigger},
    handover::{Handover, HandoverFault, Named, Requests},
};
use tokio::task::{AbortHandle, spawn_blocking};

/// What a worker does that only one of two processes can do, and how it stops.
pub(crate) struct Office {
    /// Tasks that end when another process does their work.
    pub(crate) retiring: Vec<AbortHandle>,
    /// Begins the drain.
    pub(crate) trigger: Trigger,
    /// Tells that it has begun, for whatever reason.
    pub(crate) drain: Drain,
    /// How long running streams may take then.
    pub(crate) drain_within: Duration,
}

// === impl Office ===

impl Office {
    /// Hands `estate` to a new process each time that `requests` says so, until one has taken over. From the beginning of
    /// a drain on the sockets are closed: nobody may connect to what nobody accepts.
    pub(crate) async fn hand_over_on(self, mut requests: Requests, estate: Vec<Named>) {
        let estate = Arc::new(estate);
        loop {
            tokio::select! {
                () = requests.next() => {}
                () = self.drain.draining() => break,
            }
            match self.hand_over(Arc::clone(&estate)).await {
                Ok(pid) => {
                    tracing::info!(pid, "The new process serves; this one drains");
                    self.retiring.iter().for_each(AbortHandle::abort);
                    self.trigger.start(self.drain_within);
                    break;
                }
                Err(error) => tracing::error!(error = %Chain(&error), "Not handed over; this process serves on"),
            }
        }
        drop(estate);
        loop {
            requests.next().await;
            tracing::warn!("SIGUSR2: this process drains and has no sockets left to hand over");
        }
    }

    /// One attempt. When this process is told to end meanwhile, the new one is ended, too.
    async fn hand_over(&self, estate: Arc<Vec<Named>>) -> Result<u32, HandoverFault> {
        let handover = Handover::new()?;
        let mut served = {
            let handover = handover.clone();
            spawn_blocking(move || handover.run(&estate))
        };
        let served = tokio::select! {
            served = &mut served => served,
            () = self.drain.draining() => {
                handover.give_up();
                served.await
            }
        };
        served.unwrap_or_else(|died| Err(HandoverFault::Died(died.to_string())))
    }
}
