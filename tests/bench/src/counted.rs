//! The one function whose instructions are counted.

/// What callgrind is told to count by: it counts from the entry of this function to its return, on the thread that calls it.
pub(crate) const COUNTED: &str = "*count_instructions_of*";
/// Runs that are not counted: they fill caches, pools and lazy tables.
pub(crate) const WARMED_UP: u64 = 10;

/// Runs `operation` while its instructions are counted.
// Inlined, it would have no name that callgrind could find.
#[inline(never)]
pub(crate) fn count_instructions_of(operation: &mut dyn FnMut()) {
    operation();
}

/// Counts `times` runs of `operation`, after some that warm it up. Returns `times`.
pub(crate) fn repeated(times: u64, mut operation: impl FnMut()) -> u64 {
    for _ in 0..WARMED_UP {
        operation();
    }
    for _ in 0..times {
        count_instructions_of(&mut operation);
    }
    times
}
