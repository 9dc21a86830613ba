//! Walks a tree and a message descriptor side by side.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, Value};

use crate::{
    Draft, Fault, nearest, scalar,
    schema::{CONFIG, DURATION, TIMESTAMP, descriptor},
    tree::{Node, Tree},
};

/// Reads one file; gathers its faults and its lines.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) faults: Vec<Fault>,
    pub(crate) lines: BTreeMap<String, u32>,
}

impl Reader {
    /// What the tree says, without what could not be read.
    pub(crate) fn draft(&mut self, root: &Node) -> Draft {
        if root.tree == Tree::Null {
            return Draft::default();
        }
        let message = self.message(&descriptor(CONFIG), "", root);
        message.and_then(|message| message.transcode_to().ok()).unwrap_or_default()
    }

    fn fault(&mut self, path: &str, node: &Node, reason: impl Into<String>) {
        self.faults.push(Fault::new(path, reason).on_line(Some(node.line)));
    }

    /// Notes a fault for an error and goes on without the value.
    fn kept<T>(&mut self, path: &str, node: &Node, read: Result<T, String>) -> Option<T> {
        read.map_err(|reason| self.fault(path, node, reason)).ok()
    }

    fn message(&mut self, kind: &MessageDescriptor, path: &str, node: &Node) -> Option<DynamicMessage> {
        let Tree::Map(entries) = &node.tree else {
            self.fault(path, node, format!("must be a map of {}, not {}", words(field_names(kind)), what(&node.tree)));
            return None;
        };
        let mut message = DynamicMessage::new(kind.clone());
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for (name, value) in entries {
            let at = join(path, name);
            if let Some(line) = seen.insert(name, value.line) {
                self.fault(&at, value, format!("is written twice, first on line {line}"));
                continue;
            }
            self.lines.insert(at.clone(), value.line);
            match kind.get_field_by_name(name) {
                Some(field) => self.field(&mut message, &field, &at, value),
                None => self.unknown_field(kind, name, &at, value),
            }
        }
        kind.oneofs().for_each(|oneof| self.one_of(&oneof, &seen, path, node));
        Some(message)
    }

    fn unknown_field(&mut self, kind: &MessageDescriptor, name: &str, at: &str, value: &Node) {
        let known = field_names(kind);
        let meant = nearest(name, known.iter().map(String::as_str));
        let reason = match meant {
            Some(_) => "unknown field".to_owned(),
            None => format!("unknown field; known here: {}", words(&known)),
        };
        self.faults.push(Fault::new(at, reason).meaning(meant).on_line(Some(value.line)));
    }

    /// Two members of a oneof would silently become the last one.
    fn one_of(&mut self, oneof: &OneofDescriptor, seen: &BTreeMap<&str, u32>, path: &str, node: &Node) {
        let members: Vec<String> = oneof.fields().map(|field| field.name().to_owned()).collect();
        if members.iter().filter(|name| seen.contains_key(name.as_str())).count() > 1 {
            self.fault(path, node, format!("must have only one of {}", words(&members)));
        }
    }

    fn field(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor, path: &str, node: &Node) {
        if node.tree == Tree::Null {
            return;
        }
        let value = if field.is_list() { self.list(field, path, node) } else { self.single(field, path, node) };
        if let Some(value) = value {
            message.set_field(field, value);
        }
    }

    fn list(&mut self, field: &FieldDescriptor, path: &str, node: &Node) -> Option<Value> {
        let Tree::List(items) = &node.tree else {
            self.fault(path, node, format!("must be a list, not {}", what(&node.tree)));
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = format!("{path}[{index}]");
            self.lines.insert(at.clone(), item.line);
            // An item that cannot be read leaves an empty one behind, so that those after it keep their numbers.
            let empty = || Value::default_value(&field.kind());
            values.push(self.single(field, &at, item).unwrap_or_else(empty));
        }
        Some(Value::List(values))
    }

