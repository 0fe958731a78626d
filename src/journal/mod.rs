//! The durable local journal: a log that callers append to, and a store that the journal's thread feeds from
//! the log. `docs/journal.md` follows an event through it, file by file.
//!
//! Invariants:
//!
//! * Work is appended in the order in which it was queued, by one thread at a time: the one that owns the
//!   [`Appender`]. In the plain case (nothing in the way, little to write, no filter) that is a caller who
//!   waits for an answer; it appends everything that is queued. In every other case it is the journal's
//!   thread. Only that thread ever waits for the appender.
//! * A change is durable once its whole frame is in the log. A receipt resolves then, not earlier.
//! * The store applies each frame once, in order: the number of the last frame is written in the same
//!   transaction. The store may lag behind the log. [`Journal::ask`] is answered once the store has
//!   everything that was queued before; [`Journal::ask_as_it_is`] is answered from what it has.
//! * A file of the log is removed once the store has all of it, never earlier.
//! * Notes about delivery (cursors, dead letters) refer to positions in the store and are written with its
//!   next transaction. A crash may lose them; events are then delivered again.
//! * Work that nobody waits for wakes nobody, except the journal's thread, once after an idle time.
//! * The state that handles share (`Shared::state`) is not locked while an event is finished, a filter runs,
//!   something is logged, or a disk is waited for.
//!
//! Knows nothing of Temporal, or of where events go next.

mod append;
#[cfg(test)]
mod append_model;
mod error;
#[cfg(feature = "sqlite")]
mod feed;
#[cfg(feature = "sqlite")]
mod file;
#[cfg(feature = "sqlite")]
mod log;
mod memory;
mod options;
mod queue;
mod receipt;
mod record;
mod removed;
#[cfg(feature = "sqlite")]
mod sqlite;
mod state;
mod status;
mod storage;
mod thread;

#[cfg(test)]
mod tests;

pub use error::JournalError;
pub(crate) use options::{JournalOptions, Retention, Synchronous, Target};
pub(crate) use receipt::Receipt;
pub(crate) use record::{Held, Hold, HoldKey};
pub(crate) use removed::RemovedUntil;
#[cfg(feature = "cli")]
pub(crate) use sqlite::lock;
#[cfg(feature = "sqlite")]
pub(crate) use sqlite::{COLUMNS, open_to_mend, open_to_read, stored_event};
pub(crate) use state::Rejected;
pub(crate) use status::JournalStatus;

