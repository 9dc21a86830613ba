//! A YAML or JSON text as a tree that knows its lines; read and written without knowing what it means.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

use crate::Fault;

/// Levels of nesting; a configuration has nine.
const DEPTH_MAX: usize = 32;
/// Pieces that a text may have; ten thousand routes have some hundred thousand.
const NODES_MAX: usize = 1_000_000;
/// Pieces that may come in by aliases. They cost a writer of bombs nothing, so they are fewer.
const ALIASED_MAX: usize = 100_000;

/// A piece of the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; a name may stand twice.
    Map(Vec<(String, Node)>),
}

/// A piece and the line on which it begins, from 1; for the value of a map the line of its name. 0 when it was made,
/// not read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) tree: Tree,
}

/// Reads a text. A text that is too deep, or grows too large by its aliases, is a fault as any other.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    let spanned: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let line = error.location().and_then(|location| u32::try_from(location.line()).ok()).filter(|line| *line > 0);
        let words = error.without_snippet().to_string();
        // What comes after a semicolon is advice to programmers.
        let words = words.split(';').next().unwrap_or_default();
        Fault::new("", format!("cannot be read as YAML or JSON: {words}")).on_line(line)
    })?;
    Ok(spanned.into())
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX, max_events: 2 * NODES_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_MAX },
        // The reader of the draft tells of a repeated name with its path.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // "no" is a country and a fine name.
        strict_booleans: true,
        with_snippet: false,
    }
}

impl From<Spanned<Tree>> for Node {
    fn from(spanned: Spanned<Tree>) -> Self {
        Self { line: line_of(&spanned), tree: spanned.value }
    }
}

/// Where it is written; for what an alias brought in, the alias.
fn line_of<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Tree, E> {
        Ok(Tree::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Tree>>()? {
            list.push(item.into());
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some((name, value)) = entries.next_entry::<Spanned<String>, Tree>()? {
            let line = line_of(&name);
            map.push((name.value, Node { line, tree: value }));
        }
        Ok(Tree::Map(map))
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i128(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(items) => serializer.collect_seq(items.iter().map(|node| &node.tree)),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|(name, node)| map.serialize_entry(name, &node.tree))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_bomb_is_a_fault() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn a_text_that_is_too_deep_is_a_fault() {
        for text in ["[".repeat(100_000), "- ".repeat(5_000), "{a: ".repeat(40) + &"}".repeat(40)] {
            assert!(parse(&text).is_err());
        }
    }

    #[test]
    fn what_is_no_yaml_is_a_fault_on_its_line() {
        let fault = parse("pools:\n  - name: \"a\n").unwrap_err();
        assert!(fault.line.is_some(), "{fault}");
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
        assert!(parse("? [a]\n: b\n").is_err());
    }

    #[test]
    fn every_piece_knows_its_line() {
        let node =
            parse("pools:\n  - name: a\n    backends: # no value yet\n      - {url: x}\n\n  - name: no\n").unwrap();
        let Tree::Map(root) = node.tree else { panic!("no map") };
        let Tree::List(pools) = &root[0].1.tree else { panic!("no list") };
        let Tree::Map(first) = &pools[0].tree else { panic!("no map") };
        let Tree::Map(second) = &pools[1].tree else { panic!("no map") };
        assert_eq!((root[0].1.line, pools[0].line, first[1].1.line, second[0].1.line), (1, 2, 3, 6));
        assert_eq!(second[0].1.tree, Tree::Text("no".to_owned()));
    }

    #[test]
    fn json_is_read_by_the_same_reader() {
        let text = "{\n\t\"a\": [1, -2, true, null, \"x\\u00fc\\n\"],\n\t\"b\": {\"c\": 1.5}\n}";
        let Tree::Map(root) = parse(text).unwrap().tree else { panic!("no map") };
        let Tree::List(items) = &root[0].1.tree else { panic!("no list") };
        let trees: Vec<&Tree> = items.iter().map(|node| &node.tree).collect();
        let text = Tree::Text("xü\n".to_owned());
        assert_eq!(trees, [&Tree::Integer(1), &Tree::Integer(-2), &Tree::Bool(true), &Tree::Null, &text]);
        assert_eq!(root[1].1.line, 3);
    }
}
