//! Where lines are written to: a file that may be moved away at any time, or standard output.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::Destination;

/// What is written to.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout(io::Stdout),
    File(PathBuf, File),
}

// === impl Sink ===

impl Sink {
    pub(super) fn open(destination: &Destination) -> io::Result<Self> {
        Ok(match destination {
            Destination::Stdout => Self::Stdout(io::stdout()),
            Destination::File(path) => Self::File(path.clone(), append_to(path)?),
        })
    }

    /// Opens the file again when `wanted`, or when its path leads elsewhere by now: whoever rotates logs moves it away, and
    /// the signal that says so reaches only one of the processes that write to it. Says whether it is another file then.
    pub(super) fn follow(&mut self, wanted: bool) -> io::Result<bool> {
        let Self::File(path, file) = self else { return Ok(false) };
        let is_another = leads_elsewhere(path, file);
        if wanted || is_another {
            *file = append_to(path)?;
        }
        Ok(is_another)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => {
                let written = stdout.write(bytes)?;
                stdout.flush().map(|()| written)
            }
            Self::File(_, file) => file.write(bytes),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    refuse_pipe(path)?;
    OpenOptions::new().append(true).create(true).open(path)
}

/// Opening a pipe would wait for its reader, and stop the process from starting or from ending.
#[cfg(unix)]
fn refuse_pipe(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;

    match std::fs::metadata(path) {
        Ok(there) if there.file_type().is_fifo() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a named pipe; use - and a pipe of the shell"))
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn refuse_pipe(_path: &Path) -> io::Result<()> {
    Ok(())
}

impl std::fmt::Display for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout(_) => f.write_str("standard output"),
            Self::File(path, _) => path.display().fmt(f),
        }
    }
}

#[cfg(unix)]
fn leads_elsewhere(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let (Ok(there), Ok(here)) = (std::fs::metadata(path), file.metadata()) else { return true };
    (there.dev(), there.ino()) != (here.dev(), here.ino())
}

#[cfg(not(unix))]
fn leads_elsewhere(_path: &Path, _file: &File) -> bool {
    false
}
