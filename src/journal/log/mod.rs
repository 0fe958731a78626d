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

mod file;
mod frame;
mod recover;
#[cfg(test)]
mod tests;

pub(super) use recover::{Place, Recovered, recover};

use super::{JournalError, memory::Backlog, record::Change, status::Counters};
use crate::crash_point::{crash_point, is_left_out};
use file::{HEADER, LogFile, Numbered};
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

/// A file of this size takes no more frames.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
/// At this size of the current file the next one is created.
const MAKE_NEXT_AT: u64 = FILE_BYTES / 2;
/// How many changes of a file that an earlier process left are fed at once.
const CHANGES_AT_ONCE: usize = 4096;
/// About how many bytes of a backlog are written at once.
const BACKLOG_PIECE_BYTES: usize = 64 * 1024;
/// How many bytes of frames are read at once, and so fed in one transaction; more if one frame is larger.
const READ_BYTES: usize = 1024 * 1024;
/// An append that takes longer is slow.
const SLOW: Duration = Duration::from_millis(5);
/// With this many slow appends among the last sixteen, callers no longer append themselves. One slow append
/// proves nothing: scheduling alone can take this long.
const SLOW_APPENDS: u32 = 3;
/// Callers append themselves again when there were fewer for this long.
const QUICK_FOR: Duration = Duration::from_secs(1);
/// The pause before a failed write is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

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
}

/// The appending side. Owned by whoever appends at the moment.
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
    // Changes that could not be written, in order: nothing newer is appended before them.
    backlog: Backlog,
    failing: Option<Failing>,
    // One bit for each of the last sixteen appends: whether it was slow.
    speeds: u16,
    // While it is set, callers do not append themselves.
    slow_until: Option<Instant>,
}

#[derive(Debug)]
struct Failing {
    reason: String,
    retry_at: Instant,
}

impl Appender {
    /// Whether a caller may append: no write failed, nothing waits in the backlog, the disk is quick, and the
    /// file has room.
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

    /// Returns why nothing can be written; empty if it can.
    pub(super) fn reason(&self) -> String {
        let failing = self.failing.as_ref();
        failing
            .map(|failing| failing.reason.clone())
            .unwrap_or_default()
    }

    /// Retries a write that failed, and creates the next file. May wait for the disk.
    pub(super) fn look_after(&mut self, counters: &Counters, is_last: bool) {
        if is_last && let Some(failing) = &mut self.failing {
            failing.retry_at = Instant::now();
        }
        self.write_backlog(counters);
        if !is_last {
            self.look_ahead();
        }
    }

    /// Returns how many events are in the backlog.
    pub(super) fn backlog_events(&self) -> u64 {
        self.backlog.events() as u64
    }

