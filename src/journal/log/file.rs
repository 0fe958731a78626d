//! One file of the log: its name, its header, its frames. Knows the file system, and not when a file is begun or
//! removed. `docs/journal.md` has the format byte by byte.

use super::{
    super::sqlite::{FileIdentity, identity, identity_of},
    frame::{Frame, Scan, decode, scan},
};
use crate::journal::record::Change;
use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// The changes of a frame, with its number.
pub(super) type Numbered = (u64, Vec<Change>);

/// The first bytes of a file of the log.
const MAGIC: [u8; 8] = *b"TEVSLOG\0";
/// The version of the format.
const VERSION: u32 = 1;
/// The size of the header: magic, version, store id, generation, salt, number of the first frame, checksum.
pub(super) const HEADER: usize = 8 + 4 + 16 + 8 + 4 + 8 + 4;

/// The header at the beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The store that the log belongs to; nil if the store could not be read when the file was created.
    pub(super) store_id: Uuid,
    pub(super) generation: u64,
    // Where the checksums of the frames begin: a random number, so that no frame of another file fits.
    salt: u32,
    /// The lowest number that a frame in the file may have.
    pub(super) first: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(self.store_id.as_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, _) = bytes.split_first_chunk::<HEADER>()?;
        let (head, checksum) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(head) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let head = head.strip_prefix(&MAGIC)?;
        let (version, head) = head.split_first_chunk()?;
        let (store_id, head) = head.split_first_chunk()?;
        let (generation, head) = head.split_first_chunk()?;
        let (salt, head) = head.split_first_chunk()?;
        let (first, _) = head.split_first_chunk()?;
        (u32::from_le_bytes(*version) == VERSION).then_some(Self {
            store_id: Uuid::from_bytes(*store_id),
            generation: u64::from_le_bytes(*generation),
            salt: u32::from_le_bytes(*salt),
            first: u64::from_le_bytes(*first),
        })
    }
}

/// An open file. One thread at a time appends frames at its end; others read what is before that.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    identity: Option<FileIdentity>,
    pub(super) header: Header,
    // The end of its last whole frame. The file itself may be longer, after a write that failed.
    end: AtomicU64,
    #[cfg(test)]
    faults: std::sync::Mutex<std::collections::VecDeque<Fault>>,
}

/// For tests: what the disk does with what is written or synced next.
#[cfg(test)]
#[derive(Debug)]
pub(super) enum Fault {
    /// So many bytes are there, and then this.
    Write(usize, io::ErrorKind),
    Sync,
}

fn name(journal: &Path, generation: u64) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(format!(".log.{generation}"));
    name.into()
}

