//! Programs under other programs that make the system fail: calls that fail or kill, a disk that is small.
//!
//! Not every machine can do that. Where it cannot, the test fails; with `NTONIX_TESTS_MAY_SKIP` in the environment there
//! is `None` instead, and stderr has a line with "SKIPPED" and why. `tests/run` sets it when it has counted what is missing.

use std::path::Path;
use std::process::{Command, Stdio};

/// The wrapper that makes system calls of a program fail, as in `fsync:error=EIO:when=2`, or end it, as in
/// `pwrite64:signal=KILL:when=3`. What is counted is counted in each thread by itself.
pub fn failing_calls(inject: &str) -> Option<Vec<String>> {
    let calls = inject.split(':').next().unwrap_or_default();
    // -D: the program keeps its process id and its parent, and its tracer is on the side.
    let flags = ["-D", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned);
    let wrapper: Vec<String> = ["strace".to_owned()]
        .into_iter()
        .chain(flags)
        .chain([format!("--trace={calls}"), format!("--inject={inject}")])
        .collect();
    works(&wrapper).then_some(wrapper).or_else(|| skipped("strace is not installed, or may not trace"))
}

/// The wrapper that writes down these system calls of a program, as in `connect,setsockopt`.
pub fn traced_calls(calls: &str, into: &Path) -> Option<Vec<String>> {
    let flags = ["strace", "-D", "-f", "-qq", "-o"].map(str::to_owned).into_iter();
    let wrapper: Vec<_> = flags.chain([into.display().to_string(), format!("--trace={calls}")]).collect();
    works(&wrapper).then_some(wrapper).or_else(|| skipped("strace is not installed, or may not trace"))
}

/// The wrapper that gives a program a file system of its own at `folder`, so large and in memory; it goes with the
/// program. From outside it is at `/proc/<process id>/root/<folder>`.
pub fn small_disk(folder: &Path, size: &str) -> Option<Vec<String>> {
    let mount = format!("mount -t tmpfs -o size={size} tmpfs '{}' && exec \"$0\" \"$@\"", folder.display());
    let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", &mount].map(str::to_owned).to_vec();
    works(&wrapper).then_some(wrapper).or_else(|| skipped("no file system of one's own may be mounted here"))
}

/// The library that shows a program another wall clock when it is preloaded.
pub fn moved_clock() -> Option<String> {
    let shown = Command::new("faketime").args(["-f", "+0s", "printenv", "LD_PRELOAD"]).output();
    let path = shown.ok().and_then(|shown| String::from_utf8(shown.stdout).ok()).unwrap_or_default();
    // Of its two forms the one for programs with threads. The path has a word that only the loader understands.
    let library = path.trim().replace("libfaketime.so", "libfaketimeMT.so");
    library.contains("faketime").then_some(library).or_else(|| skipped("faketime is not installed"))
}

fn works(wrapper: &[String]) -> bool {
    let Some((program, args)) = wrapper.split_first() else { return false };
    let mut command = Command::new(program);
    command.args(args).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
#[expect(clippy::panic, reason = "a test that cannot run has not passed")]
pub(crate) fn skipped<T>(why: &str) -> Option<T> {
    if std::env::var_os("NTONIX_TESTS_MAY_SKIP").is_none() {
        panic!("{why}; NTONIX_TESTS_MAY_SKIP=1 skips what needs it");
    }
    eprintln!("!!! SKIPPED: {why}");
    None
}
