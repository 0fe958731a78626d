//! The appending side of the log: frames at the end of the last file, the next file ahead of time, and what waits in
//! memory while nothing can be written. Knows nothing of the store.

use super::{
    Log,
    file::{HEADER, LogFile},
    frame::{MAX_PAYLOAD, encode},
    lock,
    recent::Written,
};
use crate::{
    crash_point::{crash_point, is_left_out},
    journal::{JournalError, memory::Backlog, record::Change, status::Counters},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A file of this size takes no more frames.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
/// At this size of the current file the next one is created.
const MAKE_NEXT_AT: u64 = FILE_BYTES / 2;
/// About how many bytes of a backlog are written at once.
const BACKLOG_PIECE_BYTES: usize = 64 * 1024;
/// The buffer is given back if it is larger than this.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// An append that takes longer is slow.
pub(super) const SLOW: Duration = Duration::from_millis(5);
/// With this many slow appends among the last sixteen, callers no longer append themselves. One slow append
/// proves nothing: scheduling alone can take this long.
const SLOW_APPENDS: u32 = 3;
/// Callers append themselves again when there were fewer for this long.
const QUICK_FOR: Duration = Duration::from_secs(1);
/// The pause before a failed write is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The appending side. Owned by whoever appends at the moment.
#[derive(Debug)]
pub(in crate::journal) struct Appender {
    log: Arc<Log>,
    journal: PathBuf,
    store_id: Uuid,
    // For `Durability::Power`.
    syncs: bool,
    pub(super) current: Option<Arc<LogFile>>,
    pub(super) next_number: u64,
    next_generation: u64,
    pub(super) buffer: Vec<u8>,
    // Changes that could not be written, in order: nothing newer is appended before them.
    pub(super) backlog: Backlog,
    pub(super) failing: Option<Failing>,
    // One bit for each of the last sixteen appends: whether it was slow.
    speeds: u16,
    // While it is set, callers do not append themselves.
    pub(super) slow_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Failing {
    reason: String,
    pub(super) retry_at: Instant,
}

impl Appender {
    pub(in crate::journal) fn new(
        log: Arc<Log>,
        journal: &Path,
        syncs: bool,
        backlog: Backlog,
        left: &super::Recovered,
    ) -> Self {
        Self {
            log,
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
        }
    }

    /// Creates the first file.
    pub(in crate::journal) fn begin(&mut self) -> Result<(), JournalError> {
        match self.file() {
            Ok(_) => Ok(()),
            Err(error) => Err(JournalError::Open {
                path: self.journal.clone(),
                reason: format!(
                    "its log cannot be created: {error}; the directory must be writable"
                ),
                source: Some(Arc::new(error)),
            }),
        }
    }

    /// Whether a caller may append: no write failed, nothing waits in the backlog, the disk is quick, and the
    /// file has room.
    pub(in crate::journal) fn is_plain(&self) -> bool {
        self.failing.is_none()
            && self.backlog.is_empty()
            && self.slow_until.is_none()
            && self
                .current
                .as_ref()
                .is_some_and(|file| file.end() < FILE_BYTES)
    }

    /// Whether as much waits in memory for the store as is fed at once.
    pub(in crate::journal) fn is_recent_full(&self) -> bool {
        self.log.is_recent_full()
    }

    /// Whether something was appended that the store does not have.
    pub(in crate::journal) fn is_behind(&self) -> bool {
        self.log.fed.load(Ordering::Acquire) < self.log.appended()
    }

    /// Returns why nothing can be written; empty if it can.
    pub(in crate::journal) fn reason(&self) -> String {
        let failing = self.failing.as_ref();
        failing
            .map(|failing| failing.reason.clone())
            .unwrap_or_default()
    }

    /// Retries a write that failed, and creates the next file. May wait for the disk.
    pub(in crate::journal) fn look_after(&mut self, counters: &Counters, is_last: bool) {
        if is_last && let Some(failing) = &mut self.failing {
            failing.retry_at = Instant::now();
        }
        self.write_backlog(counters);
        if !is_last {
            self.look_ahead();
        }
    }

    /// Returns how many events are in the backlog.
    pub(in crate::journal) fn backlog_events(&self) -> u64 {
        self.backlog.events() as u64
    }

    /// Appends changes, all of them or none. If they cannot be written now, they go to the backlog and this is
    /// an error.
    pub(in crate::journal) fn append(
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
                Ok(written) => {
                    lock(&self.log.recent).keep(written, changes);
                    return Ok(());
                }
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
                Ok(_) => {
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

    fn write(&mut self, changes: &[Change]) -> io::Result<Written> {
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
        let start = file.end();
        // First, so that the reader, who may have these frames as soon as the end moves, finds it counted.
        let bytes = self.buffer.len() as u64;
        self.log.unfed_bytes.fetch_add(bytes, Ordering::Relaxed);
        file.advance(&self.buffer);
        self.note_speed(began.elapsed());
        let written = Written {
            generation: file.header.generation,
            start,
            end: file.end(),
            last: number - 1,
            follows_what_is_fed: !self.is_behind(),
        };
        self.log.appended.store(written.last, Ordering::Release);
        crash_point("after-append");
        // After one large commit the buffer would stay large for ever.
        if self.buffer.capacity() > BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(written)
    }

    pub(super) fn note_speed(&mut self, took: Duration) {
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
    pub(in crate::journal) fn fails_from_now_on(&self) {
        if let Some(file) = &self.current {
            for _ in 0..100 {
                file.will(super::file::Fault::Write(0, io::ErrorKind::StorageFull));
            }
        }
    }

    /// Nothing more is appended to the current file. Without a frame it goes: otherwise each try on a disk that
    /// fails would leave one more.
    pub(super) fn leave_file(&mut self) {
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
    pub(super) fn file(&mut self) -> io::Result<Arc<LogFile>> {
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

/// Whether a disk, or somebody's share of it, is full, so that the same may go well later.
fn is_out_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
