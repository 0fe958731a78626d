//! The log in a file, and what is kept in memory while the file cannot be written: for a full disk or
//! a failing one until it can be written again; for a damaged file a log in memory takes over.

use super::{
    JournalError, JournalOptions,
    memory::{Backlog, MemoryLog},
    record::{Change, Held, Refused, Stored},
    sqlite::{Lock, OpenFailure, Removed, SqliteLog, Trouble},
    status::Counters,
};
use crate::event::EventId;
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

/// How often room is made and the file is measured.
const TICK: Duration = Duration::from_secs(1);
/// How long the others have their turn while there is more to remove than time.
const TICK_WHEN_FULL: Duration = Duration::from_millis(100);
/// How long to wait before a broken file is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// After how many tries of an open connection the file is opened anew.
const TRIES_OF_A_CONNECTION: u32 = 12;
/// How long a transaction waits before it is tried again while somebody else has the file locked.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The file, or what is kept until it can be written again.
pub(super) struct FileLog {
    path: PathBuf,
    options: JournalOptions,
    state: FileState,
    backlog: Backlog,
    // Why the open file cannot be at its path, while it is not.
    detached: Option<String>,
    // The highest position that any event had: what sinks have seen stays behind what comes.
    newest: u64,
    next_tick: Instant,
}

enum FileState {
    Open(Box<SqliteLog>),
    /// It cannot be written now. What is in it can still be read, as long as its connection lives.
    Broken {
        reason: String,
        retry_at: Instant,
        tries: u32,
        log: Option<Box<SqliteLog>>,
    },
    /// It is damaged, and stays as it is, under this lock if there was one.
    Damaged {
        reason: String,
        memory: Box<MemoryLog>,
        _lock: Option<Lock>,
    },
    Closed,
}