    /// Appends changes, all of them or none. If they cannot be written now, they go to the backlog and this is
    /// an error.
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
        // When the disk is full, this file can be continued at the same end later. After any other error
        // nobody knows what is in it, so that a new one is begun.
        if !is_out_of_room(error) {
            self.leave_file();
        }
        self.failing = Some(Failing {
            reason,
            retry_at: Instant::now() + RETRY_PAUSE,
        });
    }

    /// Writes the backlog, if it is time to try.
    fn write_backlog(&mut self, counters: &Counters) {
        match &self.failing {
            Some(failing) if Instant::now() < failing.retry_at => return,
            None if self.backlog.is_empty() => return,
            _ => {}
        }
        let mut changes = self.backlog.take();
        let events: usize = changes.iter().map(|change| change.events().len()).sum();
        // Piece by piece: a disk may have room for some of it.
        let mut is_new_file = false;
        while !changes.is_empty() {
            let mut bytes = 0;
            let piece = changes.iter().position(|change| {
                bytes += change.bytes();
                bytes > BACKLOG_PIECE_BYTES
            });
            let piece = piece.map_or(changes.len(), |last| last + 1);
            match self.write(changes.get(..piece).unwrap_or_default()) {
                Ok(()) => {
                    changes.drain(..piece);
                    is_new_file = false;
                }
                // Another file may have room, where this one has a bound of its own.
                Err(error) if !is_new_file && !is_out_of_room(&error) => {
                    self.leave_file();
                    is_new_file = true;
                }
                Err(error) => {
                    // The backlog held them before, so that nothing has to make room.
                    self.backlog.keep(changes);
                    self.fail(&error, counters);
                    return;
                }
            }
        }
        self.failing = None;
        counters.degrade_log(None);
        // At the level of the trouble that it ends.
        tracing::warn!(
            path = %self.journal.display(),
            events,
            "the journal can write its file again; what memory held is in it"
        );
    }

    fn write(&mut self, changes: &[Change]) -> io::Result<()> {
        let file = self.file()?;
        self.buffer.clear();
        let mut number = self.next_number;
        encode_all(&mut self.buffer, &file, &mut number, changes)?;
        // Whatever becomes of it, these numbers are used: what failed may be there all the same, and is then not
        // taken for what is written instead.
        self.next_number = number;
        crash_point("before-append");
        let began = Instant::now();
        if is_left_out("inside-append") {
            // Half of it is there, and then the process is not.
            let half = self.buffer.len() / 2;
            file.write_torn(self.buffer.get(..half).unwrap_or_default());
            std::process::abort();
        }
        file.write(&self.buffer)?;
        if self.syncs
            && let Err(error) = file.sync()
        {
            // It is never repeated on its file, whose pages may be gone by then: the changes are written again,
            // into a new file.
            self.leave_file();
            return Err(error);
        }
        file.advance(&self.buffer);
        self.note_speed(began.elapsed());
        let bytes = self.buffer.len() as u64;
        self.log.unfed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.log.appended.store(number - 1, Ordering::Release);
        crash_point("after-append");
        // After one large commit the buffer would stay large for ever.
        if self.buffer.capacity() > 4 * READ_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn note_speed(&mut self, took: Duration) {
        let is_slow = took > SLOW;
        self.speeds = self.speeds << 1 | u16::from(is_slow);
        let now = Instant::now();
        let is_known = self.slow_until.is_some();
        if is_slow && (is_known || self.speeds.count_ones() >= SLOW_APPENDS) {
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

    /// For tests: a disk that is full.
    #[cfg(test)]
    pub(super) fn fails_from_now_on(&self) {
        if let Some(file) = &self.current {
            for _ in 0..100 {
                file.will(file::Fault::Write(0, io::ErrorKind::StorageFull));
            }
        }
    }

    /// Nothing more is appended to the current file. Without a frame it goes: otherwise each try on a disk that
    /// fails would leave one more.
    fn leave_file(&mut self) {
        let Some(file) = self.current.take() else {
            return;
        };
        if file.end() > HEADER as u64 {
            return;
        }
        lock(&self.log.files).retain(|known| !Arc::ptr_eq(known, &file));
        if let Err(error) = file.remove() {
            tracing::debug!(path = %file.path().display(), %error, "an empty file of the log stays");
        }
    }

    /// Returns the file to append to: the next one if the last is full.
    fn file(&mut self) -> io::Result<Arc<LogFile>> {
        if let Some(file) = &self.current
            && file.end() < FILE_BYTES
        {
            return Ok(file.clone());
        }
        let ahead = lock(&self.log.next).take();
        // Frames with numbers below its first would not be read.
        let is_whole = |file: &Arc<LogFile>| {
            file.header.first <= self.next_number && file.is_at_its_path() && file.has_its_header()
        };
        let file = match ahead.filter(is_whole) {
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

    /// Creates the next file ahead of time, and goes on in a new one if the current one is not at its path any
    /// more. Called regularly, by a thread that may wait for the disk.
    fn look_ahead(&mut self) {
        let Some(current) = &self.current else {
            return;
        };
        let is_gone = !current.is_at_its_path() || !current.has_its_header();
        if !is_gone && (current.end() < MAKE_NEXT_AT || lock(&self.log.next).is_some()) {
            return;
        }
        if is_gone {
            let gone = self.current.take();
            // The one that was created ahead comes first: files follow one another by their generations.
            if self.file().is_err() {
                self.current = gone;
            }
            return;
        }
        // If this fails, it is tried again; the append that needs the file reports it.
        if let Ok(file) = self.create() {
            *lock(&self.log.next) = Some(file);
        }
    }
}

/// Encodes changes as frames. If they are too large for one, they are halved until each part fits.
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

/// Splits a change with several events into two to the same effect; none if it cannot be split.
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
        // Who replaces something has claimed it, so that it is held until then.
        Change::Replace(key, _) => {
            Some([Change::Replace(key.clone(), first), Change::Insert(second)])
        }
        Change::Release(_) | Change::Discard(_) => None,
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

/// Changes that were read from frames, for the store.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) changes: Vec<Change>,
    pub(super) progress: Progress,
}

/// How far frames were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The number of the last frame.
    pub(super) last: u64,
    bytes: u64,
    // Where the next frame begins in the file; none in a file that an earlier process left.
    end: Option<u64>,
}

/// A file that an earlier process left, while it is fed.
#[derive(Debug)]
struct LeftFile {
    frames: VecDeque<Numbered>,
    is_damaged: bool,
    // What was handed out last is not known to be in the store.
    is_handed_out: bool,
}

/// The reading side, which feeds the store. Owned by the journal's thread.
#[derive(Debug)]
pub(super) struct Reader {
    log: Arc<Log>,
    // What an earlier process left comes first.
    left: VecDeque<PathBuf>,
    left_file: Option<LeftFile>,
    // How far the first of this process's own files is fed, in bytes.
    at: u64,
    // The number of the last frame that the store has.
    fed: u64,
    // Files are not removed: memory stands in for a damaged store, and ends with this process.
    keeps_files: bool,
}

impl Reader {
    /// Whether something was appended that the store does not have.
    pub(super) fn is_behind(&self) -> bool {
        self.fed < self.log.appended()
    }

    /// From now on files are not removed: the next start reads them again.
    pub(super) fn keep_files(&mut self) {
        self.keeps_files = true;
    }

    /// Returns the next frames; none if the store has everything. Removes the files that the store has all of.
    pub(super) fn next(&mut self) -> io::Result<Option<Frames>> {
        if let Some(frames) = self.next_left()? {
            return Ok(Some(frames));
        }
        loop {
            let appended = self.log.appended();
            let file = {
                let mut files = lock(&self.log.files);
                let Some(file) = files.front().cloned() else {
                    return Ok(None);
                };
                // Only the last file is appended to.
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
                // Numbers have gaps.
                self.reach(appended);
                return Ok(None);
            }
            let (frames, end) = match file.read(self.at, READ_BYTES) {
                Ok(read) => read,
                Err(error) if is_gone_for_good(&error) => {
                    // What comes must get into the store all the same.
                    let end = file.end();
                    tracing::error!(
                        path = %file.path().display(),
                        bytes = end - self.at,
                        %error,
                        "a file of the journal's log was changed by another program: what was in it, and not \
                         yet in the store, is lost"
                    );
                    self.log
                        .unfed_bytes
                        .fetch_sub(end - self.at, Ordering::Relaxed);
                    self.at = end;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let last = frames.last().map(|(number, _)| *number);
            return Ok(Some(Frames {
                changes: frames
                    .into_iter()
                    .flat_map(|(_, changes)| changes)
                    .collect(),
                progress: Progress {
                    last: last.unwrap_or(self.fed),
                    bytes: end - self.at,
                    end: Some(end),
                },
            }));
        }
    }

    /// Returns the next frames that an earlier process left.
    fn next_left(&mut self) -> io::Result<Option<Frames>> {
        while let Some(path) = self.left.front() {
            let file = match &mut self.left_file {
                Some(file) if !file.is_handed_out => file,
                // The store did not take what was handed out, which is read again.
                unread => unread.insert({
                    let left = recover::read(path, self.fed)?;
                    LeftFile {
                        frames: left.frames.into(),
                        is_damaged: left.is_damaged,
                        is_handed_out: false,
                    }
                }),
            };
            let mut changes = Vec::new();
            let mut last = self.fed;
            while changes.len() < CHANGES_AT_ONCE
                && let Some((number, of_frame)) = file.frames.pop_front()
            {
                last = number;
                changes.extend(of_frame);
            }
            if last > self.fed {
                file.is_handed_out = true;
                return Ok(Some(Frames {
                    changes,
                    progress: Progress {
                        last,
                        bytes: 0,
                        end: None,
                    },
                }));
            }
            let is_damaged = file.is_damaged;
            if !self.keeps_files {
                crash_point("before-removal");
                recover::let_go(path, is_damaged)?;
            }
            self.left.pop_front();
            self.left_file = None;
        }
        Ok(None)
    }

    fn reach(&mut self, number: u64) {
        self.fed = self.fed.max(number);
        self.log.fed.store(self.fed, Ordering::Release);
    }

    /// Notes that the store has these frames.
    pub(super) fn done_with(&mut self, progress: &Progress) {
        match progress.end {
            Some(end) => self.at = end,
            None => {
                if let Some(file) = &mut self.left_file {
                    file.is_handed_out = false;
                }
            }
        }
        self.reach(progress.last);
        self.log
            .unfed_bytes
            .fetch_sub(progress.bytes, Ordering::Relaxed);
    }

    /// Whether files are kept for the next start.
    pub(super) fn keeps_files(&self) -> bool {
        self.keeps_files
    }

    /// Removes all files. Call it only when the store has everything and nothing is appended any more.
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
        // If it stays, the next start finds that the store has its frames, and removes it.
        if let Err(error) = file.remove() {
            tracing::debug!(path = %file.path().display(), %error, "a file of the log stays");
        }
    }
}

/// Whether a disk, or somebody's share of it, is full, so that the same may go well later.
fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether what was written is not there, however often it is read.
fn is_gone_for_good(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
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
        left: left.files,
        left_file: None,
        at: HEADER as u64,
        fed: left.position,
        keeps_files: false,
    };
    Ok((appender, reader, log))
}

/// File systems that are served by another machine or another program, so that an append has no bound.
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

/// Whether a journal is on a local disk, as far as its file system tells.
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

/// Elsewhere it is not known whether a journal is on a local disk: callers never append themselves.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_local(_journal: &Path) -> bool {
    false
}
