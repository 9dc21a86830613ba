//! What the operations port says of a worker.

use std::{sync::Arc, time::SystemTime};

use ntonix_runtime::{
    drain::Drain,
    probe::{Probes, Readiness},
    telemetry,
};

use crate::{
    live::{Cell, Live, OriginSource},
    usage::Books,
};

/// The pages of one worker.
#[derive(Debug)]
pub(crate) struct Pages {
    pub(crate) cell: Arc<Cell>,
    pub(crate) books: Books,
    pub(crate) drain: Drain,
}

// === impl Pages ===

impl Probes for Pages {
    fn ready(&self) -> Readiness {
        if self.drain.is_draining() {
            return Readiness::NotReady("draining".to_owned());
        }
        match self.cell.load() {
            // Ready with the control plane away, too: it serves what it has and says how old that is.
            Some(live) => Readiness::Ready(describe(&live)),
            None => Readiness::NotReady("no configuration yet".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        if let Some(live) = self.cell.load() {
            self.books.metrics.look_at(&live);
        }
        self.books.metrics.lost_records(self.books.usage.lost());
        self.books.metrics.dropped_log_lines(telemetry::dropped_lines());
        self.books.metrics.encode()
    }
}

/// Where the configuration is from and how old it is, for people and for the first line of the log.
pub(crate) fn describe(live: &Live) -> String {
    let origin = live.origin();
    let source = match origin.source {
        OriginSource::File => "file",
        OriginSource::ControlPlane => "control-plane",
        OriginSource::Disk if live.is_confirmed() => "control-plane",
        OriginSource::Disk => "disk",
    };
    let revision = origin.snapshot.as_ref().map_or(0, |snapshot| snapshot.revision);
    format!("ready\nconfig_source={source}\nconfig_revision={revision}\nconfig_age_seconds={}", age(live).as_secs())
}

/// How long ago the configuration was taken from where it came from.
pub(crate) fn age(live: &Live) -> std::time::Duration {
    SystemTime::now().duration_since(live.origin().taken).unwrap_or_default()
}
