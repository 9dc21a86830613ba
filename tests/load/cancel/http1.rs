//! Clients of HTTP/1.1 that leave: the connection is closed.

use crate::cancel::{Left, first_token, wait};
use crate::plan::Plan;
use crate::streams::brief;
use crate::tally::Check;
use crate::target::{Connection, Target};

pub(super) async fn leave_all(plan: &Plan, target: &Target, left: &Left) {
    while let Some(nonce) = plan.begin() {
        let leave = async |mut connection| reach(plan, &mut connection, &nonce).await;
        let reached = target.with_connection(leave).await;
        // The connection is closed by now; closing takes a few µs, which the measured time then includes.
        left.note(plan, nonce, reached.unwrap_or_else(|error| Err(format!("{error:#}"))));
    }
}

/// Asks and waits for the moment to leave, which is what it returns.
pub(super) async fn reach(plan: &Plan, connection: &mut Connection, nonce: &str) -> Result<u64, String> {
    let check = Check::new(nonce.to_owned(), plan.tokens);
    let answered = connection.chat(plan.body_bytes(nonce));
    if plan.departure.is_early() {
        return wait(answered).await;
    }
    let response = answered.await.map_err(|error| brief(&error))?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status().as_u16()));
    }
    first_token(plan, response.into_body(), check).await
}
