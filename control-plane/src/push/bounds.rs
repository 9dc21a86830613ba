//! What is kept of what workers say about themselves: bounded, whatever they send.

use ntonix_proto::sync::v1::{Fault, Hello, SnapshotId};

/// Bytes that are kept of each text of a hello.
const TEXT_MAX: usize = 256;
/// Bytes that are kept of a fault's path, and of its reason.
const FAULT_MAX: (usize, usize) = (256, 1024);
/// Bytes that are kept of all faults of a worker: a page of a hundred workers must fit into 4 MiB.
const FAULTS_MAX: usize = 16 * 1024;

/// What is kept of a hello, whatever the worker sent.
pub(super) fn hello(hello: Hello) -> Hello {
    Hello {
        instance: bounded(hello.instance, TEXT_MAX),
        version: bounded(hello.version, TEXT_MAX),
        address: bounded(hello.address, TEXT_MAX),
        running: id(hello.running),
        ..hello
    }
}

/// An id that cannot be one of ours is none.
pub(super) fn id(id: Option<SnapshotId>) -> Option<SnapshotId> {
    id.filter(|id| id.store_id.len() <= TEXT_MAX && id.digest.len() <= TEXT_MAX)
}

/// The first faults, each of them cut, and how many more there were.
pub(super) fn faults(faults: Vec<Fault>) -> Vec<Fault> {
    let (mut kept, mut bytes, all) = (Vec::new(), 0, faults.len());
    for Fault { path, reason } in faults {
        let fault = Fault { path: bounded(path, FAULT_MAX.0), reason: bounded(reason, FAULT_MAX.1) };
        // A fault costs something even when it says nothing.
        bytes += fault.path.len() + fault.reason.len() + 16;
        if bytes > FAULTS_MAX {
            break;
        }
        kept.push(fault);
    }
    if kept.len() < all {
        kept.push(Fault { path: String::new(), reason: format!("and {} more", all - kept.len()) });
    }
    kept
}

/// The beginning of a text, with a mark when something is missing.
fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
        // What was cut off shall not stay in memory.
        text.shrink_to_fit();
    }
    text
}
