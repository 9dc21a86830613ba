//! Domain values as messages of the admin API.

use ntonix_config::{Action, Change, Warning};
use ntonix_proto::admin::v1::{self as admin, ChangeAction};

use crate::store::{ManagedKey, Revision};

/// A revision without its content.
pub fn revision(revision: &Revision) -> admin::Revision {
    admin::Revision {
        number: revision.number,
        author: revision.author.clone(),
        time: Some(revision.time.into()),
        message: revision.message.clone(),
        digest: revision.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        rollback_of: revision.rollback_of,
    }
}

/// What happened to one resource.
pub fn change(change: Change) -> admin::Change {
    let action = match change.action {
        Action::Created => ChangeAction::Created,
        Action::Updated => ChangeAction::Updated,
        Action::Deleted => ChangeAction::Deleted,
        Action::Moved => ChangeAction::Moved,
    };
    admin::Change {
        action: action.into(),
        resource: change.resource,
        fields: change.fields,
        before: change.before,
        after: change.after,
    }
}

/// Something that is allowed but probably not meant.
pub fn warning(warning: &Warning) -> admin::Warning {
    admin::Warning { path: warning.path.clone(), reason: warning.reason.clone() }
}

/// What is kept of a managed key.
pub fn key(key: &ManagedKey) -> admin::ManagedKey {
    admin::ManagedKey {
        name: key.name.clone(),
        tenant: key.tenant.clone(),
        digest: key.digest.clone(),
        created: Some(key.created.into()),
        author: key.author.clone(),
        expires: key.expires.map(Into::into),
        revoked: key.revoked.map(Into::into),
    }
}
