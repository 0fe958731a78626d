//! The log: where changes become durable, before they are in the store.
//!
//! What is on disk: files `PATH.log.<generation>`, each with a header and then frames. A frame is whole or it
//! is not there: its number, its file's salt and its checksum tell it from the rest of an older or a torn one.
//! Numbers grow by one from frame to frame, over all files.
//!
//! What may be assumed: one thread at a time appends ([`Appender`] is owned by whoever does), and moves the
//! end only behind a whole frame; one thread reads ([`Reader`]), and only up to that end. A file is written
//! once, from its beginning to its end, and removed when the store has all of it.
//!
//! What a crash leaves: files that end with a torn frame, and at their beginning frames that the store has
//! already; the store's position tells which.

mod file;
mod frame;
mod recover;

pub(super) use recover::{Place, Recovered, recover};

use super::{JournalError, memory::Backlog, record::Change, status::Counters};
use crate::crash_point::{crash_point, is_left_out};
use file::{HEADER, LogFile};
use frame::{MAX_PAYLOAD, encode};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A file takes no more frames when it has so many bytes.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
/// The next one is made ready when it has so many.
const MAKE_NEXT_AT: u64 = FILE_BYTES / 2;
/// How many bytes of frames are read at once.
const READ_BYTES: usize = 1024 * 1024;
/// An append that takes longer is slow.
const SLOW: Duration = Duration::from_millis(5);
/// So many slow ones among the last sixteen, and callers append nothing themselves any more: scheduling alone
/// can take this long, so that one proves nothing.
const SLOW_APPENDS: u32 = 3;
/// Quick ones for so long, and they do again.
const QUICK_FOR: Duration = Duration::from_secs(1);
/// How long to wait before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How many bytes the log may have that its store does not have: so many, and no more than a journal may be
/// large, but enough for a while in any case.
pub(super) fn max_bytes(of_journal: Option<u64>) -> u64 {
    const MOST: u64 = 256 * 1024 * 1024;
    const LEAST: u64 = 16 * 1024 * 1024;
    of_journal.unwrap_or(MOST).clamp(LEAST, MOST)
}

/// What the two sides of the log share.
#[derive(Debug, Default)]
pub(super) struct Log {
    // In order; the last one is appended to.
    files: Mutex<VecDeque<Arc<LogFile>>>,
    // The next one, made ahead.
    next: Mutex<Option<Arc<LogFile>>>,
    // The last frame that was appended.
    appended: AtomicU64,
    // The last frame that the store has.
    fed: AtomicU64,
    // Bytes that the store does not have yet.
    unfed_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment, push or pop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// The number of the last frame that was appended.
    pub(super) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// How many bytes of the log the store does not have yet.
    pub(super) fn unfed_bytes(&self) -> u64 {
        self.unfed_bytes.load(Ordering::Relaxed)
    }
}

/// The side that appends. Owned by whoever appends at the moment.
#[derive(Debug)]
pub(super) struct Appender {
    log: Arc<Log>,
    journal: PathBuf,
    store_id: Uuid,
    // For `Durability::Power`.
    syncs: bool,
    current: Option<Arc<LogFile>>,
    next_number: u64,
    next_generation: u64,
    buffer: Vec<u8>,
    // What could not be written, in order: nothing is appended before it.
    backlog: Backlog,
    failing: Option<Failing>,
    // One bit for each of the last appends: whether it was slow.
    speeds: u16,
    slow_until: Option<Instant>,
}

#[derive(Debug)]
struct Failing {
    reason: String,
    retry_at: Instant,
}

impl Appender {
    /// Whether whoever has something to append may do so itself: nothing stands in the way, and the disk
    /// is quick.
    pub(super) fn is_plain(&self) -> bool {
        self.failing.is_none()
            && self.backlog.is_empty()
            && self.slow_until.is_none()
            && self
                .current
                .as_ref()
                .is_some_and(|file| file.end() < FILE_BYTES)
    }

    /// Whether something was appended that the store does not have.
    pub(super) fn is_behind(&self) -> bool {
        self.log.fed.load(Ordering::Acquire) < self.log.appended()
    }

    /// Why nothing can be written.
    pub(super) fn reason(&self) -> String {
        let failing = self.failing.as_ref();
        failing
            .map(|failing| failing.reason.clone())
            .unwrap_or_default()
    }

