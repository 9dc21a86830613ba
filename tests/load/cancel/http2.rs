//! Clients of HTTP/2 that leave: a stream is reset, the connection stays.

use ntonix_runtime::tasks;

use crate::cancel::Left;
use crate::cancel::http1::reach;
use crate::plan::Plan;
use crate::target::Target;

pub(super) async fn leave_all(plan: &Plan, target: &Target, left: &Left) -> anyhow::Result<()> {
    let (mut connection, driver) = target.http2().await?;
    let driver = tasks::spawn("connection", driver);
    while let Some(nonce) = plan.begin() {
        let reached = reach(plan, &mut connection, &nonce).await;
        left.note(plan, nonce, reached);
    }
    // The last reset leaves before the connection does.
    drop(connection);
    driver.await?;
    Ok(())
}