/// Returns the files of a journal's log with their generations, in order.
pub(super) fn list(journal: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let directory = match journal.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut prefix = journal.file_name().unwrap_or(OsStr::new("")).to_owned();
    prefix.push(".log.");
    let mut found = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let generation = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes())
            .and_then(|generation| std::str::from_utf8(generation).ok()?.parse().ok());
        if let Some(generation) = generation {
            found.push((generation, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

impl LogFile {
    /// Creates a file. Fails if there is one of that generation.
    pub(super) fn create(
        journal: &Path,
        store_id: Uuid,
        generation: u64,
        first: u64,
    ) -> io::Result<Self> {
        let path = name(journal, generation);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let header = Header {
            store_id,
            generation,
            // Any random number will do.
            salt: Uuid::new_v4().as_fields().0,
            first,
        };
        let written = file.write_all_at(&header.encode(), 0);
        if let Err(error) = written {
            // A file without a header is of no use.
            std::fs::remove_file(&path).ok();
            return Err(error);
        }
        Ok(Self {
            identity: file.metadata().ok().as_ref().map(identity),
            path,
            file,
            header,
            end: AtomicU64::new(HEADER as u64),
            #[cfg(test)]
            faults: std::sync::Mutex::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn salt(&self) -> u32 {
        self.header.salt
    }

    /// Returns the end of its last whole frame.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Writes whole frames behind the end, which stays where it is: they are not there before
    /// [`advance`](Self::advance).
    pub(super) fn write(&self, frames: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.fail_to_write(frames)?;
        self.file.write_all_at(frames, self.end())
    }

    #[cfg(test)]
    fn fail_to_write(&self, frames: &[u8]) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        let Some(Fault::Write(bytes, kind)) = faults.front() else {
            return Ok(());
        };
        let (bytes, kind) = (*bytes, *kind);
        faults.pop_front();
        self.write_torn(&frames[..bytes.min(frames.len())]);
        Err(kind.into())
    }

    #[cfg(test)]
    pub(super) fn will(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    /// Moves the end behind frames that were written.
    pub(super) fn advance(&self, frames: &[u8]) {
        let end = self.end() + frames.len() as u64;
        self.end.store(end, Ordering::Release);
    }

    /// For tests: writes bytes at the end without moving it.
    pub(super) fn write_torn(&self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.end()).ok();
    }

    /// Syncs the file, so that what was appended survives a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(Fault::Sync) = self.faults.lock().unwrap().pop_front() {
            return Err(io::Error::other("the disk fails"));
        }
        self.file.sync_data()
    }

    /// Whether its path still names this file.
    pub(super) fn is_at_its_path(&self) -> bool {
        self.identity.is_some() && identity_of(&self.path) == self.identity
    }

    /// Whether it begins as it was made: somebody may have emptied it.
    pub(super) fn has_its_header(&self) -> bool {
        let mut bytes = [0; HEADER];
        self.file.read_exact_at(&mut bytes, 0).is_ok()
            && Header::decode(&bytes) == Some(self.header)
    }

    /// Removes it, if its path still names it.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.is_at_its_path() {
            std::fs::remove_file(&self.path)
        } else {
            Ok(())
        }
    }

    /// Reads the whole frames in the `at_most` bytes after `from`, or one frame if it is larger. Returns them
    /// and where they end.
    pub(super) fn read(&self, from: u64, at_most: usize) -> io::Result<(Vec<Numbered>, u64)> {
        let mut at_once = at_most;
        loop {
            let left = usize::try_from(self.end().saturating_sub(from)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; left.min(at_once)];
            self.file.read_exact_at(&mut bytes, from)?;
            let mut frames = Vec::new();
            let mut at = 0;
            while let Some(frame) = bytes.get(at..).and_then(|rest| decode(rest, self.salt())) {
                let Some(changes) = frame.changes() else {
                    return Err(unreadable(&frame));
                };
                at += frame.length;
                frames.push((frame.number, changes));
            }
            if at == 0 && left > 0 {
                if bytes.len() == left {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a frame that was written cannot be read",
                    ));
                }
                // The first frame is larger than what was read.
                at_once = at_once.saturating_mul(4);
                continue;
            }
            return Ok((frames, from + at as u64));
        }
    }
}

fn unreadable(frame: &Frame<'_>) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "frame {} has a form that this version does not know",
            frame.number
        ),
    )
}

/// A file that an earlier process left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) header: Header,
    pub(super) frames: Vec<Numbered>,
    /// A part of it that is not a torn end cannot be read.
    pub(super) is_damaged: bool,
}

/// Reads a file that an earlier process left. None if it has no valid header, as when the process ended while
/// it wrote that.
pub(super) fn read_left(path: &Path) -> io::Result<Option<Left>> {
    let bytes = std::fs::read(path)?;
    let Some(header) = Header::decode(&bytes) else {
        return Ok(None);
    };
    let Scan {
        frames,
        mut is_damaged,
    } = scan(
        bytes.get(HEADER..).unwrap_or_default(),
        header.salt,
        header.first,
    );
    let mut left = Vec::with_capacity(frames.len());
    for frame in frames {
        match frame.changes() {
            Some(changes) => left.push((frame.number, changes)),
            None => is_damaged = true,
        }
    }
    Ok(Some(Left {
        header,
        frames: left,
        is_damaged,
    }))
}
