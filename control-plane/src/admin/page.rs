//! Pages: how many, from where, and tokens that say where the next one begins.

use crate::refusal::Refusal;

/// Things on a page when the client does not say.
const SIZE_DEFAULT: u32 = 100;
/// Things on a page at most.
const SIZE_MAX: u32 = 1000;

/// How many things a page may hold.
pub(super) fn size(asked: u32) -> Result<usize, Refusal> {
    match asked {
        0 => Ok(SIZE_DEFAULT as usize),
        1..=SIZE_MAX => Ok(asked as usize),
        _ => Err(Refusal::field("page_size", format!("is {asked}, at most {SIZE_MAX} are allowed"))),
    }
}

/// A token for a list of this `kind` that goes on at `place`. It is opaque: hex, so that nobody builds one.
pub(super) fn token(kind: &str, place: &str) -> String {
    format!("{kind}\n{place}").bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a token goes on; `None` for the empty one.
pub(super) fn place(kind: &str, token: &str) -> Result<Option<String>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = unhex(token).and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(|text| text.strip_prefix(kind)?.strip_prefix('\n'));
    place.map(|place| Some(place.to_owned())).ok_or_else(no_token)
}

/// What a token with a wrong place in it gets.
pub(super) fn no_token() -> Refusal {
    Refusal::field("page_token", "is not a token of this list")
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok()).collect()
}

/// Cuts what comes after `place` (by `name`, ascending) to a page and says where the next one begins.
pub(super) fn cut<T>(
    kind: &str,
    all: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &str,
    after: Option<&str>,
    size: usize,
) -> (Vec<T>, String) {
    let mut page: Vec<T> = all.filter(|item| after.is_none_or(|after| name(item) > after)).take(size + 1).collect();
    if page.len() <= size {
        return (page, String::new());
    }
    page.truncate(size);
    let next = page.last().map(|last| token(kind, name(last))).unwrap_or_default();
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_by_its_own_list_only() {
        let token = token("keys", "bob\n7");
        assert_eq!(place("keys", &token).unwrap().as_deref(), Some("bob\n7"));
        assert_eq!(place("keys", "").unwrap(), None);
        for bad in ["workers", "key"] {
            assert!(place(bad, &token).is_err());
        }
        for bad in ["zz", "6", "ä", "+1", &token[2..]] {
            assert!(place("keys", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_hold_each_thing_once() {
        let all: Vec<String> = (0..7).map(|number| format!("n{number}")).collect();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = cut("x", all.iter().cloned(), |name| name, after.as_deref(), 3);
            assert!(!page.is_empty() && page.len() <= 3);
            seen.extend(page);
            after = place("x", &next).unwrap();
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size(0).unwrap(), 100);
        assert_eq!(size(1000).unwrap(), 1000);
        assert!(size(1001).is_err());
    }
}
