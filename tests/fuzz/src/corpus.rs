//! A folder of inputs: each as it is kept, then mutated ones.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use crate::mutate::mutate;
use crate::seed::{Seed, cases};

/// Gives `check` each file of the folder `corpus`, then as many mutated inputs as there are cases.
///
/// An input that fails is worth keeping: it is printed, to be saved beside the others.
///
/// # Panics
/// When the folder holds no file, and when `check` does.
#[expect(clippy::panic, reason = "it is a test's own")]
pub fn fuzz(corpus: impl AsRef<Path>, mut check: impl FnMut(&[u8])) {
    let corpus = corpus.as_ref();
    let files = read(corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    assert!(!files.is_empty(), "{} holds no input", corpus.display());
    for (path, bytes) in &files {
        guarded(&mut check, bytes, &format!("{}", path.display()));
    }
    let kept: Vec<Vec<u8>> = files.into_iter().map(|(_, bytes)| bytes).collect();
    for _ in 0..cases() {
        let seed = Seed::pick();
        let mut rng = seed.rng();
        let mut bytes = kept[rng.usize(..kept.len())].clone();
        mutate(&mut rng, &mut bytes, &kept);
        guarded(&mut check, &bytes, "made from the corpus");
    }
}

/// The files in the order of their names, so that a seed leads to the same input on every machine.
fn read(corpus: &Path) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = fs::read_dir(corpus)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), fs::read(path)?))).collect()
}

#[expect(clippy::print_stderr, reason = "it is for whoever reads why a test failed")]
fn guarded(check: &mut impl FnMut(&[u8]), bytes: &[u8], origin: &str) {
    let checked = catch_unwind(AssertUnwindSafe(|| check(bytes)));
    if let Err(panic) = checked {
        eprintln!("the failing input ({origin}), to be kept in the corpus:\nb\"{}\"", bytes.escape_ascii());
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_comes_first_as_it_is_and_mutated_inputs_follow() {
        let mut seen = Vec::new();
        fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src"), |bytes| seen.push(bytes.to_vec()));
        let files = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))).unwrap();
        assert_eq!(seen.len(), files.len() + cases() as usize);
        assert!(seen.iter().zip(&files).all(|(bytes, (_, kept))| bytes == kept));
    }

    #[test]
    fn a_check_that_fails_fails_the_test() {
        let failed =
            catch_unwind(|| fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/src"), |bytes| assert!(bytes.len() < 9)));
        assert!(failed.is_err());
    }
}
