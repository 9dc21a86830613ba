//! Why a request is refused, and how that looks as a gRPC status: the only place that knows status codes.

use std::collections::HashMap;

use ntonix_config::{Fault, Faults};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::store::StoreFault;

/// Details travel in trailers, which clients bound to 8 KiB and more; base64 adds a third.
const DETAILS_MAX: usize = 4096;

/// A request that was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Something in it is wrong.
    #[error("{0}")]
    Invalid(Faults),
    /// Another revision than the expected one is the newest.
    #[error("revision {current} is the newest, not the expected one")]
    Conflict {
        /// The newest revision; 0 before the first.
        current: u64,
    },
    /// What it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What it names is no longer kept.
    #[error("{0}")]
    NoLonger(String),
    /// The name is in use, or was.
    #[error("{0}")]
    Taken(String),
    /// A file owns the configuration.
    #[error("the file given with --config owns the configuration: change it there")]
    OwnedByFile,
    /// A key that is to be revoked also stands in the configuration, and would go on to open the gateway.
    #[error("the configuration has the same key under the name \"{name}\": take it out there first, then revoke")]
    StillOpen {
        /// What the configuration calls it.
        name: String,
    },
    /// The disk is full.
    #[error("the disk is full; nothing was written")]
    DiskFull,
    /// It cannot be done now.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// One fault in one field of the request.
    pub fn field(path: &str, reason: impl Into<String>) -> Self {
        Self::Invalid(Fault::new(path, reason).into())
    }
}

impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Self {
        Self::Invalid(faults)
    }
}

impl From<StoreFault> for Refusal {
    fn from(fault: StoreFault) -> Self {
        match fault {
            StoreFault::Full => Self::DiskFull,
            StoreFault::Taken => Self::Taken(fault.to_string()),
            // Writes are made by one writer at a time, so a stale one means that somebody else writes to the store.
            StoreFault::Stale | StoreFault::Broken(_) | StoreFault::Unavailable(_) => {
                Self::Unavailable(fault.to_string())
            }
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Invalid(faults) => invalid(&faults),
            Refusal::Conflict { current } => conflict(message, current),
            Refusal::NotFound(_) => Self::not_found(message),
            Refusal::NoLonger(_) => Self::out_of_range(message),
            Refusal::Taken(_) => Self::already_exists(message),
            Refusal::OwnedByFile | Refusal::StillOpen { .. } => Self::failed_precondition(message),
            Refusal::DiskFull => Self::resource_exhausted(message),
            Refusal::Unavailable(_) => Self::unavailable(message),
        }
    }
}

fn conflict(message: String, current: u64) -> Status {
    let metadata = HashMap::from([("current_revision".to_owned(), current.to_string())]);
    let details = ErrorDetails::with_error_info("REVISION_CONFLICT", "ntonix", metadata);
    Status::with_error_details(Code::Aborted, message, details)
}

/// Names the faults by their paths, as many as fit, and says how many there are.
fn invalid(faults: &Faults) -> Status {
    let mut violations = Vec::new();
    let mut size = 0;
    for fault in faults {
        let reason = match &fault.hint {
            Some(hint) => format!("{}; {hint}", fault.reason),
            None => fault.reason.clone(),
        };
        size += fault.path.len() + reason.len() + 8;
        if size > DETAILS_MAX && !violations.is_empty() {
            break;
        }
        violations.push(FieldViolation::new(shortened(&fault.path), shortened(&reason)));
    }
    let left_out = faults.len() - violations.len();
    if left_out > 0 {
        violations.push(FieldViolation::new("", format!("and {left_out} more faults")));
    }
    let message = match faults.len() {
        1 => faults.to_string(),
        count => {
            format!("{count} faults, the first: {}", faults.iter().next().map(Fault::to_string).unwrap_or_default())
        }
    };
    Status::with_error_details(Code::InvalidArgument, shortened(&message), ErrorDetails::with_bad_request(violations))
}

/// A text may repeat what the client sent, which may be long.
fn shortened(text: &str) -> String {
    const MAX: usize = 512;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(status: &Status) -> Vec<(String, String)> {
        let details = status.get_error_details();
        let request = details.bad_request().unwrap();
        request.field_violations.iter().map(|found| (found.field.clone(), found.description.clone())).collect()
    }

    #[test]
    fn a_conflict_names_the_newest_revision() {
        let status = Status::from(Refusal::Conflict { current: 7 });
        assert_eq!(status.code(), Code::Aborted);
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "REVISION_CONFLICT");
        assert_eq!(info.metadata["current_revision"], "7");
    }

    #[test]
    fn each_kind_has_its_code() {
        let text = String::new;
        for (refusal, code) in [
            (Refusal::from(StoreFault::Full), Code::ResourceExhausted),
            (Refusal::from(StoreFault::Taken), Code::AlreadyExists),
            (Refusal::from(StoreFault::Broken(text())), Code::Unavailable),
            (Refusal::from(StoreFault::Unavailable(text())), Code::Unavailable),
            (Refusal::NotFound(text()), Code::NotFound),
            (Refusal::NoLonger(text()), Code::OutOfRange),
            (Refusal::OwnedByFile, Code::FailedPrecondition),
            (Refusal::StillOpen { name: text() }, Code::FailedPrecondition),
        ] {
            assert_eq!(Status::from(refusal).code(), code);
        }
    }

    #[test]
    fn every_fault_is_named_by_its_path() {
        let faults =
            vec![Fault::new("routes[0].pool", "no such pool").meaning(Some("llama")), Fault::new("keys", "bad")];
        let status = Status::from(Refusal::from(Faults::new(faults).unwrap()));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("2 faults, the first: routes[0].pool: no such pool"), "{status}");
        let expected = [("routes[0].pool", "no such pool; did you mean \"llama\"?"), ("keys", "bad")];
        assert_eq!(violations(&status), expected.map(|(path, reason)| (path.to_owned(), reason.to_owned())));
    }

    #[test]
    fn a_thousand_faults_fit_into_trailers() {
        let faults = (0..1000).map(|at| Fault::new(format!("routes[{at}]"), "x".repeat(2000))).collect();
        let status = Status::from(Refusal::from(Faults::new(faults).unwrap()));
        assert!(status.details().len() < 6000, "{}", status.details().len());
        assert!(violations(&status).last().unwrap().1.starts_with("and 9"));
    }
}
