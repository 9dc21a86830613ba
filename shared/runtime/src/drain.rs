//! How a process ends: new work is refused, running work may finish until a deadline, the rest is cut.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::tasks;

/// A new, running pair: the trigger for who decides the end, the drain for everybody who obeys.
pub fn channel() -> (Trigger, Drain) {
    let (phase, _) = watch::channel(Phase::Running);
    let shared = Arc::new(Shared {
        phase,
        draining: AtomicBool::new(false),
        held: AtomicUsize::new(0),
        left: OnceLock::new(),
        idle: Notify::new(),
    });
    (Trigger { shared: shared.clone() }, Drain { shared })
}

/// Decides that the process ends.
#[derive(Clone, Debug)]
pub struct Trigger {
    shared: Arc<Shared>,
}

/// Tells when the process ends, and counts what must end before it.
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// A piece of running work; while it lives, the process waits for it until the deadline.
#[derive(Debug)]
pub struct Held {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    /// The same as "not running" in `phase`, for hot paths that must not take its lock.
    draining: AtomicBool,
    held: AtomicUsize,
    /// What was held when the first one heard that it was to be cut.
    left: OnceLock<usize>,
    /// Woken when `held` falls to zero.
    idle: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Running,
    Draining { until: Instant },
    Stopping,
}

// === impl Trigger ===

