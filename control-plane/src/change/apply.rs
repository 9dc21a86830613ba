//! Applies a configuration or an old revision: check, store, publish.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use ntonix_config::{Config, Draft, diff, to_resources};
use ntonix_proto::admin::v1::{ConfigServiceApplyResponse, ConfigServicePlanResponse, Warning};
use prost::Message as _;

use super::{Ledger, access, check, draft_of, now, render};
use crate::refusal::Refusal;
use crate::snapshot::{Content, Keys, Snapshot, digest_of};
use crate::store::{Answer, Commit, Entry, Revision, Stored};

/// A change of the configuration that somebody asks for.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is to become of it.
    pub what: What,
    /// Who asks.
    pub author: String,
    /// What it is about, up to 1024 characters.
    pub message: String,
    /// Refuse unless this is the newest revision; 0: before the first. `None`: do not check.
    pub expected_revision: Option<u64>,
    /// Up to 128 characters; with it, the same request again gets the same answer. Empty: none.
    pub request_id: String,
    /// Do everything but write.
    pub validate_only: bool,
}

/// What the configuration is to become.
#[derive(Clone, Debug)]
pub enum What {
    /// This.
    Draft(Draft),
    /// What it was in this revision.
    Rollback(u64),
}

/// The content that a change leads to, as it will be stored.
struct Wanted {
    draft: Draft,
    entries: Vec<Entry>,
    rollback_of: u64,
}

impl Ledger {
    /// Says what applying `draft` would change.
    ///
    /// # Errors
    /// Those that the apply would have.
    pub fn plan(&self, draft: &Draft, expected: Option<u64>) -> Result<ConfigServicePlanResponse, Refusal> {
        let newest = self.newest();
        check::expected(newest.as_deref(), expected)?;
        let keys = self.managed_keys();
        let config = check::valid(draft, &keys)?;
        Ok(ConfigServicePlanResponse {
            changes: diff(&draft_of(newest.as_deref()), draft).into_iter().map(render::change).collect(),
            warnings: warnings(newest.as_deref(), draft, &config, &keys),
            base_revision: newest.map_or(0, |newest| newest.id.revision),
        })
    }

    /// Makes a change, all or nothing. When this returns, it is on disk and on its way to the workers.
    ///
    /// # Errors
    /// Every kind of [`Refusal`] but [`Refusal::Taken`] and [`Refusal::OwnedByFile`].
    pub async fn change(self: &Arc<Self>, change: Change) -> Result<ConfigServiceApplyResponse, Refusal> {
        check::request_fits(&change.message, &change.request_id)?;
        self.in_turn(|ledger| async move { ledger.change_now(change).await }).await
    }

    async fn change_now(&self, change: Change) -> Result<ConfigServiceApplyResponse, Refusal> {
        let request = fingerprint(&change);
        if let Some(given) = self.given_before(&change, request).await? {
            return Ok(given);
        }
        let newest = self.newest();
        check::expected(newest.as_deref(), change.expected_revision)?;
        let wanted = self.wanted(&change.what).await?;
        let keys = self.managed_keys();
        let config = check::valid(&wanted.draft, &keys)?;
        let warnings = warnings(newest.as_deref(), &wanted.draft, &config, &keys);
        let digest = digest_of(&wanted.entries);
        if let Some(newest) = newest.as_deref().filter(|newest| newest.content.revision.digest == digest) {
            let revision = Some(render::revision(&newest.content.revision));
            let reply = ConfigServiceApplyResponse { revision, changes: Vec::new(), warnings };
            self.remember(&change, request, &reply).await?;
            return Ok(reply);
        }
        let revision = next_revision(newest.as_deref(), &change, digest, wanted.rollback_of);
        let changes = diff(&draft_of(newest.as_deref()), &wanted.draft).into_iter().map(render::change).collect();
        let reply = ConfigServiceApplyResponse { revision: Some(render::revision(&revision)), changes, warnings };
        if change.validate_only {
            return Ok(reply);
        }
        let answer = answer(&change, request, &reply);
        let stored = Stored { revision: revision.clone(), entries: wanted.entries.clone() };
        self.written(self.store.commit(Commit { stored, answer })).await?;
        tracing::info!(
            config.revision = revision.number,
            author = revision.author,
            changes = reply.changes.len(),
            "Revision written"
        );
        self.publish(Arc::new(Content { revision, entries: wanted.entries, draft: wanted.draft }), keys);
        Ok(reply)
    }

