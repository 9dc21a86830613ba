//! I6: resident memory against the streams that were held at the time.

use super::violation::{Invariant, Violation};

/// What a worker took at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Streams under way.
    pub streams: u64,
    /// Resident memory.
    pub resident_kib: u64,
}

/// What a worker took over its life, kept as the worst of it.
#[derive(Debug, Clone)]
pub struct Memory {
    worker: String,
    /// Before the first stream.
    idle_kib: u64,
    /// What the process may take beside its streams: connections, buffers that the allocator keeps.
    slack_kib: u64,
    /// What each stream may take.
    stream_kib: u64,
    worst: Option<(u64, Sample)>,
    peak_kib: u64,
}

// === impl Memory ===

impl Memory {
    /// Of a worker that has no stream yet.
    pub fn of(worker: &str, idle_kib: u64, slack_kib: u64, stream_kib: u64) -> Self {
        Self { worker: worker.to_owned(), idle_kib, slack_kib, stream_kib, worst: None, peak_kib: idle_kib }
    }

    /// Takes a look.
    pub fn add(&mut self, sample: Sample) {
        self.peak_kib = self.peak_kib.max(sample.resident_kib);
        let allowed = self.idle_kib + self.slack_kib + self.stream_kib * sample.streams;
        let over = sample.resident_kib.saturating_sub(allowed);
        if over > 0 && self.worst.is_none_or(|(worst, _)| over > worst) {
            self.worst = Some((over, sample));
        }
    }

    /// The most that was seen.
    pub fn peak_kib(&self) -> u64 {
        self.peak_kib
    }

    /// The worst moment, if it was out of bounds.
    pub fn violation(&self) -> Option<Violation> {
        let (over, Sample { streams, resident_kib }) = self.worst?;
        let Self { idle_kib, slack_kib, stream_kib, .. } = self;
        let what = format!(
            "{resident_kib} KiB with {streams} streams are {over} KiB more than \
             {idle_kib} + {slack_kib} + {stream_kib} for each"
        );
        Some(Violation::new(Invariant::BoundedMemory, &self.worker, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_memory_beyond_the_bound_of_its_streams_is_found() {
        let mut memory = Memory::of("w1", 1_000, 100, 10);
        memory.add(Sample { streams: 0, resident_kib: 1_100 });
        memory.add(Sample { streams: 50, resident_kib: 1_600 });
        assert_eq!(memory.violation(), None);
        memory.add(Sample { streams: 10, resident_kib: 1_250 });
        memory.add(Sample { streams: 10, resident_kib: 1_201 });
        let violation = memory.violation().unwrap();
        assert_eq!(violation.invariant, Invariant::BoundedMemory);
        assert!(violation.what.starts_with("1250 KiB with 10 streams are 50 KiB more"), "{violation}");
        assert_eq!(memory.peak_kib(), 1_600);
    }
}
