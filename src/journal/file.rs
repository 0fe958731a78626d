//! The log in a file, and what is kept in memory while the file cannot be written: for a full disk or
//! a failing one until it can be written again, for a damaged file to the end.

use super::{
    JournalError, JournalOptions,
    memory::Backlog,
    record::{Change, HeldRun, Refused, Stored},
    sqlite::{Lock, OpenFailure, Removed, SqliteLog, Trouble},
    status::Counters,
};
use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How often room is made and the file is measured.
const TICK: Duration = Duration::from_secs(1);
/// How long to wait before a broken file is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
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
    last_tick: Instant,
}

enum FileState {
    Open(Box<SqliteLog>),
    /// Closed because it could not be written; `None` for a damaged file, which stays as it is.
    Broken {
        reason: String,
        retry_at: Option<Instant>,
        _lock: Option<Lock>,
    },
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
                say_broken(&path, &reason, "the file is damaged");
                counters.degrade(Some(reason.clone()));
                FileState::Broken {
                    reason,
                    retry_at: None,
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
            last_tick: Instant::now(),
        };
        log.measure(counters);
        Ok(log)
    }

    pub(super) fn apply(
        &mut self,
        changes: Vec<Change>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        let FileState::Open(log) = &mut self.state else {
            return self.keep(changes, counters);
        };
        loop {
            match log.apply(&changes) {
                Ok(applied) => {
                    counters.count(applied);
                    counters.depth.fetch_add(applied.inserted, Relaxed);
                    counters.reach(log.newest());
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
                    return self.keep(changes, counters);
                }
            }
        }
    }

    fn keep(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        let lost = self.backlog.keep(changes);
        if lost > 0 {
            let all = counters.lost.fetch_add(lost, Relaxed) + lost;
            tracing::warn!(
                lost,
                all,
                "memory has no more room for events: some are lost"
            );
        }
        Err(self.degraded())
    }

    fn degraded(&self) -> JournalError {
        JournalError::Degraded {
            reason: match &self.state {
                FileState::Open(_) => self.detached.clone().unwrap_or_default(),
                FileState::Broken { reason, .. } => reason.clone(),
            },
        }
    }

    pub(super) fn durable(&self) -> Result<(), JournalError> {
        if self.backlog.is_empty() && self.detached.is_none() {
            Ok(())
        } else {
            Err(self.degraded())
        }
    }

    fn break_off(&mut self, trouble: Trouble, counters: &Counters) {
        let (reason, retry_at, what) = match trouble {
            Trouble::Damaged(reason) => (reason, None, "the file is damaged"),
            Trouble::Passing(reason) => (
                reason,
                Some(Instant::now() + RETRY_PAUSE),
                "it is tried again every few seconds",
            ),
            Trouble::Busy => return,
        };
        say_broken(&self.path, &reason, what);
        counters.degrade(Some(reason.clone()));
        // The connection goes, and with it this store's lock on the file.
        self.state = FileState::Broken {
            reason,
            retry_at,
            _lock: None,
        };
    }

    /// Writes what memory holds back to the file, if it can be written again.
    fn repair(&mut self, counters: &Counters) {
        let Ok(mut log) = open_file(&self.path, &self.options) else {
            return;
        };
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
                self.state = FileState::Open(Box::new(log));
                counters.degrade(None);
                self.measure(counters);
            }
            Err(_) => {
                self.backlog.keep(changes);
            }
        }
    }

    pub(super) fn tick(&mut self, counters: &Counters) {
        if self.last_tick.elapsed() < TICK {
            return;
        }
        self.last_tick = Instant::now();
        match &mut self.state {
            FileState::Broken {
                retry_at: Some(at), ..
            } if Instant::now() >= *at => {
                *at = Instant::now() + RETRY_PAUSE;
                self.repair(counters);
            }
            FileState::Broken { .. } => {}
            FileState::Open(log) if !log.is_at(&self.path) => self.follow_the_path(counters),
            FileState::Open(_) if !self.backlog.is_empty() => self.write_backlog(counters),
            FileState::Open(log) => match log.make_room() {
                Ok(Removed { kept, lost }) => {
                    counters.depth.fetch_sub(kept + lost, Relaxed);
                    if lost > 0 {
                        let all = counters.lost.fetch_add(lost, Relaxed) + lost;
                        tracing::warn!(
                            lost,
                            all,
                            "the journal reached its size cap: the oldest events were removed"
                        );
                    }
                    if let Ok(bytes) = log.live_bytes() {
                        counters.bytes.store(bytes, Relaxed);
                    }
                }
                Err(Trouble::Busy) => {}
                Err(trouble) => self.break_off(trouble, counters),
            },
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
            counters.reach(log.newest());
            if let Ok((depth, held)) = log.counts() {
                counters.depth.store(depth, Relaxed);
                counters.held.store(held, Relaxed);
            }
            if let Ok(bytes) = log.live_bytes() {
                counters.bytes.store(bytes, Relaxed);
            }
        }
    }

    pub(super) fn held(&self) -> Result<Vec<HeldRun>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.held().map_err(read_error),
            FileState::Broken { .. } => Err(self.degraded()),
        }
    }

    pub(super) fn missing(&self, ids: Vec<Uuid>) -> Result<Vec<Uuid>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.missing(ids).map_err(read_error),
            FileState::Broken { .. } => Err(self.degraded()),
        }
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.cursor(name).map_err(read_error),
            FileState::Broken { .. } => Err(self.degraded()),
        }
    }

    pub(super) fn refused(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Refused>, JournalError> {
        match &self.state {
            FileState::Open(log) => log.refused(sink, after, limit).map_err(read_error),
            FileState::Broken { .. } => Err(self.degraded()),
        }
    }

    pub(super) fn read(
        &mut self,
        reader: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, JournalError> {
        match &mut self.state {
            FileState::Open(log) => {
                let stored = log.read(after, limit).map_err(read_error)?;
                if let (Some(reader), Some(last)) = (reader, stored.last()) {
                    log.hand_out(reader, after, last.seq);
                }
                Ok(stored)
            }
            FileState::Broken { .. } => Err(self.degraded()),
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
            }
        }
        let closed = FileState::Broken {
            reason: "closed".to_owned(),
            retry_at: None,
            _lock: None,
        };
        let (lost, reason) = match std::mem::replace(&mut self.state, closed) {
            FileState::Open(log) if log.is_at(&self.path) => {
                log.checkpoint();
                (self.backlog.events() as u64, String::new())
            }
            FileState::Open(_) => (
                counters.depth.load(Relaxed),
                "its file was deleted".to_owned(),
            ),
            FileState::Broken { reason, .. } => (self.backlog.events() as u64, reason),
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

fn say_broken(path: &Path, reason: &str, what: &str) {
    tracing::error!(
        path = %path.display(),
        reason,
        "the journal cannot be written and turns to memory: {what}"
    );
}

fn read_error(trouble: Trouble) -> JournalError {
    JournalError::Read {
        reason: match trouble {
            Trouble::Busy => "another program has it locked".to_owned(),
            Trouble::Passing(reason) | Trouble::Damaged(reason) => reason,
        },
    }
}
