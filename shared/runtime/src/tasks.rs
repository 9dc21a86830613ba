//! The one place that starts tasks, so that each has a name and none dies unheard.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Starts a task on the current runtime. Its name stands in its span and in the log line of a panic.
///
/// # Panics
/// Outside a tokio runtime, as tokio itself does.
#[expect(clippy::disallowed_methods, reason = "this is the one caller that the rule leaves")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let watched = async move {
        let _witness = Witness(name);
        future.await
    };
    tokio::spawn(watched.instrument(tracing::debug_span!("task", name)))
}

/// Tells of a panic while it unwinds: a join handle that nobody awaits would keep it to itself.
struct Witness(&'static str);

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.0, "Task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stays_in_its_task() {
        let failed = spawn("doomed", async { panic!("on purpose") }).await;
        assert!(failed.is_err_and(|error| error.is_panic()));
    }

    #[tokio::test]
    async fn a_task_hands_back_its_output() {
        assert_eq!(spawn("sum", async { 2 + 2 }).await.unwrap(), 4);
    }
}
