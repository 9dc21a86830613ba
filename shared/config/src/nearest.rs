//! The known name that is nearest to what was written.

/// Bytes of a name that is compared: no name of ours has more. The comparison costs the square of it.
const LENGTH_MAX: usize = 64;

/// The one of `known` that `written` was probably meant to be: at most a third of it is different. Of names with more
/// than 64 bytes nothing is said.
#[must_use]
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > LENGTH_MAX {
        return None;
    }
    let allowed = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|name| name.len() <= LENGTH_MAX)
        .map(|name| (distance(written, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_compared() {
        let long = "a".repeat(LENGTH_MAX + 1);
        assert_eq!(nearest(&long, [long.as_str()]), None);
        assert_eq!(nearest(&long[1..], [long.as_str(), &long[1..]]), Some(&long[1..]));
    }

    #[test]
    fn what_is_too_far_away_is_not_suggested() {
        assert_eq!(nearest("gpt", ["llama", "mistral"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_slip_of_the_hand_finds_its_name() {
        assert_eq!(nearest("lama", ["spare", "llama"]), Some("llama"));
        assert_eq!(nearest("wieght", ["weight", "height"]), Some("weight"));
        assert_eq!(nearest("urll", ["ur", "url"]), Some("url"));
        assert_eq!(nearest("backend", ["backends", "balance"]), Some("backends"));
    }
}
