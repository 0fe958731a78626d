//! One file of the log: its name, its header, and what is in it. Knows frames and the file system; not when
//! a file is begun or goes.

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

/// What a file of the log begins with.
const MAGIC: [u8; 8] = *b"TEVSLOG\0";
/// The version of the format.
const VERSION: u32 = 1;
/// Magic, version, store, generation, salt, number of the first frame, checksum.
pub(super) const HEADER: usize = 8 + 4 + 16 + 8 + 4 + 8 + 4;

/// What stands at the beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The store that the log belongs to; nil beside one that cannot be read.
    pub(super) store_id: Uuid,
    pub(super) generation: u64,
    salt: u32,
    /// The number of its first frame.
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

/// A file that is open. Frames are appended at its tracked end by one thread at a time; others read what is
/// before it.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    identity: Option<FileIdentity>,
    pub(super) header: Header,
    // Behind its last whole frame.
    end: AtomicU64,
}

fn name(journal: &Path, generation: u64) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push(format!(".log.{generation}"));
    name.into()
}

/// The files of a journal's log, with their generations, in order.
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
    /// Creates a file; fails if there is one of that generation.
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
            // Whatever is hard to come by again.
            salt: Uuid::new_v4().as_fields().0,
            first,
        };
        let written = file.write_all_at(&header.encode(), 0);
        if let Err(error) = written {
            // A file without a header is nobody's.
            std::fs::remove_file(&path).ok();
            return Err(error);
        }
        Ok(Self {
            identity: file.metadata().ok().as_ref().map(identity),
            path,
            file,
            header,
            end: AtomicU64::new(HEADER as u64),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn salt(&self) -> u32 {
        self.header.salt
    }

    /// Behind its last whole frame.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Writes whole frames at the end. After an error the end is where it was.
    pub(super) fn append(&self, frames: &[u8]) -> io::Result<()> {
        let end = self.end();
        self.file.write_all_at(frames, end)?;
        self.end.store(end + frames.len() as u64, Ordering::Release);
        Ok(())
    }

    /// For tests: writes something at the end, which stays where it is.
    pub(super) fn write_torn(&self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.end()).ok();
    }

    /// Makes what was appended survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether it is still where it was made.
    pub(super) fn is_at_its_path(&self) -> bool {
        self.identity.is_some() && identity_of(&self.path) == self.identity
    }

    /// Removes it, if it is still there.
    pub(super) fn remove(&self) -> io::Result<()> {
        if self.is_at_its_path() {
            std::fs::remove_file(&self.path)
        } else {
            Ok(())
        }
    }

    /// The frames from a place on, about so many bytes of them, and where they end.
    pub(super) fn read(
        &self,
        from: u64,
        at_most: usize,
    ) -> io::Result<(Vec<(u64, Vec<Change>)>, u64)> {
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
                // One that is larger than what is read at once.
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
    pub(super) frames: Vec<(u64, Vec<Change>)>,
    /// Not all of it can be read, and that is no torn end.
    pub(super) is_damaged: bool,
}

/// Reads what an earlier process left; none if it has no header, as when it was torn right at its beginning.
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