impl Trigger {
    /// Starts the drain: running work has until `deadline` from now. Only the first start counts.
    pub fn start(&self, deadline: Duration) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Running;
            if first {
                *phase = Phase::Draining { until: far_enough(deadline) };
            }
            first
        });
    }

    /// Ends the drain, or never begins one: what still runs is to be cut now.
    pub fn stop_now(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.phase.send_replace(Phase::Stopping);
    }

    /// Waits until nothing is held.
    pub async fn all_done(&self) {
        loop {
            let mut idle = std::pin::pin!(self.shared.idle.notified());
            // Registered before the count is read, so that the last drop in between is not missed.
            idle.as_mut().enable();
            if self.shared.held.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// The instant `deadline` from now; a deadline beyond what a clock can say is a year.
fn far_enough(deadline: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + deadline.min(YEAR)
}

// === impl Drain ===

impl Drain {
    /// Whether new work is to be refused. Costs one atomic load.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Waits until new work is to be refused.
    pub async fn draining(&self) {
        let mut phase = self.shared.phase.subscribe();
        // The sender lives in `self.shared`, so the wait cannot fail.
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Waits until running work is to be cut: the deadline is over, or a second signal came.
    pub async fn stopping(&self) {
        self.stop_comes().await;
        // Before anybody cuts anything.
        self.shared.left.get_or_init(|| self.held());
    }

    async fn stop_comes(&self) {
        let mut changes = self.shared.phase.subscribe();
        loop {
            let phase = *changes.borrow_and_update();
            match phase {
                Phase::Stopping => return,
                Phase::Draining { until } => {
                    // Whichever loses is only a timer or a wait; nothing is lost with it.
                    tokio::select! {
                        () = sleep_until(until) => return,
                        _ = changes.changed() => {}
                    }
                }
                Phase::Running => {
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Counts a piece of work until the returned value is dropped.
    pub fn hold(&self) -> Held {
        self.shared.held.fetch_add(1, Ordering::AcqRel);
        Held { shared: self.shared.clone() }
    }

    /// How many pieces of work were held when it was time to cut them; 0 before.
    pub fn left(&self) -> usize {
        self.shared.left.get().copied().unwrap_or_default()
    }

    /// How many pieces of work are held.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Acquire)
    }
}

// === impl Held ===

impl Drop for Held {
    fn drop(&mut self) {
        if self.shared.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

/// Lets signals pull the trigger: SIGTERM or SIGINT starts the drain, a second one stops. Elsewhere than on Unix it is
/// ctrl-c. The handlers are in place when this returns.
///
/// # Errors
/// When the system refuses a handler.
pub fn on_signals(trigger: Trigger, deadline: Duration) -> io::Result<JoinHandle<()>> {
    let mut signals = signals::Signals::listen()?;
    Ok(tasks::spawn("signals", async move {
        let name = signals.next().await;
        tracing::info!(signal = name, deadline_ms = millis(deadline), "Drain begins");
        trigger.start(deadline);
        loop {
            let name = signals.next().await;
            tracing::warn!(signal = name, "Second signal: what still runs is cut");
            trigger.stop_now();
        }
    }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits for `work`, but no longer than until running work is to be cut. `None`: it was cut.
pub async fn until_stopped<F: Future>(drain: &Drain, work: F) -> Option<F::Output> {
    // The losing branch is dropped: that is what cutting means.
    tokio::select! {
        biased;
        output = work => Some(output),
        () = drain.stopping() => None,
    }
}

#[cfg(unix)]
mod signals {
    //! The two signals that end a Unix process.

    use std::io;

    use tokio::signal::unix::{Signal, SignalKind, signal};

    #[derive(Debug)]
    pub(super) struct Signals {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }

        pub(super) async fn next(&mut self) -> &'static str {
            // Both are cancel-safe: a signal that is not taken now is seen by the next call.
            tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            }
        }
    }
}

#[cfg(not(unix))]
mod signals {
    //! Ctrl-c, where there are no Unix signals.

    use std::future::pending;
    use std::io;

    #[derive(Debug)]
    pub(super) struct Signals;

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) -> &'static str {
            if tokio::signal::ctrl_c().await.is_err() {
                // No handler can be had: the process ends by other means.
                pending::<()>().await;
            }
            "ctrl-c"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_running_process_neither_drains_nor_stops() {
        let (_trigger, drain) = channel();
        assert!(!drain.is_draining());
        assert!(timeout(LONG, drain.draining()).await.is_err());
        assert!(timeout(LONG, drain.stopping()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_stops_what_the_drain_left_running() {
        let (trigger, drain) = channel();
        let begun = Instant::now();
        trigger.start(Duration::from_secs(120));
        drain.draining().await;
        assert!(drain.is_draining());
        drain.stopping().await;
        assert_eq!(begun.elapsed().as_secs(), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_start_does_not_move_the_deadline() {
        let (trigger, drain) = channel();
        let begun = Instant::now();
        trigger.start(Duration::from_secs(5));
        trigger.start(LONG);
        drain.stopping().await;
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn stop_now_does_not_wait_for_the_deadline() {
        let (trigger, drain) = channel();
        trigger.start(LONG);
        let stopped = tasks::spawn("stopped", {
            let drain = drain.clone();
            async move { drain.stopping().await }
        });
        tokio::task::yield_now().await;
        let begun = Instant::now();
        trigger.stop_now();
        stopped.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn all_done_waits_for_the_last_piece_of_work() {
        let (trigger, drain) = channel();
        let (first, second) = (drain.hold(), drain.hold());
        assert_eq!(drain.held(), 2);
        drop(first);
        assert!(timeout(LONG, trigger.all_done()).await.is_err());
        let waiting = tasks::spawn("waiting", {
            let trigger = trigger.clone();
            async move { trigger.all_done().await }
        });
        tokio::task::yield_now().await;
        drop(second);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_outlives_the_deadline_is_cut() {
        let (trigger, drain) = channel();
        trigger.start(Duration::from_secs(1));
        let held = [drain.hold(), drain.hold()];
        assert_eq!(until_stopped(&drain, std::future::pending::<()>()).await, None);
        drop(held);
        drain.stopping().await;
        assert_eq!((drain.left(), drain.held()), (2, 0));
        assert_eq!(until_stopped(&drain, async { 7 }).await, Some(7));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_signal_drains_and_a_second_one_stops() {
        let (trigger, drain) = channel();
        let listening = on_signals(trigger, LONG).unwrap();
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::INT).unwrap();
        drain.draining().await;
        rustix::process::kill_process(me, rustix::process::Signal::TERM).unwrap();
        drain.stopping().await;
        listening.abort();
    }
}
