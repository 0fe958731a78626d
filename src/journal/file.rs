//! The store in a file, and what happens when the file cannot be written. On a full or failing disk the store
//! takes nothing until it can be written again; new events wait in the log. If the file is damaged, a store in
//! memory takes over, so that sinks go on, and the log's files are kept for the next start.

use super::{
    JournalError, JournalOptions, Store,
    log::LogPosition,
    memory::MemoryLog,
    record::{Change, Held, Note},
    sqlite::{Lock, OpenFailure, Removed, SqliteLog, Trouble},
    status::Counters,
};
use crate::event::{DeadLetter, EventId, StoredEvent};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

/// How often old events are removed and the file is measured.
const TICK: Duration = Duration::from_secs(1);
/// The pause between two rounds of removal while there is more to remove than one round allows.
const TICK_WHEN_FULL: Duration = Duration::from_millis(100);
/// How long to wait before a broken file is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// After how many tries of an open connection the file is opened anew.
const TRIES_OF_A_CONNECTION: u32 = 12;

/// The store's file, or its substitute.
pub(super) struct FileStore {
    path: PathBuf,
    options: JournalOptions,
    state: FileState,
    // While the open file is not at its path: why it cannot be moved there.
    detached: Option<String>,
    // The highest position that any event had. New events always get higher ones, so that sinks miss none.
    newest: u64,
}

enum FileState {
    Open(Box<SqliteLog>),
    /// It cannot be written now. It can still be read while the connection `log` is there.
    Broken {
        reason: String,
        retry_at: Instant,
        tries: u32,
        log: Option<Box<SqliteLog>>,
    },
    /// It is damaged and left untouched. The lock is kept, if the damage was found when it was opened.
    Damaged {
        reason: String,
        memory: Box<MemoryLog>,
        _lock: Option<Lock>,
    },
    Closed,
}

/// What became of changes that were given to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// They are in the file.
    Stored,
    /// They are in the memory that stands in for a damaged file.
    InMemory,
    /// They were not taken: another program has the file locked for a moment.
    Busy,
    /// They were not taken: the file cannot be written now.
    Broken,
}

impl FileStore {
    pub(super) fn open(
        path: PathBuf,
        options: JournalOptions,
        counters: &Counters,
    ) -> Result<Self, JournalError> {
        let state = match SqliteLog::open(&path, &options) {
            Ok(log) => FileState::Open(Box::new(log)),
            Err(OpenFailure::Refused(error)) => return Err(error),
            Err(OpenFailure::Damaged(reason, lock)) => {
                say_damaged(&path, &reason);
                counters.degrade(Some(reason.clone()));
                FileState::Damaged {
                    reason,
                    memory: Box::new(in_memory(&options)),
                    _lock: Some(lock),
                }
            }
        };
        let mut store = Self {
            path,
            options,
            state,
            detached: None,
            newest: 0,
        };
        store.measure(counters);
        Ok(store)
    }

    /// Returns which store this is and which frame of the log it has reached.
    pub(super) fn log_position(&self) -> Result<LogPosition, JournalError> {
        match &self.state {
            FileState::Open(log) => {
                let position = log.log_position().map_err(read_error)?;
                Ok(LogPosition {
                    store_id: log.store_id().map_err(read_error)?,
                    position,
                    // Also where an earlier process made it, and came no further.
                    is_new: position == 0,
                })
            }
            _ => Ok(LogPosition {
                store_id: Uuid::nil(),
                position: 0,
                is_new: false,
            }),
        }
    }

    /// Takes over the id of the log that was found beside a new file.
    pub(super) fn adopt(&self, store_id: Uuid) -> Result<(), JournalError> {
        match &self.state {
            FileState::Open(log) => log.adopt(store_id).map_err(read_error),
            _ => Ok(()),
        }
    }

