//! Turns a draft into a configuration, or says everything that is wrong with it.

mod checker;
mod pools;
mod routes;
mod tenants;
mod warnings;

pub(crate) use warnings::of as warnings_of;

use std::time::Duration;

use ntonix_proto::config::v1;

use crate::{
    Config, Draft, Fault, Faults, Limits,
    validate::checker::{Checker, MINUTE},
};

/// Checks a draft and fills in the defaults.
///
/// # Errors
///
/// Every fault by its path: values out of their range, repeated names, names that lead nowhere.
pub fn validate(draft: &Draft) -> Result<Config, Faults> {
    let mut checker = Checker::default();
    let config = check(&mut checker, draft);
    let faults = checker.faults.into_iter().chain(checker.dangling).collect();
    Faults::new(faults).map_or(Ok(config), Err)
}

/// The same faults in two lists: those of a value by itself, and those of names that lead nowhere.
pub(crate) fn faults_of(draft: &Draft) -> (Vec<Fault>, Vec<Fault>) {
    let mut checker = Checker::default();
    check(&mut checker, draft);
    (checker.faults, checker.dangling)
}

/// What there is to it without what was faulty; a configuration only when the checker has found nothing.
fn check(checker: &mut Checker, draft: &Draft) -> Config {
    Config {
        pools: checker.pools(draft),
        routes: checker.routes(draft),
        tenants: checker.tenants(draft),
        keys: checker.keys(draft),
        secrets: checker.secrets(draft),
        limits: checker.limits(draft.limits.as_ref()),
    }
}

impl Checker {
    fn limits(&mut self, limits: Option<&v1::Limits>) -> Limits {
        let Some(limits) = limits else { return Limits::default() };
        let Limits { streams, queue, queue_wait, body } = Limits::default();
        Limits {
            streams: self.count("limits.streams", limits.streams, 1..=1_000_000, streams),
            queue: self.count("limits.queue", limits.queue, 0..=1_000_000, queue),
            queue_wait: self.duration("limits.queue_wait", limits.queue_wait, Duration::ZERO..=MINUTE, queue_wait),
            body: self.body(limits.body, body),
        }
    }

    fn body(&mut self, bytes: Option<u64>, default: u64) -> u64 {
        let bytes = bytes.unwrap_or(default);
        if !(1 << 10..=1 << 30).contains(&bytes) {
            self.fault("limits.body", format!("must be from 1KiB to 1GiB, not {bytes} bytes"));
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
