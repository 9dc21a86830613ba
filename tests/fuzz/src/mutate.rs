//! Changes bytes as a broken peer, a broken disk or an attacker would.

use fastrand::Rng;

/// No input grows beyond this, so that a case stays fast.
const LONGEST: usize = 16 * 1024;
/// Bytes that formats treat in a special way.
const SPECIAL: &[u8] = b"\0\n\r \t\"\\{}[]:,-.0129eE\x7f\x80\xbf\xc3\xe2\xef\xff";

/// One to eight changes to `bytes`; `others` are inputs to borrow from, and may be empty.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..rng.usize(1..=8) {
        change(rng, bytes, others);
        bytes.truncate(LONGEST);
    }
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let (from, to) = range(rng, bytes.len());
    match rng.u8(0..9) {
        0 => bytes.truncate(from),
        1 => drop(bytes.drain(from..to)),
        2 => insert(bytes, from, &[rng.u8(..)]),
        3 => insert(bytes, from, &[special(rng)]),
        4 => {
            let piece = bytes[from..to].to_vec();
            let place = rng.usize(..=bytes.len());
            insert(bytes, place, &piece);
        }
        5 => {
            let Some(other) = rng.choice(others) else { return };
            let (start, end) = range(rng, other.len());
            insert(bytes, from, &other[start..end]);
        }
        6 => {
            let other: &[u8] = rng.choice(others).map_or(&[], Vec::as_slice);
            bytes.truncate(from);
            bytes.extend_from_slice(&other[range(rng, other.len()).0..]);
        }
        _ => {
            let (byte, bit) = (special(rng), 1 << rng.u8(0..8));
            if let Some(place) = bytes.get_mut(from) {
                *place = if rng.bool() { byte } else { *place ^ bit };
            }
        }
    }
}

fn special(rng: &mut Rng) -> u8 {
    SPECIAL[rng.usize(..SPECIAL.len())]
}

/// A range of `length` bytes, more often short than long.
fn range(rng: &mut Rng, length: usize) -> (usize, usize) {
    let start = rng.usize(..=length);
    let longest = if rng.u8(0..4) == 0 { length - start } else { (length - start).min(8) };
    (start, start + rng.usize(..=longest))
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(bytes.splice(at..at, piece.iter().copied()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_happens_and_nothing_grows_without_end() {
        let (mut rng, others) = (Rng::with_seed(1), [b"borrowed".to_vec(), vec![b'x'; LONGEST]]);
        let (mut shorter, mut longer, mut same, mut borrowed) = (0, 0, 0, 0);
        for _ in 0..2000 {
            let mut bytes = b"the original bytes".to_vec();
            change(&mut rng, &mut bytes, &others);
            match bytes.len() {
                18 => same += 1,
                length if length < 18 => shorter += 1,
                _ => longer += 1,
            }
            borrowed += usize::from(bytes.windows(4).any(|window| window == b"borr" || window == b"xxxx"));
        }
        assert!([shorter, longer, same, borrowed].iter().all(|count| *count > 100));

        let mut bytes = Vec::new();
        (0..2000).for_each(|_| mutate(&mut rng, &mut bytes, &others));
        assert!(bytes.len() <= LONGEST);
        (0..100).for_each(|_| mutate(&mut rng, &mut bytes, &[]));
    }
}