    /// Whether it takes nothing now.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, FileState::Broken { .. } | FileState::Closed)
    }

    /// Whether the file is damaged, so that memory stands in for it.
    pub(super) fn is_damaged(&self) -> bool {
        matches!(self.state, FileState::Damaged { .. })
    }

    /// Applies changes and notes in one transaction, together with the number of their last frame. Empties
    /// both lists when that is done.
    pub(super) fn apply(
        &mut self,
        changes: &mut Vec<Change>,
        notes: &mut Vec<Note>,
        position: Option<u64>,
        counters: &Counters,
    ) -> Fed {
        let log = match &mut self.state {
            FileState::Open(log) => log,
            FileState::Damaged { memory, .. } => {
                memory
                    .write(std::mem::take(changes), counters)
                    .say(counters);
                memory.note(std::mem::take(notes), counters);
                return Fed::InMemory;
            }
            FileState::Broken { .. } | FileState::Closed => return Fed::Broken,
        };
        match log.apply(changes, notes, position) {
            Ok(applied) => {
                changes.clear();
                notes.clear();
                counters.count(applied);
                counters.depth.fetch_add(applied.inserted, Relaxed);
                self.newest = self.newest.max(applied.newest);
                counters.reach(self.newest);
                // More comes than a round at each tick removes.
                if log.is_far_over_its_cap() {
                    self.make_room(counters);
                }
                Fed::Stored
            }
            // The other program will release its lock.
            Err(Trouble::Busy) => Fed::Busy,
            Err(trouble) => {
                // A file that is not at its path must not be closed: this connection is the only way to it.
                if !log.is_at(&self.path) {
                    self.follow_the_path(counters);
                } else {
                    self.break_off(trouble, counters);
                }
                match &self.state {
                    FileState::Damaged { .. } => self.apply(changes, notes, position, counters),
                    _ => Fed::Broken,
                }
            }
        }
    }

    fn degraded(&self) -> JournalError {
        JournalError::Degraded {
            reason: match &self.state {
                FileState::Open(_) => self.detached.clone().unwrap_or_default(),
                FileState::Broken { reason, .. } | FileState::Damaged { reason, .. } => {
                    reason.clone()
                }
                FileState::Closed => "closed".to_owned(),
            },
        }
    }

    fn break_off(&mut self, trouble: Trouble, counters: &Counters) {
        match trouble {
            Trouble::Busy => {}
            Trouble::Damaged(reason) => self.turn_to_memory(reason, None, counters),
            Trouble::Passing(reason) => {
                tracing::error!(
                    path = %self.path.display(),
                    reason,
                    "the journal's store cannot be written; what comes waits in its log, and it is \
                     tried again every few seconds"
                );
                counters.degrade(Some(reason.clone()));
                let log = match std::mem::replace(&mut self.state, FileState::Closed) {
                    FileState::Open(log) => Some(log),
                    _ => None,
                };
                self.state = FileState::Broken {
                    reason,
                    retry_at: Instant::now() + RETRY_PAUSE,
                    tries: 0,
                    log,
                };
            }
        }
    }

    /// Lets a store in memory take over from a damaged file, so that sinks go on.
    fn turn_to_memory(&mut self, reason: String, lock: Option<Lock>, counters: &Counters) {
        say_damaged(&self.path, &reason);
        counters.degrade(Some(reason.clone()));
        self.state = FileState::Damaged {
            reason,
            memory: Box::new(in_memory(&self.options).go_on_after(self.newest)),
            _lock: lock,
        };
    }

    /// Tries whether a file that could not be written can be written again.
    fn repair(&mut self, counters: &Counters) {
        let FileState::Broken { tries, log, .. } = &mut self.state else {
            return;
        };
        if log.as_ref().is_some_and(|log| !log.is_at(&self.path))
            && let Some(log) = log.take()
        {
            // The connection must not be closed: it is the only way to what is in the file.
            self.state = FileState::Open(log);
            return self.follow_the_path(counters);
        }
        *tries += 1;
        let is_due = *tries >= TRIES_OF_A_CONNECTION;
        // A new connection needs the lock that the old one has, so that the old one goes first.
        let mut log = match log.take().filter(|_| !is_due) {
            Some(log) => log,
            None => match SqliteLog::open(&self.path, &self.options) {
                Ok(log) => {
                    *tries = 0;
                    Box::new(log)
                }
                Err(OpenFailure::Damaged(reason, lock)) => {
                    return self.turn_to_memory(reason, Some(lock), counters);
                }
                Err(OpenFailure::Refused(_)) => return,
            },
        };
        // The file at the path may be another one by now, or an empty one.
        log.go_on_after(self.newest);
        match log.try_to_write() {
            Ok(()) => {
                // At the level of the trouble that it ends.
                tracing::warn!(
                    path = %self.path.display(),
                    "the journal's store can be written again"
                );
                self.state = FileState::Open(log);
                counters.degrade(None);
                self.measure(counters);
            }
            Err(Trouble::Damaged(reason)) => self.turn_to_memory(reason, None, counters),
            Err(_) => {
                if let FileState::Broken { log: kept, .. } = &mut self.state {
                    *kept = Some(log);
                }
            }
        }
    }

    /// Maintains the file once a second: removes old events, checks that it is still at its path, and
    /// retries writing one that failed.
    /// Returns when it is to be called again.
    pub(super) fn tick(&mut self, counters: &Counters) -> Instant {
        let mut next = Instant::now() + TICK;
        match &mut self.state {
            FileState::Broken { retry_at, .. } if Instant::now() >= *retry_at => {
                *retry_at = Instant::now() + RETRY_PAUSE;
                self.repair(counters);
            }
            FileState::Broken { .. } | FileState::Damaged { .. } | FileState::Closed => {}
            FileState::Open(log) if !log.is_at(&self.path) => self.follow_the_path(counters),
            FileState::Open(_) => {
                if self.make_room(counters) {
                    next = Instant::now() + TICK_WHEN_FULL;
                }
            }
        }
        next
    }

    /// Removes what is too old, or too much, for a moment at most. Whether there is more to remove.
    fn make_room(&mut self, counters: &Counters) -> bool {
        let FileState::Open(log) = &mut self.state else {
            return false;
        };
        let (removed, result) = log.make_room();
        count_removed(removed, counters);
        counters.remove_until(log.removed_until());
        if let Ok(bytes) = log.live_bytes() {
            counters.bytes.store(bytes, Relaxed);
        }
        if let Ok(oldest) = log.oldest_held() {
            counters.hold_since(oldest);
        }
        if let Err(trouble) = result {
            self.break_off(trouble, counters);
        }
        removed.is_unfinished
    }

    /// Copies everything into the file that is at the path now, or into a new one. The open file was deleted,
    /// renamed or replaced: only this connection reaches what is in it, which would be gone with this process.
    fn follow_the_path(&mut self, counters: &Counters) {
        let FileState::Open(log) = &mut self.state else {
            return;
        };
        match log.move_to(&self.path, self.options.synchronous) {
            Ok(()) => {
                tracing::error!(
                    path = %self.path.display(),
                    "the journal's file was deleted or replaced while it was in use; everything \
                     that was in it has been copied to the file that is there now"
                );
                self.detached = None;
                counters.detach(None);
                self.measure(counters);
            }
            Err(failure) => {
                let reason = match failure {
                    OpenFailure::Damaged(reason, _) => reason,
                    OpenFailure::Refused(error) => error.to_string(),
                };
                self.detached = Some(reason.clone());
                if counters.detach(Some(reason.clone())) {
                    tracing::error!(
                        path = %self.path.display(),
                        reason,
                        "the journal's file was deleted or replaced while it was in use, and cannot \
                         be made anew: events will be gone with this process; it is tried again"
                    );
                }
            }
        }
    }

    fn measure(&mut self, counters: &Counters) {
        if let FileState::Open(log) = &self.state {
            self.newest = self.newest.max(log.newest());
            counters.reach(self.newest);
            counters.remove_until(log.removed_until());
            if let Ok((depth, held)) = log.counts() {
                counters.depth.store(depth, Relaxed);
                counters.held.store(held, Relaxed);
            }
            if let Ok(bytes) = log.live_bytes() {
                counters.bytes.store(bytes, Relaxed);
            }
        }
    }

    /// Returns what can be read now: the file, or the store in memory that took over from it.
    fn readable(&self) -> Result<Readable<'_>, JournalError> {
        match &self.state {
            FileState::Open(log) | FileState::Broken { log: Some(log), .. } => {
                Ok(Readable::File(log))
            }
            FileState::Damaged { memory, .. } => Ok(Readable::Memory(memory)),
            FileState::Broken { log: None, .. } | FileState::Closed => Err(self.degraded()),
        }
    }

    /// For tests: a disk with room for so many pages.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        if let Ok(Readable::File(log)) = self.readable() {
            log.limit_pages(pages);
        }
    }

    /// Before closing: moves a file that is not at its path back to it, and retries a broken one.
    pub(super) fn settle_down(&mut self, counters: &Counters) {
        match &self.state {
            FileState::Open(log) if !log.is_at(&self.path) => self.follow_the_path(counters),
            FileState::Broken { .. } => self.repair(counters),
            FileState::Open(_) | FileState::Damaged { .. } | FileState::Closed => {}
        }
    }

    /// Closes the file. An error if it is not at its path, so that what is in it is gone with this process.
    pub(super) fn close(&mut self, counters: &Counters) -> Result<(), JournalError> {
        match std::mem::replace(&mut self.state, FileState::Closed) {
            FileState::Open(log) if log.is_at(&self.path) => {
                log.checkpoint();
                Ok(())
            }
            FileState::Open(_) => {
                let lost = counters.depth.load(Relaxed);
                if lost == 0 {
                    return Ok(());
                }
                counters.lost.fetch_add(lost, Relaxed);
                Err(JournalError::Lost {
                    events: lost,
                    reason: "its file was deleted".to_owned(),
                })
            }
            FileState::Broken { .. } | FileState::Damaged { .. } | FileState::Closed => Ok(()),
        }
    }
}