    /// The answer that was given to this request id before.
    async fn given_before(
        &self,
        change: &Change,
        request: [u8; 32],
    ) -> Result<Option<ConfigServiceApplyResponse>, Refusal> {
        if change.request_id.is_empty() {
            return Ok(None);
        }
        let recall = self.store.recall(change.author.clone(), change.request_id.clone(), now());
        match self.looked_up(recall).await? {
            None => Ok(None),
            Some(answer) if answer.request != request => {
                Err(Refusal::field("request_id", "was used for another request within 24 hours"))
            }
            Some(answer) => match ConfigServiceApplyResponse::decode(answer.reply) {
                Ok(reply) => Ok(Some(reply)),
                Err(error) => Err(Refusal::Unavailable(format!("the answer given before cannot be read: {error}"))),
            },
        }
    }

    async fn wanted(&self, what: &What) -> Result<Wanted, Refusal> {
        match what {
            What::Draft(draft) => {
                let resources = to_resources(draft).into_iter();
                let entries = resources.map(|(name, resource)| Entry { name, bytes: resource.encode_to_vec().into() });
                Ok(Wanted { draft: draft.clone(), entries: entries.collect(), rollback_of: 0 })
            }
            What::Rollback(0) => Err(Refusal::field("to", "must be a revision, from 1")),
            What::Rollback(number) => {
                let old = self.content(*number).await?;
                Ok(Wanted { draft: old.draft.clone(), entries: old.entries.clone(), rollback_of: *number })
            }
        }
    }

    async fn remember(
        &self,
        change: &Change,
        request: [u8; 32],
        reply: &ConfigServiceApplyResponse,
    ) -> Result<(), Refusal> {
        match answer(change, request, reply).filter(|_| !change.validate_only) {
            Some(answer) => Ok(self.written(self.store.remember(answer)).await?),
            None => Ok(()),
        }
    }
}

/// What `draft` is likely not to mean by itself, and what it changes for every client.
fn warnings(newest: Option<&Snapshot>, draft: &Draft, config: &Config, keys: &Keys) -> Vec<Warning> {
    let turn = newest.and_then(|newest| access::turn(&newest.content.draft, draft, keys));
    let turn = turn.map(|reason| Warning { path: "keys".to_owned(), reason: reason.to_owned() });
    turn.into_iter().chain(config.warnings().iter().map(render::warning)).collect()
}

fn next_revision(newest: Option<&Snapshot>, change: &Change, digest: [u8; 32], rollback_of: u64) -> Revision {
    Revision {
        number: newest.map_or(0, |newest| newest.id.revision) + 1,
        author: change.author.clone(),
        time: now(),
        message: change.message.clone(),
        digest,
        rollback_of,
    }
}

fn answer(change: &Change, request: [u8; 32], reply: &ConfigServiceApplyResponse) -> Option<Answer> {
    (!change.request_id.is_empty()).then(|| Answer {
        author: change.author.clone(),
        id: change.request_id.clone(),
        request,
        reply: reply.encode_to_vec().into(),
        time: now(),
    })
}

/// Of all that makes two requests the same: not of `validate_only`, for that is to give the real answer.
fn fingerprint(change: &Change) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    match &change.what {
        What::Draft(draft) => {
            context.update(b"apply");
            context.update(&draft.encode_to_vec());
        }
        What::Rollback(number) => {
            context.update(b"rollback");
            context.update(&number.to_be_bytes());
        }
    }
    context.update(format!("/{:?}/", change.expected_revision).as_bytes());
    context.update(change.message.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
