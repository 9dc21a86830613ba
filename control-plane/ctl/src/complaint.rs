//! What the control plane refuses, in the words of the command line.

use std::error::Error as _;

use anyhow::anyhow;
use ntonix_config::{Fault, Faults};
use ntonix_runtime::chain::Chain;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::file::File;

/// How the gRPC library ends its message about an answer that is plain HTTP.
const NOT_GRPC: &str = "while receiving response with status:";
const NOT_FOR_OPERATORS: &str =
    "what answers at --server is not the operators' port of a control plane, which is 7070 by default";

/// Says why a call failed: for a bad configuration every fault, with the line when the file is at hand.
pub(crate) fn explain(status: &Status, file: Option<&File>) -> anyhow::Error {
    if let Some(request) = status.get_details_bad_request() {
        let faults = request.field_violations.into_iter();
        let faults: Vec<Fault> = faults.map(|violation| Fault::new(violation.field, violation.description)).collect();
        if let Some(faults) = Faults::new(faults) {
            return match file {
                Some(file) => anyhow!("the configuration is refused\n{}", file.describe(faults)),
                None => anyhow!("{faults}"),
            };
        }
    }
    if let Some(newest) = newest_revision(status) {
        return anyhow!("somebody else was faster: the newest revision is {newest}, not the expected one");
    }
    // The connection broke: what the channel says of it is only that it did.
    if let Some(cause) = status.source() {
        return anyhow!("the control plane is not available: {}", Chain(cause));
    }
    match (status.code(), status.message()) {
        (Code::Unavailable, message) => anyhow!("the control plane is not available: {message}"),
        // A worker's traffic port answers in plain HTTP, the port for workers has other services.
        (Code::Unimplemented, "") => anyhow!("{NOT_FOR_OPERATORS}"),
        (_, message) if message.contains(NOT_GRPC) => anyhow!("{NOT_FOR_OPERATORS}"),
        (code, "") => anyhow!("{code}"),
        (_, message) => anyhow!("{message}"),
    }
}

/// The newest revision, when the expected one was another.
fn newest_revision(status: &Status) -> Option<String> {
    let details = status.get_details_error_info()?;
    (details.reason == "REVISION_CONFLICT").then(|| details.metadata.get("current_revision").cloned())?
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn every_fault_has_its_path_and_line() {
        let file = File::from_text("x.yaml", "routes:\n  - model: a\n    targets:\n      - pool: b\n").unwrap();
        let violations = vec![
            FieldViolation::new("routes[0].targets[0].pool", "no pool is named \"b\""),
            FieldViolation::new("routes[0].retries", "is strange"),
        ];
        let details = ErrorDetails::with_bad_request(violations);
        let status = Status::with_error_details(Code::InvalidArgument, "2 faults", details);
        assert_eq!(
            explain(&status, Some(&file)).to_string(),
            "the configuration is refused\nx.yaml:2: routes[0].retries: is strange\nx.yaml:4: routes[0].targets[0].pool: no pool is named \"b\""
        );
        assert!(explain(&status, None).to_string().starts_with("routes[0].targets[0].pool: no pool"));
    }

    #[test]
    fn a_conflict_names_the_newest_revision() {
        let metadata = HashMap::from([("current_revision".to_owned(), "7".to_owned())]);
        let details = ErrorDetails::with_error_info("REVISION_CONFLICT", "ntonix", metadata);
        let status = Status::with_error_details(Code::Aborted, "conflict", details);
        assert!(explain(&status, None).to_string().contains("the newest revision is 7"));
    }

    #[test]
    fn a_port_that_is_not_for_operators_is_told_as_such() {
        let gateway = Status::internal(format!("protocol error: strange flag {NOT_GRPC} 404 Not Found"));
        for status in [gateway, Status::unimplemented("")] {
            assert_eq!(explain(&status, None).to_string(), NOT_FOR_OPERATORS);
        }
    }

    #[test]
    fn any_other_refusal_keeps_its_message() {
        assert_eq!(explain(&Status::not_found("no pool \"x\""), None).to_string(), "no pool \"x\"");
        assert_eq!(explain(&Status::new(Code::NotFound, ""), None).to_string(), Code::NotFound.to_string());
    }
}
