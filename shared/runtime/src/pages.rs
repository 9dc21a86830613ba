//! The size of the pages that a process gets.

/// Asks the system for small pages only. A system that gives huge ones to whoever does not ask for them (`always` in
/// `/sys/kernel/mm/transparent_hugepage/enabled`) makes a block that is hardly touched take 2 MiB. To be called before
/// there are threads; where there is no such thing, nothing happens.
pub fn keep_small() {
    #[cfg(target_os = "linux")]
    {
        // A system that refuses it has none, or gives more memory than is needed: no reason not to start.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
    }
}
