//! The log: where changes become durable before they are in the store.
//!
//! On disk it is a row of files `PATH.log.<generation>`, each with a header and then frames. The number, the
//! file's salt and the checksum tell a whole frame from a torn one and from the rest of an older one. Numbers
//! grow by one from frame to frame, across files.
//!
//! One thread at a time appends, the one that owns the [`Appender`], and it moves the end of a file only past
//! a whole frame. One thread reads ([`Reader`]), only up to that end. A file is written once, from its
//! beginning to its end, and is removed once the store has all of it.
//!
//! A crash leaves files that may end in a torn frame, and that may begin with frames that the store has. The
//! store's position tells which ones.

mod appender;
mod file;
mod frame;
mod local;
mod reader;
mod recent;
mod recover;
#[cfg(test)]
mod tests;

pub(super) use appender::Appender;
pub(super) use local::is_local;
pub(super) use reader::Reader;
pub(super) use recover::{LogPosition, Recovered, recover};

use super::{JournalError, memory::Backlog};
use file::LogFile;
use recent::Recent;
use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many bytes of frames are fed in one transaction; more if one frame is larger.
const FEED_BYTES: usize = 1024 * 1024;

/// The bound of the bytes in the log that the store does not have yet: 256 MiB, or the size cap of the journal
/// if that is less, but at least 16 MiB.
pub(super) fn max_bytes(of_journal: Option<u64>) -> u64 {
    const MOST: u64 = 256 * 1024 * 1024;
    const LEAST: u64 = 16 * 1024 * 1024;
    of_journal.unwrap_or(MOST).clamp(LEAST, MOST)
}

/// What the appending and the reading side of the log share.
#[derive(Debug, Default)]
pub(super) struct Log {
    // In order; frames are appended to the last one.
    files: Mutex<VecDeque<Arc<LogFile>>>,
    // The next one, created ahead.
    next: Mutex<Option<Arc<LogFile>>>,
    // The number of the last frame that was appended.
    appended: AtomicU64,
    // The number of the last frame that the store has.
    fed: AtomicU64,
    // Bytes that the store does not have yet.
    unfed_bytes: AtomicU64,
    // What was appended last, so that it need not be read back.
    recent: Mutex<Recent>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment, push or pop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// Returns the number of the last frame that was appended.
    pub(super) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// Returns how many bytes of the log the store does not have yet.
    pub(super) fn unfed_bytes(&self) -> u64 {
        self.unfed_bytes.load(Ordering::Relaxed)
    }

    /// Whether as much waits in memory for the store as is fed at once.
    pub(super) fn is_recent_full(&self) -> bool {
        lock(&self.recent).is_full()
    }
}

/// Opens a log that goes on after what an earlier process left; see [`recover`].
pub(super) fn open(
    journal: &Path,
    syncs: bool,
    backlog: Backlog,
    left: Recovered,
) -> Result<(Appender, Reader, Arc<Log>), JournalError> {
    let log = Arc::new(Log::default());
    log.appended.store(left.last_number, Ordering::Release);
    log.fed.store(left.position, Ordering::Release);
    let mut appender = Appender::new(log.clone(), journal, syncs, backlog, &left);
    appender.begin()?;
    let reader = Reader::new(log.clone(), left);
    Ok((appender, reader, log))
}
