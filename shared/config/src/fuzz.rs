//! Whatever somebody writes into a configuration file, as it is kept in `corpus/` and as it comes out of mutations.

use std::path::Path;

use ntonix_fuzz::fuzz;

use crate::{Source, diff, from_resources, to_json, to_resources, to_yaml, validate};

const DRAFT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/draft");

#[test]
fn fuzz_draft_loading_and_validation() {
    fuzz(DRAFT, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        // Without a folder, so that relative paths stay what they are.
        let source = match Source::read(&text, Path::new("")) {
            Ok(source) => source,
            Err(faults) => return assert!(!faults.to_string().is_empty()),
        };
        let draft = source.draft.clone();
        for written in [to_yaml(&draft), to_json(&draft)] {
            let again = Source::read(&written, Path::new("")).unwrap_or_else(|faults| panic!("{faults}\n{written}"));
            assert_eq!(again.draft, draft, "{written}");
        }
        match validate(&draft) {
            Err(faults) => {
                let count = faults.len();
                assert!(faults.iter().all(|fault| !fault.reason.is_empty()));
                assert_eq!(source.locate(faults).len(), count);
            }
            // What the control plane has accepted, a worker accepts, from the form in which it is pushed.
            Ok(_) => {
                let resources = to_resources(&draft);
                let pushed = from_resources(resources.into_iter().map(|(_, resource)| resource));
                assert!(diff(&draft, &pushed).is_empty());
                assert!(validate(&pushed).is_ok());
            }
        }
    });
}
