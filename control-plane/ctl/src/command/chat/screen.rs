//! The terminal, shared by streams: one writes as it comes, several line by line with their numbers.

use std::io::{self, Write};

/// A line of one of several streams is shown at the latest when it is this wide.
const LINE_MAX: usize = 72;

/// Where the tokens go.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    /// The unfinished line of each stream; a single stream has none.
    lines: Vec<String>,
    /// Whether the single stream stands in the middle of a line.
    in_line: bool,
}

// === impl Screen ===

impl<'a> Screen<'a> {
    /// A screen for so many streams.
    pub(super) fn new(out: &'a mut dyn Write, streams: u16) -> Self {
        let lines = if streams == 1 { Vec::new() } else { vec![String::new(); streams.into()] };
        Self { out, lines, in_line: false }
    }

    /// Shows what a stream said; streams count from 0.
    pub(super) fn show(&mut self, stream: usize, text: &str) -> io::Result<()> {
        let Some(line) = self.lines.get_mut(stream) else {
            self.in_line = text.chars().last().map_or(self.in_line, |last| last != '\n');
            write!(self.out, "{text}")?;
            return self.out.flush();
        };
        for c in text.chars() {
            let is_wide = line.chars().count() >= LINE_MAX && c == ' ';
            if c == '\n' || is_wide {
                writeln!(self.out, "{}| {line}", stream + 1)?;
                line.clear();
            } else {
                line.push(c);
            }
        }
        self.out.flush()
    }

    /// Ends the line that a stream has begun.
    pub(super) fn end(&mut self, stream: usize) -> io::Result<()> {
        let begun = match self.lines.get(stream) {
            Some(line) => !line.is_empty(),
            None => self.in_line,
        };
        if begun { self.show(stream, "\n") } else { Ok(()) }
    }

    /// Says that a stream of several has failed; for a single one the end of the program does.
    pub(super) fn fail(&mut self, stream: usize, reason: &str) -> io::Result<()> {
        self.end(stream)?;
        if self.lines.is_empty() { Ok(()) } else { writeln!(self.out, "{}| failed: {reason}", stream + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(streams: u16, play: impl FnOnce(&mut Screen<'_>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        play(&mut Screen::new(&mut out, streams)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_single_stream_is_shown_as_it_comes() {
        let text = shown(1, |screen| {
            screen.show(0, "one ")?;
            screen.show(0, "two")?;
            screen.end(0)?;
            screen.end(0)
        });
        assert_eq!(text, "one two\n");
    }

    #[test]
    fn the_lines_of_several_do_not_mix() {
        let text = shown(2, |screen| {
            screen.show(0, "a")?;
            screen.show(1, "x\ny")?;
            screen.show(0, "b")?;
            screen.end(0)?;
            screen.fail(1, "cut")
        });
        assert_eq!(text, "2| x\n1| ab\n2| y\n2| failed: cut\n");
    }

    #[test]
    fn a_long_line_is_shown_before_it_ends() {
        let text = shown(2, |screen| screen.show(0, &"word ".repeat(20)));
        assert_eq!(text.lines().count(), 1);
    }
}
