//! Where events are stored: in memory, or in a file. Feeds the file from the log, and does not decide when.

use super::{
    JournalError, JournalOptions, Target, append::Appender, memory::MemoryLog, record::Note,
    state::Ask, status::Counters,
};
#[cfg(feature = "sqlite")]
use super::{
    Store as _,
    feed::HeldKeys,
    file::{Fed, FileStore},
    log,
    memory::Backlog,
};
#[cfg(feature = "sqlite")]
use std::sync::atomic::Ordering::Relaxed;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The pause before a file that another program has locked is tried again.
#[cfg(feature = "sqlite")]
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// The pause before a file that cannot be written is tried again.
#[cfg(feature = "sqlite")]
const BROKEN_PAUSE: Duration = Duration::from_secs(1);
/// How long opening and closing wait for a file that another program has locked. What the store lacks then stays
/// in the log.
#[cfg(feature = "sqlite")]
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where events are stored.
pub(super) enum Storage {
    Memory(Arc<Mutex<MemoryLog>>),
    #[cfg(feature = "sqlite")]
    File(Box<FileStorage>),
}

#[cfg(feature = "sqlite")]
pub(super) struct FileStorage {
    store: FileStore,
    reader: log::Reader,
    held: HeldKeys,
    is_local: bool,
    log: Arc<log::Log>,
}

impl Storage {
    pub(super) fn open(
        options: JournalOptions,
        #[cfg_attr(
            not(feature = "sqlite"),
            allow(unused_variables, reason = "memory counts later")
        )]
        counters: &Counters,
    ) -> Result<(Self, Appender), JournalError> {
        match &options.target {
            Target::Memory => {
                let memory = MemoryLog::new(options.queue_size, options.sinks)
                    .keeping_dead_letters(options.dead_letter_retention);
                let memory = Arc::new(Mutex::new(memory));
                Ok((Self::Memory(memory.clone()), Appender::Memory(memory)))
            }
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => {
                let path = path.clone();
                let (file, appender) = FileStorage::open(path, options, counters)?;
                Ok((
                    Self::File(Box::new(file)),
                    Appender::Log(Box::new(appender)),
                ))
            }
        }
    }

    /// Whether callers may append themselves: memory, or a local disk that need not be synced.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "sqlite")]
            Self::File(file) => file.is_local,
        }
    }

    /// Returns the log, if there is one.
    #[cfg(feature = "sqlite")]
    pub(super) fn log(&self) -> Option<Arc<log::Log>> {
        match self {
            Self::Memory(_) => None,
            Self::File(file) => Some(file.log.clone()),
        }
    }

    /// Whether something was appended that the store does not have yet.
    pub(super) fn is_behind(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::File(file) => file.reader.is_behind(),
        }
    }

    /// Whether as much waits in memory for the store as is fed at once.
    pub(super) fn is_recent_full(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::File(file) => file.log.is_recent_full(),
        }
    }

    pub(super) fn ask(&mut self, question: Ask) {
        match self {
            Self::Memory(memory) => {
                question(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner));
            }
            #[cfg(feature = "sqlite")]
            Self::File(file) => question(&mut file.store),
        }
    }

    /// Looks after what is stored; returns when a file wants to be looked after again.
    pub(super) fn tick(&mut self, counters: &Counters) -> Option<Instant> {
        match self {
            Self::Memory(memory) => {
                let aged = memory
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove_aged_dead_letters();
                counters.expire(aged);
                None
            }
            #[cfg(feature = "sqlite")]
            Self::File(file) => Some(file.store.tick(counters)),
        }
    }

    pub(super) fn close(
        &mut self,
        appender: &Appender,
        notes: Vec<Note>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        match (self, appender) {
            #[cfg(feature = "sqlite")]
            (Self::File(file), Appender::Log(appender)) => file.close(appender, notes, counters),
            (storage, _) => {
                let mut notes = notes;
                storage.feed(&mut notes, counters);
                Ok(())
            }
        }
    }

    /// Feeds the store everything that was appended, and the notes. Notes that it does not take stay in
    /// `notes`.
    pub(super) fn feed(&mut self, notes: &mut Vec<Note>, counters: &Counters) -> FedUp {
        match self {
            Self::Memory(memory) => {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.note(std::mem::take(notes), counters);
                FedUp::All
            }
            #[cfg(feature = "sqlite")]
            Self::File(file) => file.feed(notes, counters),
        }
    }
}

/// How feeding ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FedUp {
    /// The store has everything.
    All,
    /// Another program has the file locked for a moment.
    #[cfg(feature = "sqlite")]
    Busy,
    /// The file cannot be written.
    #[cfg(feature = "sqlite")]
    Broken,
}

impl FedUp {
    pub(super) fn is_busy(self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Busy => true,
            _ => false,
        }
    }

    /// Returns how long to wait before the next try; none if there is nothing left to feed.
    pub(super) fn pause(self) -> Option<Duration> {
        match self {
            Self::All => None,
            #[cfg(feature = "sqlite")]
            Self::Busy => Some(BUSY_PAUSE),
            #[cfg(feature = "sqlite")]
            Self::Broken => Some(BROKEN_PAUSE),
        }
    }
}