    /// Tries again what failed, and makes the next file ready. For a thread that may wait for the disk.
    pub(super) fn look_after(&mut self, counters: &Counters, is_last: bool) {
        if is_last && let Some(failing) = &mut self.failing {
            failing.retry_at = Instant::now();
        }
        self.write_backlog(counters);
        if !is_last {
            self.look_ahead();
        }
    }

    /// How many events wait for a log that can be written.
    pub(super) fn backlog_events(&self) -> u64 {
        self.backlog.events() as u64
    }

    /// Appends changes, all of them or none; those that cannot be written now are kept in memory.
    pub(super) fn append(
        &mut self,
        changes: Vec<Change>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        if changes.is_empty() {
            return Ok(());
        }
        if self.failing.is_some() || !self.backlog.is_empty() {
            self.write_backlog(counters);
        }
        if self.failing.is_none() {
            match self.write(&changes) {
                Ok(()) => return Ok(()),
                Err(error) => self.fail(&error, counters),
            }
        }
        self.keep(changes, counters);
        Err(self.degraded())
    }

    fn keep(&mut self, changes: Vec<Change>, counters: &Counters) {
        let lost = self.backlog.keep(changes);
        if lost > 0 {
            counters.lose(lost, "memory has no more room for events: some are lost");
        }
    }

    fn degraded(&self) -> JournalError {
        JournalError::Degraded {
            reason: self.reason(),
        }
    }

    fn fail(&mut self, error: &io::Error, counters: &Counters) {
        let reason = error.to_string();
        if self.failing.is_none() {
            tracing::error!(
                path = %self.journal.display(),
                reason,
                "the journal cannot be written and turns to memory: it is tried again every second"
            );
        }
        counters.degrade_log(Some(reason.clone()));
        // Out of room: there may be some in this file later. Otherwise nobody knows what is in it now.
        if error.kind() != io::ErrorKind::StorageFull {
            self.current = None;
        }
        self.failing = Some(Failing {
            reason,
            retry_at: Instant::now() + RETRY_PAUSE,
        });
    }

    /// Writes what could not be written before, if it is time to try.
    fn write_backlog(&mut self, counters: &Counters) {
        match &self.failing {
            Some(failing) if Instant::now() < failing.retry_at => return,
            None if self.backlog.is_empty() => return,
            _ => {}
        }
        let changes = self.backlog.take();
        let events: usize = changes.iter().map(|change| change.events().len()).sum();
        match self.write(&changes) {
            Ok(()) => {
                self.failing = None;
                counters.degrade_log(None);
                // As loud as what it ends.
                tracing::warn!(
                    path = %self.journal.display(),
                    events,
                    "the journal can write its file again; what memory held is in it"
                );
            }
            Err(error) => {
                // It was there before, so that there is room.
                self.backlog.keep(changes);
                self.fail(&error, counters);
            }
        }
    }

    fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        let file = self.file()?;
        self.buffer.clear();
        let first = self.next_number;
        let mut number = first;
        encode_all(&mut self.buffer, &file, &mut number, changes)?;
        crash_point("before-append");
        let began = Instant::now();
        if is_left_out("inside-append") {
            // Half of it is there, and then the process is not.
            let half = self.buffer.len() / 2;
            file.write_torn(self.buffer.get(..half).unwrap_or_default());
            std::process::abort();
        }
        file.append(&self.buffer)?;
        if self.syncs {
            // A sync that failed is never repeated on its file: what is in the file's pages then is written
            // anew, into another one.
            file.sync()?;
        }
        self.note_speed(began.elapsed());
        self.next_number = number;
        let bytes = self.buffer.len() as u64;
        self.log.unfed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.log.appended.store(number - 1, Ordering::Release);
        crash_point("after-append");
        // One commit was large; the next ones are not.
        if self.buffer.capacity() > 4 * READ_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn note_speed(&mut self, took: Duration) {
        let is_slow = took > SLOW;
        self.speeds = self.speeds << 1 | u16::from(is_slow);
        let now = Instant::now();
        if self.speeds.count_ones() >= SLOW_APPENDS || (is_slow && self.slow_until.is_some()) {
            if self.slow_until.is_none() {
                tracing::debug!(
                    ?took,
                    "the disk is slow: the journal's thread does all appending"
                );
            }
            self.slow_until = Some(now + QUICK_FOR);
        } else if self.slow_until.is_some_and(|until| until <= now) {
            self.slow_until = None;
            self.speeds = 0;
        }
    }