    fn single(&mut self, field: &FieldDescriptor, path: &str, node: &Node) -> Option<Value> {
        match field.kind() {
            Kind::Message(kind) => match kind.full_name() {
                DURATION => {
                    let read = text(node, "a duration such as \"30s\"").and_then(|text| scalar::parse_duration(text));
                    let duration = self.kept(path, node, read)?;
                    Some(moment(&kind, duration.seconds, duration.nanos))
                }
                TIMESTAMP => {
                    let read =
                        text(node, "a time such as \"2027-01-01T00:00:00Z\"").and_then(|text| scalar::parse_time(text));
                    let time = self.kept(path, node, read)?;
                    Some(moment(&kind, time.seconds, time.nanos))
                }
                _ => self.message(&kind, path, node).map(Value::Message),
            },
            Kind::Enum(kind) => self.word(&scalar::enum_words(&kind), path, node),
            Kind::Bool => self.kept(path, node, flag(node)).map(Value::Bool),
            Kind::Uint32 => self.kept(path, node, count(node)).map(Value::U32),
            Kind::Uint64 => self.kept(path, node, size(node)).map(Value::U64),
            _ => self.kept(path, node, text(node, "a text")).map(|text| Value::String(text.to_owned())),
        }
    }

    fn word(&mut self, known: &[(String, i32)], path: &str, node: &Node) -> Option<Value> {
        let names: Vec<&str> = known.iter().map(|(word, _)| word.as_str()).collect();
        let reason = format!("must be one of {}", words(&names));
        let Tree::Text(written) = &node.tree else {
            self.fault(path, node, format!("{reason}, not {}", what(&node.tree)));
            return None;
        };
        let found = known.iter().find(|(word, _)| word == written);
        if found.is_none() {
            let fault = Fault::new(path, format!("{reason}, not {written:?}")).meaning(nearest(written, names));
            self.faults.push(fault.on_line(Some(node.line)));
        }
        found.map(|(_, number)| Value::EnumNumber(*number))
    }
}

/// A duration or a timestamp: both are seconds and nanoseconds.
fn moment(kind: &MessageDescriptor, seconds: i64, nanos: i32) -> Value {
    let mut message = DynamicMessage::new(kind.clone());
    message.set_field_by_name("seconds", Value::I64(seconds));
    message.set_field_by_name("nanos", Value::I32(nanos));
    Value::Message(message)
}

fn text<'a>(node: &'a Node, wanted: &str) -> Result<&'a String, String> {
    match &node.tree {
        Tree::Text(text) => Ok(text),
        Tree::Bool(_) | Tree::Integer(_) | Tree::Float(_) if wanted == "a text" => {
            Err(format!("must be a text, not {}: put it in quotes", what(&node.tree)))
        }
        other => Err(format!("must be {wanted}, not {}", what(other))),
    }
}

fn flag(node: &Node) -> Result<bool, String> {
    match node.tree {
        Tree::Bool(value) => Ok(value),
        ref other => Err(format!("must be true or false, not {}", what(other))),
    }
}

fn count(node: &Node) -> Result<u32, String> {
    match node.tree {
        Tree::Integer(value) => {
            u32::try_from(value).map_err(|_| format!("must be from 0 to {}, not {value}", u32::MAX))
        }
        ref other => Err(format!("must be a whole number, not {}", what(other))),
    }
}

fn size(node: &Node) -> Result<u64, String> {
    match &node.tree {
        Tree::Integer(value) => u64::try_from(*value).map_err(|_| format!("must not be {value}")),
        Tree::Text(text) => scalar::parse_size(text),
        other => Err(format!("must be a size such as \"32MiB\", not {}", what(other))),
    }
}

fn what(tree: &Tree) -> &'static str {
    match tree {
        Tree::Null => "nothing",
        Tree::Bool(_) => "true or false",
        Tree::Integer(_) => "a number",
        Tree::Float(_) => "a fraction",
        Tree::Text(_) => "a text",
        Tree::List(_) => "a list",
        Tree::Map(_) => "a map",
    }
}

fn field_names(kind: &MessageDescriptor) -> Vec<String> {
    kind.fields().map(|field| field.name().to_owned()).collect()
}

fn words(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    names.into_iter().map(|name| name.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