/// See [`FileStore::readable`].
enum Readable<'a> {
    File(&'a SqliteLog),
    Memory(&'a MemoryLog),
}

impl Store for FileStore {
    fn durable(&self) -> Result<(), JournalError> {
        match (&self.state, &self.detached) {
            (FileState::Open(_), None) => Ok(()),
            _ => Err(self.degraded()),
        }
    }

    fn id(&self) -> Result<Option<Uuid>, JournalError> {
        match self.readable()? {
            Readable::File(log) => {
                let id = log.store_id().map_err(read_error)?;
                Ok((!id.is_nil()).then_some(id))
            }
            Readable::Memory(_) => Ok(None),
        }
    }

    fn held(&self) -> Result<Vec<Held>, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.held().map_err(read_error),
            Readable::Memory(memory) => memory.held(),
        }
    }

    fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.missing(ids).map_err(read_error),
            // Memory has only what came after the damage: nearly every id would count as missing.
            Readable::Memory(_) => Err(self.degraded()),
        }
    }

    fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.find(ids).map_err(read_error),
            Readable::Memory(memory) => memory.find(ids),
        }
    }

    fn position_before(&self, time: Option<SystemTime>) -> Result<u64, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.position_before(time).map_err(read_error),
            Readable::Memory(memory) => memory.position_before(time),
        }
    }

    fn keep_for(&mut self, cursor: String) {
        match &mut self.state {
            FileState::Open(log) | FileState::Broken { log: Some(log), .. } => {
                log.keep_for(&cursor);
            }
            FileState::Damaged { memory, .. } => memory.keep_for(cursor.clone()),
            FileState::Broken { .. } | FileState::Closed => {}
        }
        // For a connection that is opened anew.
        if !self.options.sinks.contains(&cursor) {
            self.options.sinks.push(cursor);
        }
    }

    fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.cursor(name).map_err(read_error),
            Readable::Memory(memory) => memory.cursor(name),
        }
    }

    fn dead_letters(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        match self.readable()? {
            Readable::File(log) => log.dead_letters(sink, after, limit).map_err(read_error),
            Readable::Memory(memory) => memory.dead_letters(sink, after, limit),
        }
    }

    fn read(
        &mut self,
        reader: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        if let FileState::Damaged { memory, .. } = &mut self.state {
            return memory.read(reader, after, limit);
        }
        let events = match self.readable()? {
            Readable::File(log) => log.read(after, limit).map_err(read_error)?,
            Readable::Memory(_) => Vec::new(),
        };
        if let (Some(reader), Some(last)) = (reader, events.last())
            && let FileState::Open(log) | FileState::Broken { log: Some(log), .. } = &mut self.state
        {
            log.hand_out(reader, after, last.position);
        }
        Ok(events)
    }
}