use crate::{
    event::{DeadLetter, EventId, StoredEvent},
    record::Draft,
};
use queue::Work;
use record::Note;
use state::{Question, Shared, add_notes};
use std::{
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    time::{Duration, SystemTime},
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A read of events ends with the event that exceeds this many bytes.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// How long dropping the last handle waits for queued work.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
/// What stores events: a file, or memory.
pub(crate) trait Store {
    /// Fails if what it was given is gone with this process, or was not stored. A store in memory does not
    /// fail: nothing in it was ever meant to survive.
    fn durable(&self) -> Result<(), JournalError>;
    /// Returns the id of what is stored, which stays the same over restarts; none if it ends with the process.
    fn id(&self) -> Result<Option<Uuid>, JournalError>;
    /// Returns everything that is held.
    fn held(&self) -> Result<Vec<Held>, JournalError>;
    /// Returns those of `ids` that no stored event has, in the same order.
    fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError>;
    /// Returns the events that have one of `ids`, as JSON.
    fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError>;
    /// Returns the position of the last event that was stored before `time`, or of the newest one; 0 if there is none.
    fn position_before(&self, time: Option<SystemTime>) -> Result<u64, JournalError>;
    /// From now on, keeps events that the reader with this cursor has not, if it keeps any for readers.
    fn keep_for(&mut self, cursor: String);
    /// Returns the position of the cursor `name`, if it was ever moved.
    fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError>;
    /// Returns dead letters of one sink, or of all, in the order of their positions: at most `limit`, and
    /// then the rest of those that share the last position.
    fn dead_letters(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError>;
    /// Returns at most `limit` events after `after`, in order. `reader` is the cursor of the sink that
    /// reads: user events that it has in hand are removed after others when room runs out.
    fn read(
        &mut self,
        reader: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError>;
}

/// A handle to the journal; clones share it.
#[derive(Clone)]
pub(crate) struct Journal {
    inner: Arc<Inner>,
}

/// See [`Journal::downgrade`].
pub(crate) struct WeakJournal(Weak<Inner>);

impl WeakJournal {
    /// Returns the journal while somebody keeps it open.
    pub(crate) fn upgrade(&self) -> Option<Journal> {
        self.0.upgrade().map(|inner| Journal { inner })
    }
}

struct Inner {
    shared: Arc<Shared>,
    // Disconnected when the thread is done.
    finished: Mutex<mpsc::Receiver<()>>,
}

impl Journal {
    /// Opens or creates the journal and starts its thread. Blocking.
    pub(crate) fn open(options: JournalOptions) -> Result<Self, JournalError> {
        let (shared, finished) = thread::start(options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                finished: Mutex::new(finished),
            }),
        })
    }

    fn queue(&self, work: Work, limit: usize) -> Result<Receipt, Rejected> {
        let shared = &self.inner.shared;
        let slot = shared.push(work, limit)?;
        Ok(Receipt::new(slot, shared.clone()))
    }

    /// Queues one event. Does not append it and never waits: awaiting the receipt does.
    pub(crate) fn append(&self, mut draft: Draft) -> Result<Receipt, Rejected> {
        if !draft.reserve() {
            self.inner.shared.counters.refuse(1);
            return Err(Rejected::Full);
        }
        let limit = match draft.is_lifecycle() {
            true => usize::MAX,
            false => self.inner.shared.queue_size,
        };
        self.queue(Work::Append(draft), limit)
    }

    /// Queues events to be appended and events to be held, as one unit. Polling the receipt appends it together
    /// with everything that was queued before. If there is no room for all of it, lifecycle events still get in;
    /// events of applications are refused and counted.
    pub(crate) fn commit(
        &self,
        mut append: Vec<Draft>,
        mut holds: Vec<Hold>,
    ) -> Result<Receipt, Rejected> {
        let shared = &self.inner.shared;
        let is_full = shared.state().events >= shared.queue_size.saturating_mul(2);
        let mut refused = 0;
        let mut gets_in = |draft: &mut Draft| {
            let gets_in = draft.reserve() && (draft.is_lifecycle() || !is_full);
            refused += usize::from(!gets_in);
            gets_in
        };
        append.retain_mut(&mut gets_in);
        for hold in &mut holds {
            hold.drafts.retain_mut(&mut gets_in);
        }
        let is_empty = append.is_empty() && holds.iter().all(|hold| hold.drafts.is_empty());
        if refused > 0 {
            shared.counters.refuse(refused);
            if is_empty {
                return Err(Rejected::Full);
            }
        }
        self.queue(Work::Commit { append, holds }, usize::MAX)
    }

    /// Moves what is held under `key` to the stored events. It is no error if nothing is held.
    pub(crate) fn release(&self, key: HoldKey) -> Result<Receipt, Rejected> {
        self.queue(Work::Release(key), usize::MAX)
    }

    /// Stores `drafts` instead of what is held under `key`, if something still is.
    pub(crate) fn replace(&self, key: HoldKey, drafts: Vec<Draft>) -> Result<Receipt, Rejected> {
        self.queue(Work::Replace(key, drafts), usize::MAX)
    }

    /// Forgets what is held under `key`.
    pub(crate) fn discard(&self, key: HoldKey) -> Result<Receipt, Rejected> {
        self.queue(Work::Discard(key), usize::MAX)
    }

    /// Asks the store, which first gets everything that was queued before. Waits as long as another program
    /// has the file locked.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.question(true, question).await
    }

    /// Asks the store as it is, without feeding it first.
    pub(crate) async fn ask_as_it_is<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.question(false, question).await
    }

    async fn question<T: Send + 'static>(
        &self,
        is_about_all: bool,
        question: impl FnOnce(&mut dyn Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (answer, answered) = oneshot::channel();
        let shared = &self.inner.shared;
        {
            let mut state = shared.state();
            if let Some(reason) = &state.stopped {
                return Err(JournalError::Stopped(reason.clone()));
            }
            if state.is_closed {
                return Err(JournalError::Closed);
            }
            state.questions.push(Question {
                is_about_all,
                // Whoever asked may have gone away.
                ask: Box::new(move |store| drop(answer.send(question(store)))),
            });
            state.is_idle = false;
            shared.wake.notify_one();
        }
        answered.await.unwrap_or_else(|_| Err(shared.gone()))
    }

    /// Notes something about delivery; the store's next transaction writes it.
    fn note(&self, notes: impl IntoIterator<Item = Note>) -> Result<(), JournalError> {
        let shared = &self.inner.shared;
        let mut state = shared.state();
        if let Some(reason) = &state.stopped {
            return Err(JournalError::Stopped(reason.clone()));
        }
        if state.is_closed {
            return Err(JournalError::Closed);
        }
        add_notes(&mut state.notes, notes);
        shared.rouse(&mut state);
        Ok(())
    }

    /// Moves the cursor `name` and notes what its sink refused, with the store's next transaction. After a
    /// crash before that, the sink gets the same events again.
    pub(crate) fn move_cursor(
        &self,
        name: String,
        position: u64,
        refused: Vec<DeadLetter>,
    ) -> Result<(), JournalError> {
        let refused = (!refused.is_empty()).then_some(Note::Refuse(refused));
        let notes = refused
            .into_iter()
            .chain([Note::MoveCursor(name, position)]);
        self.note(notes)
    }

    /// Removes a dead letter that its sink took after all.
    pub(crate) fn remove_dead_letter(
        &self,
        sink: String,
        position: u64,
    ) -> Result<(), JournalError> {
        self.note([Note::RemoveDeadLetter(sink, position)])
    }

    /// Returns a receiver that follows the position of the newest event in the store.
    pub(crate) fn newest(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.shared.counters.newest()
    }

    /// Returns a handle that does not keep the journal open.
    pub(crate) fn downgrade(&self) -> WeakJournal {
        WeakJournal(Arc::downgrade(&self.inner))
    }

    /// Waits until everything that was queued or noted before is in the store; an error if it is not.
    pub(crate) async fn flush(&self) -> Result<(), JournalError> {
        self.ask(|store| store.durable()).await
    }

    /// Flushes, checkpoints and closes the file. Does nothing if the journal is closed already.
    pub(crate) async fn close(&self) -> Result<(), JournalError> {
        let shared = &self.inner.shared;
        let (answer, answered) = oneshot::channel();
        {
            let mut state = shared.state();
            if state.is_closed || state.stopped.is_some() {
                return Ok(());
            }
            state.is_closed = true;
            state.closing = Some(answer);
            state.is_idle = false;
            shared.wake.notify_one();
        }
        answered.await.unwrap_or_else(|_| Err(shared.gone()))
    }

    /// Counts events that were refused before they reached the journal.
    pub(crate) fn count_refused(&self, events: usize) {
        self.inner.shared.counters.refuse(events);
    }

    /// Returns up to when stored events have been removed.
    pub(crate) fn removed_until(&self) -> RemovedUntil {
        self.inner.shared.counters.removed_until()
    }

    pub(crate) fn status(&self) -> JournalStatus {
        let stopped = self.inner.shared.state().stopped.clone();
        JournalStatus {
            stopped,
            ..self.inner.shared.counters.status()
        }
    }
}

impl Drop for Inner {
    // Writes what is queued, for a bounded time, so that a program that ends without a shutdown keeps it.
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            let is_forked = self.shared.process != std::process::id();
            if state.is_closed || state.stopped.is_some() || is_forked {
                return;
            }
            state.is_closed = true;
            state.is_idle = false;
            self.shared.wake.notify_one();
        }
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.recv_timeout(DROP_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the journal is too slow to be flushed while its handle is dropped");
        }
    }
}
