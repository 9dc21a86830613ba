//! What the credential of a client stands for.

use std::{sync::Arc, time::SystemTime};

use ntonix_config::KeyDigest;

use super::{Key, Live};

/// Keys are shorter than this; what is longer is not even hashed.
const KEY_LONGEST: usize = 256;

/// What the credential of a client stands for.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Nobody needs one here.
    Anonymous,
    /// This key.
    Known(Arc<Key>),
    /// Nothing.
    Nobody(WhyNot),
}

/// Why a credential stands for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhyNot {
    /// None was shown.
    Missing,
    /// More than one was shown, or one that is no key at all.
    Malformed,
    /// It is not a key of this gateway, or was revoked.
    Unknown,
    /// It was a key.
    Expired,
    /// There are no keys, and without keys only loopback is served.
    NoKeysHere,
}

// === impl Live ===

impl Live {
    /// Finds out whom `credential` stands for. `anonymous`: this listener serves an open configuration.
    pub(crate) fn identify(&self, credential: Result<Option<&str>, WhyNot>, anonymous: bool) -> Identity {
        if self.is_open() {
            return if anonymous { Identity::Anonymous } else { Identity::Nobody(WhyNot::NoKeysHere) };
        }
        let secret = match credential {
            Ok(Some(secret)) if secret.len() <= KEY_LONGEST => secret,
            Ok(Some(_)) => return Identity::Nobody(WhyNot::Malformed),
            Ok(None) => return Identity::Nobody(WhyNot::Missing),
            Err(why) => return Identity::Nobody(why),
        };
        // The table is looked up by a hash of a high-entropy secret: its timing tells nothing that helps a guess.
        match self.keys.get(&KeyDigest::of(secret.as_bytes())) {
            None => Identity::Nobody(WhyNot::Unknown),
            Some(key) if key.expires.is_some_and(|expires| expires <= SystemTime::now()) => {
                Identity::Nobody(WhyNot::Expired)
            }
            Some(key) => Identity::Known(Arc::clone(key)),
        }
    }
}
