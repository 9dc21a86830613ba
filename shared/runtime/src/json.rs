//! A JSON object on a line of its own, written member by member: what logs and records for machines consist of.
//!
//! serde_json looks at each character of each string. Most of ours are plain, and are looked at once and copied; all others
//! are still serde_json's.

use itoa::Integer;
use serde::Serialize;

/// The object so far. Names are written as they are: they come from the code.
#[derive(Debug)]
pub struct Object(String);

// === impl Object ===

impl Object {
    /// An object without members, written in `room`, whose text is forgotten.
    pub fn begin(mut room: String) -> Self {
        room.clear();
        room.push('{');
        Self(room)
    }

    /// A text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        if text.bytes().all(is_plain) { self.quoted(name, |out| out.push_str(text)) } else { self.value(name, text) }
    }

    /// A text that needs no escapes, as `write` writes it.
    pub fn quoted(&mut self, name: &str, write: impl FnOnce(&mut String)) -> &mut Self {
        self.name(name);
        self.0.push('"');
        write(&mut self.0);
        self.0.push('"');
        self
    }

    /// A whole number.
    pub fn integer(&mut self, name: &str, number: impl Integer) -> &mut Self {
        self.name(name);
        self.0.push_str(itoa::Buffer::new().format(number));
        self
    }

    /// Anything that serde_json can write, as texts, numbers and nothing always can; else null.
    pub fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> &mut Self {
        self.name(name);
        self.0.push_str(serde_json::to_string(value).as_deref().unwrap_or("null"));
        self
    }

    /// The whole line, its end included.
    pub fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > "{".len() {
            self.0.push(',');
        }
        for part in ["\"", name, "\":"] {
            self.0.push_str(part);
        }
    }
}

/// Does it stand for itself between quotes, in JSON as in Rust? Printable ASCII does, without quote and backslash.
pub(crate) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_reads_as_it_was_and_the_line_is_serde_jsons() {
        let texts = ["", "plain ~ text", "\"", "\\", "\n\u{1b}\u{7f}", "ünï\u{2028}", "a\"b"];
        let mut object = Object::begin("forgotten".to_owned());
        for text in texts {
            object.text("t", text);
        }
        object.integer("i", -7).integer("u", u64::MAX).value("f", &2.5).value("n", &None::<bool>).value("x", &f64::NAN);
        object.quoted("q", |out| out.push_str("as it is"));
        let texts: String = texts.map(|text| format!("\"t\":{},", serde_json::to_string(text).unwrap())).concat();
        let rest = "\"i\":-7,\"u\":18446744073709551615,\"f\":2.5,\"n\":null,\"x\":null,\"q\":\"as it is\"";
        assert_eq!(object.end(), format!("{{{texts}{rest}}}\n"));
        assert_eq!(Object::begin(String::new()).end(), "{}\n");
    }
}
