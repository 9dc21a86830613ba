//! Model names and globs: what a route answers for and what a tenant may ask for.

use std::fmt;

/// The most characters that a model name or a glob may have.
const LENGTH_MAX: usize = 256;

/// An exact model name or a glob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelPattern {
    /// This name and no other.
    Exact(String),
    /// Every name that the glob matches.
    Glob(Glob),
}

/// A pattern with "*" (any characters, also none) and "?" (one character).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Glob(String);

// === impl ModelPattern ===

impl ModelPattern {
    /// Reads a name or a glob; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        check_characters(text)?;
        if let Some(strange) = text.chars().find(|c| matches!(c, '[' | ']' | '{' | '}' | '\\')) {
            return Err(format!("is a bad glob: only \"*\" and \"?\" are special, and {strange:?} is not allowed"));
        }
        let text = text.to_owned();
        Ok(if is_glob(&text) { Self::Glob(Glob(text)) } else { Self::Exact(text) })
    }

    /// Whether a model name is meant by it.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        match self {
            Self::Exact(name) => name == model,
            Self::Glob(glob) => glob.matches(model),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(name) | Self::Glob(Glob(name)) => name,
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether it has a character that makes it a glob.
pub(crate) fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// What holds for every model name; the error says what is wrong.
pub(crate) fn check_characters(text: &str) -> Result<(), String> {
    match text.chars().count() {
        0 => return Err("must not be empty".to_owned()),
        1..=LENGTH_MAX => {}
        length => return Err(format!("must have at most {LENGTH_MAX} characters, not {length}")),
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("must not have control characters, nor spaces at its ends".to_owned());
    }
    Ok(())
}

// === impl Glob ===

impl Glob {
    /// Whether a model name is meant by it.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        glob_matches(&self.0, model, |_| true, || true)
    }

    /// Whether it matches every name that `other` matches. Certain when it says so; a rare overlap goes unnoticed, and
    /// one for which there are not `steps` enough. It takes its steps, at least one, from those.
    pub(crate) fn covers(&self, other: &Glob, steps: &mut u64) -> bool {
        let step = || {
            let left = steps.checked_sub(1);
            *steps = left.unwrap_or(0);
            left.is_some()
        };
        // Read the other glob as a name: its "?" stands for any one character, its "*" for any number of them.
        glob_matches(&self.0, &other.0, |c| c != '*', step)
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Matches without recursion: after a mismatch the last "*" takes one character more. `single` says which characters a
/// "?" may stand for, `step` whether one step more may be made.
fn glob_matches(glob: &str, text: &str, single: impl Fn(char) -> bool, mut step: impl FnMut() -> bool) -> bool {
    let (mut glob, mut text) = (glob.chars(), text.chars());
    let mut retry = None;
    while step() {
        let (mut rest, mut ahead) = (glob.clone(), text.clone());
        match (rest.next(), ahead.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                retry = Some((rest.clone(), text.clone()));
                glob = rest;
                continue;
            }
            (Some(wanted), Some(found)) if (wanted == '?' && single(found)) || (wanted == found && wanted != '?') => {
                (glob, text) = (rest, ahead);
                continue;
            }
            _ => {}
        }
        let Some((after_star, taken)) = &mut retry else { return false };
        if taken.next().is_none() {
            return false;
        }
        (glob, text) = (after_star.clone(), taken.clone());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        match ModelPattern::parse(text) {
            Ok(ModelPattern::Glob(glob)) => glob,
            other => panic!("{text} is no glob but {other:?}"),
        }
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        for bad in ["", "llama-[78]", "a{b,c}*", "a\\*", "a\tb", " a", "a ", &"x".repeat(257)] {
            assert!(ModelPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_matches_only_itself() {
        let name = ModelPattern::parse("meta-llama/Llama-3:70b").unwrap();
        assert!(name.matches("meta-llama/Llama-3:70b"));
        assert!(!name.matches("meta-llama/llama-3:70b"));
        assert!(ModelPattern::parse(&"ü".repeat(256)).is_ok());
    }

    #[test]
    fn a_glob_matches_what_it_says() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "llama"][..], &[][..]),
            ("llama-*", &["llama-", "llama-3-70b"], &["llama", "a-llama-3"]),
            ("*-70b", &["-70b", "x-70b-70b"], &["x-70b-"]),
            ("a*b*c", &["abc", "axbxbxc"], &["ab", "abcd"]),
            ("l?ama", &["llama", "lüama"], &["lama", "lllama"]),
            ("*a?", &["aaab", "ab"], &["a", "ba"]),
            ("***x", &["x", "yx"], &["y"]),
        ] {
            for name in yes {
                assert!(glob(pattern).matches(name), "{pattern} should match {name}");
            }
            for name in no {
                assert!(!glob(pattern).matches(name), "{pattern} should not match {name}");
            }
        }
    }

    #[test]
    fn a_long_glob_of_stars_ends_soon() {
        let stars = "*a".repeat(128);
        assert!(!glob(&stars).matches(&"a".repeat(127)));
    }

    #[test]
    fn a_glob_covers_a_narrower_one() {
        for (wide, narrow) in [("*", "llama-*"), ("llama-*", "llama-3-*"), ("a?c*", "abc*"), ("a*", "a?"), ("x*", "x*")]
        {
            assert!(glob(wide).covers(&glob(narrow), &mut 100), "{wide} covers {narrow}");
        }
        for (one, other) in [("llama-3-*", "llama-*"), ("a?", "a*"), ("*-70b", "llama-*"), ("abc*", "a?c*")] {
            assert!(!glob(one).covers(&glob(other), &mut 100), "{one} does not cover {other}");
        }
    }
}