#[cfg(feature = "sqlite")]
impl FileStorage {
    fn open(
        path: std::path::PathBuf,
        options: JournalOptions,
        counters: &Counters,
    ) -> Result<(Self, log::Appender), JournalError> {
        let unusable = |error: std::io::Error| JournalError::Open {
            path: path.clone(),
            reason: format!("its log cannot be read: {error}"),
            source: Some(Arc::new(error)),
        };
        let syncs = options.synchronous == super::Synchronous::Full;
        let backlog = Backlog::new(options.queue_size, options.max_queued_bytes / 2);
        let is_local = !syncs && log::is_local(&path);
        let store = FileStore::open(path.clone(), options, counters)?;
        let position = store.log_position()?;
        let recovered = log::recover(&path, position).map_err(unusable)?;
        if recovered.store_id != position.store_id {
            store.adopt(recovered.store_id)?;
        }
        let held = HeldKeys::new(hold_ids(&store));
        let is_behind = recovered.last_number > recovered.position;
        let (appender, mut reader, log) = log::open(&path, syncs, backlog, recovered)?;
        if store.is_damaged() {
            reader.keep_files();
        }
        let mut storage = Self {
            store,
            reader,
            held,
            is_local,
            log,
        };
        if is_behind {
            storage.recover(counters);
        }
        Ok((storage, appender))
    }

    fn feed(&mut self, notes: &mut Vec<Note>, counters: &Counters) -> FedUp {
        if self.store.is_broken() {
            return FedUp::Broken;
        }
        loop {
            let frames = match self.reader.next() {
                Ok(frames) => frames,
                Err(error) => {
                    tracing::error!(%error, "the journal's log cannot be read; it is tried again");
                    return FedUp::Broken;
                }
            };
            let Some(frames) = frames else {
                if notes.is_empty() {
                    return FedUp::All;
                }
                let fed = self.store.apply(&mut Vec::new(), notes, None, counters);
                return self.fed_up(fed).unwrap_or(FedUp::All);
            };
            let (mut changes, delta) = self.held.condense(frames.changes);
            let position = Some(frames.progress.last);
            let fed = self.store.apply(&mut changes, notes, position, counters);
            if let Some(fed_up) = self.fed_up(fed) {
                return fed_up;
            }
            self.held.apply(&delta);
            self.reader.done_with(&frames.progress);
        }
    }

    /// Feeds what an earlier process left, so that it is there when the store is open. What cannot be fed now is
    /// fed later.
    fn recover(&mut self, counters: &Counters) {
        let began = Instant::now();
        while self.feed(&mut Vec::new(), counters) == FedUp::Busy && began.elapsed() < LOCK_TIMEOUT
        {
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// Feeds what is left, retrying a locked file for a while, and closes the file.
    fn close(
        &mut self,
        appender: &log::Appender,
        mut notes: Vec<Note>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        let began = Instant::now();
        self.store.settle_down(counters);
        let fed_up = loop {
            let fed_up = self.feed(&mut notes, counters);
            if fed_up != FedUp::Busy || began.elapsed() > LOCK_TIMEOUT {
                break fed_up;
            }
            std::thread::sleep(BUSY_PAUSE);
        };
        let reason = self.store.durable().err().map(|error| error.to_string());
        let closed = self.store.close(counters);
        if fed_up == FedUp::All {
            self.reader.remove_all();
        }
        let lost = appender.backlog_events();
        let result = if lost > 0 {
            counters.lost.fetch_add(lost, Relaxed);
            Err(JournalError::Lost {
                events: lost,
                reason: appender.reason(),
            })
        } else if fed_up != FedUp::All || self.reader.keeps_files() {
            Err(JournalError::NotStored {
                reason: reason.unwrap_or_else(|| "another program has it locked".to_owned()),
            })
        } else {
            closed
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the journal closes, and its store does not have everything");
        }
        result
    }

    /// Returns why feeding ends now; none if it goes on.
    fn fed_up(&mut self, fed: Fed) -> Option<FedUp> {
        match fed {
            Fed::Stored => None,
            Fed::InMemory => {
                self.reader.keep_files();
                None
            }
            Fed::Busy => Some(FedUp::Busy),
            Fed::Broken => Some(FedUp::Broken),
        }
    }
}

#[cfg(feature = "sqlite")]
fn hold_ids(store: &FileStore) -> Vec<uuid::Uuid> {
    let held = store.held().unwrap_or_default();
    held.into_iter().map(|held| held.key.hold_id).collect()
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::journal::record::Change;

    /// A disk that stays full to the end: what only memory has is lost, counted, and an error.
    #[test]
    fn what_could_not_be_written_to_the_end_is_lost_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let counters = Counters::default();
        let options = JournalOptions::small(Target::Sqlite(path.clone()));
        let (mut storage, mut appender) = FileStorage::open(path, options, &counters).unwrap();
        appender.fails_from_now_on();
        let mut event = crate::event::Event::new("x");
        event.metadata.event_id = Some(crate::event::EventId::new());
        event.metadata.created_at = Some(chrono::DateTime::UNIX_EPOCH);
        let event = crate::event::StoredEvent::new(0, &event).unwrap();
        let append = appender.append(vec![Change::Insert(vec![event])], &counters);
        assert!(matches!(append, Err(JournalError::Degraded { .. })));
        appender.look_after(&counters, true);
        let closed = storage.close(&appender, Vec::new(), &counters);
        assert!(
            matches!(closed, Err(JournalError::Lost { events: 1, .. })),
            "{closed:?}"
        );
        assert_eq!(counters.status().lost, 1);
    }
}
