//! Writes a draft or a resource as the YAML or JSON that the reader understands.

use ntonix_proto::config::v1::Resource;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::{
    Draft, scalar,
    schema::{CONFIG, DURATION, RESOURCE, TIMESTAMP, reflect},
    tree::{Node, Tree},
};

/// A draft as YAML; reading it again gives the same draft.
#[must_use]
pub fn to_yaml(draft: &Draft) -> String {
    yaml(&message_tree(&reflect(draft, CONFIG)))
}

/// A draft as JSON; reading it again gives the same draft.
#[must_use]
pub fn to_json(draft: &Draft) -> String {
    json(&message_tree(&reflect(draft, CONFIG)))
}

/// What a resource holds, as YAML: the same lines as in a file.
#[must_use]
pub fn resource_to_yaml(resource: &Resource) -> String {
    yaml(&content(resource))
}

/// What a resource holds, as JSON.
#[must_use]
pub fn resource_to_json(resource: &Resource) -> String {
    json(&content(resource))
}

/// The one message inside a resource; the kind is part of its name.
fn content(resource: &Resource) -> Tree {
    match message_tree(&reflect(resource, RESOURCE)) {
        Tree::Map(mut entries) => entries.pop().map_or(Tree::Map(Vec::new()), |(_, node)| node.tree),
        other => other,
    }
}

fn yaml(tree: &Tree) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    // Writing into memory cannot fail, and every tree made here can be written.
    serde_saphyr::to_string_with_options(tree, options).unwrap_or_default()
}

fn json(tree: &Tree) -> String {
    // As above.
    serde_json::to_string_pretty(tree).map(|text| text + "\n").unwrap_or_default()
}

fn message_tree(message: &DynamicMessage) -> Tree {
    let written = message.fields().map(|(field, value)| (field.name().to_owned(), made(field_tree(&field, value))));
    Tree::Map(written.collect())
}

fn made(tree: Tree) -> Node {
    Node { line: 0, tree }
}

fn field_tree(field: &FieldDescriptor, value: &Value) -> Tree {
    match value {
        Value::List(items) => Tree::List(items.iter().map(|item| made(single_tree(field, item))).collect()),
        single => single_tree(field, single),
    }
}

fn single_tree(field: &FieldDescriptor, value: &Value) -> Tree {
    match (field.kind(), value) {
        (Kind::Message(kind), Value::Message(message)) => {
            moment_text(&kind, message).unwrap_or_else(|| message_tree(message))
        }
        (Kind::Enum(kind), Value::EnumNumber(number)) => {
            let words = scalar::enum_words(&kind);
            // A value of a newer version has no word here; its number at least shows that it is there.
            let word = words.into_iter().find(|(_, known)| known == number).map(|(word, _)| word);
            word.map_or(Tree::Integer((*number).into()), Tree::Text)
        }
        (_, Value::Bool(value)) => Tree::Bool(*value),
        (_, Value::U32(value)) => Tree::Integer((*value).into()),
        (_, Value::U64(value)) => scalar::format_size(*value).map_or(Tree::Integer((*value).into()), Tree::Text),
        (_, Value::String(text)) => Tree::Text(text.clone()),
        // The schema has no other kinds; a test reads and writes every field of it.
        _ => Tree::Null,
    }
}

fn moment_text(kind: &MessageDescriptor, message: &DynamicMessage) -> Option<Tree> {
    match kind.full_name() {
        DURATION => Some(Tree::Text(scalar::format_duration(&message.transcode_to().ok()?))),
        TIMESTAMP => Some(Tree::Text(message.transcode_to::<prost_types::Timestamp>().ok()?.to_string())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
