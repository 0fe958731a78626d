//! The file in the file system: its lock, and its identity, by which a file that was moved or replaced is told
//! from the one that was opened. Knows no SQL.

use super::super::JournalError;
use std::{
    fs::{File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The lock that keeps other stores from the file. Released when it is dropped, and by the system when the
/// process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(super) file: File,
}

/// Identifies a file whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) struct FileIdentity {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
pub(in crate::journal) fn identity(metadata: &std::fs::Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt as _;
    FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
    }
}

// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
pub(in crate::journal) fn identity(_metadata: &std::fs::Metadata) -> FileIdentity {
    FileIdentity {
        device: 0,
        inode: 0,
    }
}

pub(in crate::journal) fn identity_of(path: &Path) -> Option<FileIdentity> {
    std::fs::metadata(path).ok().as_ref().map(identity)
}

/// The WAL and its index; <https://www.sqlite.org/walformat.html>.
pub(super) const BESIDE: [&str; 2] = ["-wal", "-shm"];

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn identities_beside(path: &Path) -> [Option<FileIdentity>; 2] {
    BESIDE.map(|suffix| identity_of(&beside(path, suffix)))
}

pub(super) fn lock_path(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

pub(super) fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Locks the file for this store, and creates it if it is not there.
pub(crate) fn lock(path: &Path) -> Result<Lock, JournalError> {
    let open_error = |error: std::io::Error| {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let reason = match parent {
            Some(parent) if !parent.exists() => {
                format!(
                    "the directory {} does not exist; create it",
                    parent.display()
                )
            }
            _ if path.is_dir() => "it is a directory; name a file".to_owned(),
            _ => format!("{error}; the directory must be writable"),
        };
        JournalError::Open {
            path: path.to_owned(),
            reason,
            source: Some(Arc::new(error)),
        }
    };
    if path.is_dir() {
        return Err(open_error(std::io::ErrorKind::IsADirectory.into()));
    }
    let file = private_file(&lock_path(path)).map_err(open_error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(JournalError::InUse {
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(open_error(error)),
    }
    // Created here with private permissions; SQLite gives its side files the same.
    private_file(path).map_err(open_error)?;
    Ok(Lock { file })
}
