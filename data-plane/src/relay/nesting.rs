//! Tells whether a JSON object that comes in pieces is whole, for a body that nothing but the end of its connection ends.

/// How deep inside an object a text stands. It is not checked any further: that is for the client to read.
#[derive(Debug, Default)]
pub(crate) struct Nesting {
    depth: u64,
    has_begun: bool,
    is_in_string: bool,
    is_escaped: bool,
}

// === impl Nesting ===

impl Nesting {
    /// Reads on.
    pub(crate) fn read(&mut self, text: &[u8]) {
        for byte in text {
            if self.is_in_string {
                self.read_in_string(*byte);
                continue;
            }
            match byte {
                b'"' => self.is_in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.has_begun = true;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// Whether everything that was opened is closed again.
    pub(crate) fn is_whole(&self) -> bool {
        self.has_begun && self.depth == 0 && !self.is_in_string
    }

    fn read_in_string(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => self.is_in_string = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_object_is_whole_however_it_is_cut() {
        let text = br#" {"a":["x\\\"]}{[",{"b":"}"}],"c":1} "#;
        let end = text.len() - 1;
        for cut in 0..=text.len() {
            let (mut nesting, start) = (Nesting::default(), &text[..cut]);
            nesting.read(start);
            assert_eq!(nesting.is_whole(), cut >= end, "{}", String::from_utf8_lossy(start));
            nesting.read(&text[cut..]);
            assert!(nesting.is_whole(), "cut at {cut}");
        }
    }
}