/// See [`FileLog::source`].
enum Source<'a> {
    File(&'a SqliteLog),
    Memory(&'a MemoryLog),
}

impl FileLog {
    pub(super) fn open(
        path: PathBuf,
        options: JournalOptions,
        counters: &Counters,
    ) -> Result<Self, JournalError> {
        let backlog = Backlog::new(options.queue_size);
        let state = match open_file(&path, &options) {
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
        let mut log = Self {
            path,
            options,
            state,
            backlog,
            detached: None,
            newest: 0,
            next_tick: Instant::now() + TICK,
        };
        log.measure(counters);
        Ok(log)
    }

    pub(super) fn apply(
        &mut self,
        changes: Vec<Change>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        let log = match &mut self.state {
            FileState::Open(log) => log,
            FileState::Damaged { memory, .. } => {
                memory.write(&changes, counters);
                return Err(self.degraded());
            }
            FileState::Broken { .. } | FileState::Closed => return self.keep(changes, counters),
        };
        loop {
            match log.apply(&changes) {
                Ok(applied) => {
                    counters.count(applied);
                    counters.depth.fetch_add(applied.inserted, Relaxed);
                    self.newest = self.newest.max(applied.newest);
                    counters.reach(self.newest);
                    // Written to a file that has no name any more: it goes with this process.
                    return match &self.detached {
                        None => Ok(()),
                        Some(reason) => Err(JournalError::Degraded {
                            reason: reason.clone(),
                        }),
                    };
                }
                // Whoever has the lock will let go; those who wait bound their own patience.
                Err(Trouble::Busy) => std::thread::sleep(BUSY_PAUSE),
                Err(trouble) => {
                    // A file that is not at its path must not be let go: this is the only way to it.
                    if !log.is_at(&self.path) {
                        self.follow_the_path(counters);
                    } else {
                        self.break_off(trouble, counters);
                    }
                    return match &self.state {
                        FileState::Damaged { .. } => self.apply(changes, counters),
                        _ => self.keep(changes, counters),
                    };
                }
            }
        }
    }

    fn keep(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        let lost = self.backlog.keep(changes);
        if lost > 0 {
            counters.lose(lost, "memory has no more room for events: some are lost");
        }
        Err(self.degraded())
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

    pub(super) fn durable(&self) -> Result<(), JournalError> {
        let is_damaged = matches!(self.state, FileState::Damaged { .. });
        if self.backlog.is_empty() && self.detached.is_none() && !is_damaged {
            Ok(())
        } else {
            Err(self.degraded())
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
                    "the journal cannot be written and turns to memory: it is tried again every \
                     few seconds"
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

    /// The file is damaged: a log in memory takes over, so that sinks go on.
    fn turn_to_memory(&mut self, reason: String, lock: Option<Lock>, counters: &Counters) {
        say_damaged(&self.path, &reason);
        counters.degrade(Some(reason.clone()));
        let mut memory = in_memory(&self.options).go_on_after(self.newest);
        memory.write(&self.backlog.take(), counters);
        self.state = FileState::Damaged {
            reason,
            memory: Box::new(memory),
            _lock: lock,
        };
    }

    /// Writes what memory holds back to the file, if it can be written again.
    fn repair(&mut self, counters: &Counters) {
        let FileState::Broken { tries, log, .. } = &mut self.state else {
            return;
        };
        if log.as_ref().is_some_and(|log| !log.is_at(&self.path))
            && let Some(log) = log.take()
        {
            // What is in it must not be let go: this is the only way to it.
            self.state = FileState::Open(log);
            return self.follow_the_path(counters);
        }
        *tries += 1;
        let is_due = *tries >= TRIES_OF_A_CONNECTION;
        // Another connection needs the lock of the last one.
        let mut log = match log.take().filter(|_| !is_due) {
            Some(log) => log,
            None => match open_file(&self.path, &self.options) {
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
        // It may be another file, or an empty one.
        log.go_on_after(self.newest);
        let changes = self.backlog.take();
        match log.apply(&changes) {
            Ok(applied) => {
                counters.count(applied);
                // As loud as what it ends.
                tracing::warn!(
                    path = %self.path.display(),
                    events = applied.inserted,
                    "the journal can write its file again; what memory held is in it"
                );
                self.state = FileState::Open(log);
                counters.degrade(None);
                self.measure(counters);
            }
            Err(Trouble::Damaged(reason)) => {
                self.backlog.keep(changes);
                self.turn_to_memory(reason, None, counters);
            }
            Err(_) => {
                self.backlog.keep(changes);
                if let FileState::Broken { log: kept, .. } = &mut self.state {
                    *kept = Some(log);
                }
            }
        }
    }

    pub(super) fn tick(&mut self, counters: &Counters) {
        if Instant::now() < self.next_tick {
            return;
        }
        self.next_tick = Instant::now() + TICK;
        match &mut self.state {
            FileState::Broken { retry_at, .. } if Instant::now() >= *retry_at => {
                *retry_at = Instant::now() + RETRY_PAUSE;
                self.repair(counters);
            }
            FileState::Broken { .. } | FileState::Damaged { .. } | FileState::Closed => {}
            FileState::Open(log) if !log.is_at(&self.path) => self.follow_the_path(counters),
            FileState::Open(_) if !self.backlog.is_empty() => self.write_backlog(counters),
            FileState::Open(log) => {
                let (removed, result) = log.make_room();
                count_removed(removed, counters);
                counters.remove_until(log.removed_until());
                if removed.is_unfinished {
                    self.next_tick = Instant::now() + TICK_WHEN_FULL;
                }
                if let Ok(bytes) = log.live_bytes() {
                    counters.bytes.store(bytes, Relaxed);
                }
                if let Err(trouble) = result {
                    self.break_off(trouble, counters);
                }
            }
        }
    }

    /// Writes what memory kept while the open file could not be written.
    fn write_backlog(&mut self, counters: &Counters) {
        let changes = self.backlog.take();
        if !changes.is_empty() {
            // What fails is kept again, and said.
            self.apply(changes, counters).ok();
        }
    }

    /// The file was deleted, renamed or replaced while it is open: what is in it can only be reached
    /// from here, and would be gone with this process.
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
                counters.degrade(None);
                self.measure(counters);
                self.write_backlog(counters);
            }
            Err(failure) => {
                let reason = match failure {
                    OpenFailure::Damaged(reason, _) => reason,
                    OpenFailure::Refused(error) => error.to_string(),
                };
                self.detached = Some(reason.clone());
                if counters.degrade(Some(reason.clone())) {
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

    /// What can be read now: the file, or the log in memory that took over from it.
    fn source(&self) -> Result<Source<'_>, JournalError> {
        match &self.state {
            FileState::Open(log) | FileState::Broken { log: Some(log), .. } => {
                Ok(Source::File(log))
            }
            FileState::Damaged { memory, .. } => Ok(Source::Memory(memory)),
            FileState::Broken { log: None, .. } | FileState::Closed => Err(self.degraded()),
        }
    }

    pub(super) fn held(&self) -> Result<Vec<Held>, JournalError> {
        match self.source()? {
            Source::File(log) => log.held().map_err(read_error),
            Source::Memory(memory) => Ok(memory.held()),
        }
    }

    pub(super) fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        match self.source()? {
            Source::File(log) => log.missing(ids).map_err(read_error),
            // Most of what is not there is in the damaged file.
            Source::Memory(_) => Err(self.degraded()),
        }
    }

    pub(super) fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError> {
        match self.source()? {
            Source::File(log) => log.find(ids).map_err(read_error),
            Source::Memory(memory) => Ok(memory.find(ids)),
        }
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        match self.source()? {
            Source::File(log) => log.cursor(name).map_err(read_error),
            Source::Memory(memory) => Ok(memory.cursor(name)),
        }
    }

    pub(super) fn refused(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Refused>, JournalError> {
        match self.source()? {
            Source::File(log) => log.refused(sink, after, limit).map_err(read_error),
            Source::Memory(memory) => Ok(memory.refused(sink, after, limit)),
        }
    }

    pub(super) fn read(
        &mut self,
        reader: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, JournalError> {
        let stored = match self.source()? {
            Source::File(log) => log.read(after, limit).map_err(read_error)?,
            Source::Memory(memory) => memory.read(after, limit),
        };
        if let (Some(reader), Some(last)) = (reader, stored.last())
            && let FileState::Open(log) | FileState::Broken { log: Some(log), .. } = &mut self.state
        {
            log.hand_out(reader, after, last.seq);
        }
        Ok(stored)
    }

    /// For tests: a disk with room for so many pages.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        if let Ok(Source::File(log)) = self.source() {
            log.limit_pages(pages);
        }
    }

    /// Writes what can be written and gives the file back.
    pub(super) fn close(&mut self, counters: &Counters) -> Result<(), JournalError> {
        if matches!(&self.state, FileState::Open(log) if !log.is_at(&self.path)) {
            self.follow_the_path(counters);
        }
        if !self.backlog.is_empty() {
            match &self.state {
                FileState::Open(_) => self.write_backlog(counters),
                FileState::Broken { .. } => self.repair(counters),
                FileState::Damaged { .. } | FileState::Closed => {}
            }
        }
        let (lost, reason) = match std::mem::replace(&mut self.state, FileState::Closed) {
            FileState::Open(log) if log.is_at(&self.path) => {
                log.checkpoint();
                (self.backlog.events() as u64, String::new())
            }
            FileState::Open(_) => (
                counters.depth.load(Relaxed),
                "its file was deleted".to_owned(),
            ),
            FileState::Broken { reason, .. } => (self.backlog.events() as u64, reason),
            FileState::Damaged { reason, memory, .. } => (memory.depth(), reason),
            FileState::Closed => return Ok(()),
        };
        if lost == 0 {
            return Ok(());
        }
        counters.lost.fetch_add(lost, Relaxed);
        let error = JournalError::Lost {
            events: lost,
            reason,
        };
        tracing::error!(path = %self.path.display(), lost, %error, "events are lost");
        Err(error)
    }
}

fn open_file(path: &Path, options: &JournalOptions) -> Result<SqliteLog, OpenFailure> {
    SqliteLog::open(path, options)
}

fn say_damaged(path: &Path, reason: &str) {
    tracing::error!(
        path = %path.display(),
        reason,
        "the journal cannot be written and turns to memory: the file is damaged"
    );
}

/// The log that takes over from a damaged file. As the store it keeps what it can; otherwise, what no
/// sink has yet.
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