    /// The file to append to; a new one when the last one is full.
    fn file(&mut self) -> io::Result<Arc<LogFile>> {
        if let Some(file) = &self.current
            && file.end() < FILE_BYTES
        {
            return Ok(file.clone());
        }
        let ahead = lock(&self.log.next).take();
        // One that was made for other frames is of no use.
        let file = match ahead.filter(|file| file.header.first <= self.next_number) {
            Some(file) => file,
            None => self.create()?,
        };
        lock(&self.log.files).push_back(file.clone());
        self.current = Some(file.clone());
        Ok(file)
    }

    fn create(&mut self) -> io::Result<Arc<LogFile>> {
        loop {
            let generation = self.next_generation;
            self.next_generation += 1;
            let created =
                LogFile::create(&self.journal, self.store_id, generation, self.next_number);
            match created {
                Ok(file) => {
                    if self.syncs {
                        sync_directory(file.path())?;
                    }
                    return Ok(Arc::new(file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the next file ready while there is time; and goes on in a new one where the last is not at its
    /// path any more. Call it now and then, from a thread that may wait for the disk.
    fn look_ahead(&mut self) {
        let Some(current) = &self.current else {
            return;
        };
        let is_gone = !current.is_at_its_path();
        if !is_gone && (current.end() < MAKE_NEXT_AT || lock(&self.log.next).is_some()) {
            return;
        }
        // What fails is tried again, and said when it is needed.
        if let Ok(file) = self.create() {
            if is_gone {
                lock(&self.log.files).push_back(file.clone());
                self.current = Some(file);
            } else {
                *lock(&self.log.next) = Some(file);
            }
        }
    }
}

/// Changes as frames: as few as can be.
fn encode_all(
    buffer: &mut Vec<u8>,
    file: &LogFile,
    number: &mut u64,
    changes: &[Change],
) -> io::Result<()> {
    if encode(buffer, file.salt(), *number, changes).is_ok() {
        *number += 1;
        return Ok(());
    }
    if let [change] = changes {
        return match halves(change) {
            Some(halves) => halves
                .iter()
                .try_for_each(|half| encode_all(buffer, file, number, std::slice::from_ref(half))),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an event is larger than {MAX_PAYLOAD} bytes"),
            )),
        };
    }
    let (first, second) = changes.split_at(changes.len() / 2);
    encode_all(buffer, file, number, first)?;
    encode_all(buffer, file, number, second)
}

/// A change with many events as two that come to the same.
fn halves(change: &Change) -> Option<[Change; 2]> {
    let events = change.events();
    if events.len() < 2 {
        return None;
    }
    let (first, second) = events.split_at(events.len() / 2);
    let (first, second) = (first.to_vec(), second.to_vec());
    match change {
        Change::Insert(_) => Some([Change::Insert(first), Change::Insert(second)]),
        Change::Hold(key, evidence, _) => Some([
            Change::Hold(key.clone(), evidence.clone(), first),
            Change::Hold(key.clone(), evidence.clone(), second),
        ]),
        // Replaced once, it is not held any more.
        Change::Replace(..) | Change::Release(_) | Change::Discard(_) => None,
    }
}

#[cfg(unix)]
fn sync_directory(of: &Path) -> io::Result<()> {
    let directory = match of.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_of: &Path) -> io::Result<()> {
    Ok(())
}

/// Frames that were read, for the store.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) changes: Vec<Change>,
    pub(super) progress: Progress,
}

/// Up to where frames were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The number of the last one.
    pub(super) last: u64,
    bytes: u64,
    // Where the next ones begin.
    end: u64,
}

/// The side that feeds the store. Owned by the journal's thread.
#[derive(Debug)]
pub(super) struct Reader {
    log: Arc<Log>,
    // How far the first of the files is fed.
    at: u64,
    // The last frame that the store has.
    fed: u64,
    // Files stay: the store has what is in them only as long as this process lives.
    keeps_files: bool,
}

impl Reader {
    /// Whether something was appended that the store does not have.
    pub(super) fn is_behind(&self) -> bool {
        self.fed < self.log.appended()
    }

    /// From now on files stay where they are, for the next start.
    pub(super) fn keep_files(&mut self) {
        self.keeps_files = true;
    }

    /// The next frames; none when the store has all. Removes files of which it has all.
    pub(super) fn next(&mut self) -> io::Result<Option<Frames>> {
        loop {
            let file = {
                let mut files = lock(&self.log.files);
                let Some(file) = files.front().cloned() else {
                    return Ok(None);
                };
                // What is not the last is not appended to any more.
                if self.at >= file.end() && files.len() > 1 {
                    files.pop_front();
                    self.at = HEADER as u64;
                    drop(files);
                    self.let_go(&file);
                    continue;
                }
                file
            };
            if self.at >= file.end() {
                return Ok(None);
            }
            let (frames, end) = file.read(self.at, READ_BYTES)?;
            let last = frames.last().map(|(number, _)| *number);
            return Ok(Some(Frames {
                changes: frames
                    .into_iter()
                    .flat_map(|(_, changes)| changes)
                    .collect(),
                progress: Progress {
                    last: last.unwrap_or(self.fed),
                    bytes: end - self.at,
                    end,
                },
            }));
        }
    }

    /// The store has these.
    pub(super) fn done_with(&mut self, progress: &Progress) {
        self.fed = self.fed.max(progress.last);
        self.at = progress.end;
        self.log.fed.store(self.fed, Ordering::Release);
        self.log
            .unfed_bytes
            .fetch_sub(progress.bytes, Ordering::Relaxed);
    }

    /// Whether files stay for the next start.
    pub(super) fn keeps_files(&self) -> bool {
        self.keeps_files
    }

    /// Removes all files; only when the store has everything, and nothing is appended any more.
    pub(super) fn remove_all(&mut self) {
        let files = std::mem::take(&mut *lock(&self.log.files));
        let next = lock(&self.log.next).take();
        for file in files.into_iter().chain(next) {
            self.let_go(&file);
        }
    }

    fn let_go(&self, file: &LogFile) {
        if self.keeps_files {
            return;
        }
        crash_point("before-removal");
        // It is found again at the next start, and then the store has it already.
        if let Err(error) = file.remove() {
            tracing::debug!(path = %file.path().display(), %error, "a file of the log stays");
        }
    }
}

/// Opens a log behind what an earlier process left, see [`recover`].
pub(super) fn open(
    journal: &Path,
    syncs: bool,
    backlog: Backlog,
    left: &Recovered,
) -> Result<(Appender, Reader, Arc<Log>), JournalError> {
    let log = Arc::new(Log::default());
    log.appended.store(left.last_number, Ordering::Release);
    log.fed.store(left.last_number, Ordering::Release);
    let mut appender = Appender {
        log: log.clone(),
        journal: journal.to_owned(),
        store_id: left.store_id,
        syncs,
        current: None,
        next_number: left.last_number + 1,
        next_generation: left.last_generation + 1,
        buffer: Vec::new(),
        backlog,
        failing: None,
        speeds: 0,
        slow_until: None,
    };
    appender.file().map_err(|error| JournalError::Open {
        path: journal.to_owned(),
        reason: format!("its log cannot be created: {error}; the directory must be writable"),
        source: Some(Arc::new(error)),
    })?;
    let reader = Reader {
        log: log.clone(),
        at: HEADER as u64,
        fed: left.last_number,
        keeps_files: false,
    };
    Ok((appender, reader, log))
}

/// File systems that other machines or programs stand behind: an append may take as long as they like.
#[cfg(target_os = "linux")]
const REMOTE: [u64; 14] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB 2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x5346_414F, // AFS
    0x7375_7245, // Coda
    0x00C3_6400, // Ceph
    0x0BD0_0BD0, // Lustre
    0x4750_4653, // GPFS
    0x0116_1970, // GFS2
    0x7461_636F, // OCFS2
    0x786F_4256, // VirtualBox
];

/// Whether a journal is on a disk of this machine, as far as is known.
#[cfg(target_os = "linux")]
pub(super) fn is_local(journal: &Path) -> bool {
    let directory = match journal.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    rustix::fs::statfs(directory).is_ok_and(|found| {
        // The type's width differs from platform to platform.
        let kind = u64::try_from(found.f_type).unwrap_or_default() & 0xFFFF_FFFF;
        !REMOTE.contains(&kind)
    })
}

/// Whether a journal is on a disk of this machine, as far as is known.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_local(_journal: &Path) -> bool {
    false
}
