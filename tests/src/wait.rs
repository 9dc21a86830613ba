//! Waits for conditions, with a deadline that only a broken test meets.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for something that should happen at once: machines under load are slow.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a condition that nobody reports.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Errors
/// When it does not hold within [`PATIENCE`]; `what` says what was waited for.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        anyhow::ensure!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}

/// The output of `future`.
///
/// # Errors
/// When there is none within [`PATIENCE`]; `what` says what was waited for.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(PATIENCE, future).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
}
