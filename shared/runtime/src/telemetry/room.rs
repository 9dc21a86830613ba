//! The room that a thread keeps for its next log line, so that none is asked of the allocator for each.

use std::{cell::Cell, fmt};

use tracing_subscriber::fmt::format::Writer;

/// What is kept at most: a line may be huge.
const KEPT_MOST: usize = 4096;

thread_local! {
    static ROOM: Cell<String> = const { Cell::new(String::new()) };
}

/// Writes what `write` makes in the room that it is given.
pub(super) fn write_in_one_piece(mut writer: Writer<'_>, write: impl FnOnce(String) -> String) -> fmt::Result {
    // Taken, not borrowed: what is written may log a line itself.
    let mut line = write(ROOM.take());
    let written = writer.write_str(&line);
    line.shrink_to(KEPT_MOST);
    ROOM.set(line);
    written
}