fn say_damaged(path: &Path, reason: &str) {
    tracing::error!(
        path = %path.display(),
        reason,
        "the journal cannot be written and turns to memory: the file is damaged; what comes waits in its \
         log for a start with a whole file"
    );
}

/// Creates the store that takes over from a damaged file. It keeps as many events as `queue_size`; of a
/// journal that only feeds sinks, it lets go of those that every sink has.
fn in_memory(options: &JournalOptions) -> MemoryLog {
    let sinks = if options.is_store {
        Vec::new()
    } else {
        options.sinks.clone()
    };
    MemoryLog::new(options.queue_size, sinks)
}

fn count_removed(removed: Removed, counters: &Counters) {
    counters
        .depth
        .fetch_sub(removed.kept + removed.lost, Relaxed);
    if removed.lost > 0 {
        counters.lose(
            removed.lost,
            "the journal reached its size cap: the oldest events were removed",
        );
    }
    if removed.dead_letters > 0 {
        counters.lose(
            removed.dead_letters,
            "the journal reached its size cap: the oldest dead letters were removed",
        );
    }
}

fn read_error(trouble: Trouble) -> JournalError {
    JournalError::Read {
        reason: match trouble {
            Trouble::Busy => "another program has it locked".to_owned(),
            Trouble::Passing(reason) | Trouble::Damaged(reason) => reason,
        },
    }
}
