//! Whatever a control plane sends, as frames with their lengths before them.

use ntonix_fuzz::fuzz;
use prost::Message as _;

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/sync");

#[test]
fn fuzz_sync_decoding() {
    fuzz(CORPUS, |mut bytes| {
        let mut session = Session::new(None);
        while let Ok(response) = SyncResponse::decode_length_delimited(&mut bytes) {
            let before = session.running().cloned();
            match session.take(response) {
                Action::End(reason) => return assert!(!reason.is_empty()),
                Action::Run(snapshot) => {
                    assert!(snapshot.is_whole(), "it is not what the control plane means");
                    // Refused with faults or run, and never the end of the worker.
                    match snapshot.config() {
                        Ok(_) => session.ran(snapshot),
                        Err(faults) => assert!(!faults.to_string().is_empty()),
                    }
                }
                Action::Nothing | Action::Welcome { .. } | Action::Send(_) => {
                    assert_eq!(session.running(), before.as_ref(), "nothing else changes what runs");
                }
            }
        }
    });
}
