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
    // As long as it is full, there is nothing to give back.
    line.clear();
    line.shrink_to(KEPT_MOST);
    ROOM.set(line);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_line_is_not_kept_room_for_and_another_is() {
        for (length, kept) in [(1_000_000, KEPT_MOST), (KEPT_MOST, KEPT_MOST), (10, KEPT_MOST)] {
            let mut written = String::new();
            write_in_one_piece(Writer::new(&mut written), |mut room| {
                room.clear();
                room.extend(std::iter::repeat_n('x', length));
                room
            })
            .unwrap();
            assert_eq!(written.len(), length);
            let room = ROOM.take();
            assert_eq!(room.capacity(), kept, "after {length} bytes");
            ROOM.set(room);
        }
    }
}
