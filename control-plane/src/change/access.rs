//! Who may ask at all under a configuration, and what to say when a change turns that over.

use ntonix_config::Draft;

use crate::snapshot::Keys;

const OPENED: &str = "no tenant and no key is left: workers serve everybody who reaches them on loopback, and refuse \
                      every request elsewhere unless they run with --allow-anonymous";
const SHUT: &str = "no key opens anything, but there are tenants: every request is refused until there is a key";
const KEYED: &str = "until now nobody needed a key: from now on every request without one is refused";

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Everybody, where a worker allows that.
    Open,
    /// Who has a key.
    Keyed,
    /// Nobody: there are tenants, but no key opens anything.
    Nobody,
}

/// What to say of a change from one configuration to another beside these managed keys; `None` when the same may ask as
/// before: everybody, nobody, or who has a key.
pub(super) fn turn(before: &Draft, after: &Draft, keys: &Keys) -> Option<&'static str> {
    let (before, after) = (access(before, keys), access(after, keys));
    match (before, after) {
        (before, after) if before == after => None,
        (_, Access::Open) => Some(OPENED),
        (_, Access::Nobody) => Some(SHUT),
        (Access::Open, Access::Keyed) => Some(KEYED),
        (_, Access::Keyed) => None,
    }
}

/// Keys that have expired count: what the clock does is no change of the configuration.
fn access(draft: &Draft, keys: &Keys) -> Access {
    // A key has a tenant, a managed one too: without tenants there are none.
    if draft.tenants.is_empty() {
        Access::Open
    } else if draft.keys.is_empty() && keys.unrevoked().next().is_none() {
        Access::Nobody
    } else {
        Access::Keyed
    }
}
