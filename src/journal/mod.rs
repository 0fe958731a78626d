//! The durable local journal: a log, and a store that is fed from it.
//!
//! What holds, whoever calls when:
//!
//! * What is queued is appended in the order in which it was queued: by one thread at a time, the one that has
//!   the [`Appender`]. A caller appends what is queued itself in the plain case (nothing in the way, little to
//!   write, no filter); in every other the journal's thread does, and the caller waits for its answer, if it
//!   wants one. Nobody waits for the appender but that thread.
//! * A change is durable when its frame is in the log, whole. A receipt resolves then, not before.
//! * The store gets every frame once, in order: the frame that it has reached is written in the same
//!   transaction. It may be behind; whoever asks it something gets everything that was queued before.
//! * A file of the log goes when the store has all of it; never before.
//! * Notes about delivery (cursors, dead letters) are about the store's positions and ride in its next
//!   transaction. A crash may lose them: then something is delivered again.
//! * Nobody is woken for what nobody waits for, but the journal's thread once after an idle time.
//! * No lock is held while an event is finished, a filter runs, something is logged, or a disk is waited for.
//!
//! Knows nothing of Temporal, or of where events go next.

mod append;
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
mod record;
mod removed;
#[cfg(feature = "sqlite")]
mod sqlite;
mod status;
mod thread;

#[cfg(test)]
mod tests;

pub use error::JournalError;
pub(crate) use options::{JournalOptions, Retention, Synchronous, Target};
pub(crate) use queue::Receipt;
pub(crate) use record::{Held, Hold, RunKey};
pub(crate) use removed::RemovedUntil;
pub(crate) use status::JournalStatus;

use crate::{
    event::{DeadLetter, EventId, StoredEvent},
    record::Draft,
};
use append::Appender;
use queue::{Slot, Work};
use record::Note;
use status::Counters;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    time::Duration,
};
use tokio::sync::oneshot;

/// How many bytes of events are read at once, and one event more.
const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// How long dropping the last handle waits for what is queued.
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
/// How many events a caller finishes and appends itself, with those that were queued before its own.
const MAX_INLINE_EVENTS: usize = 64;

/// What stores events: a file, or memory.
pub(crate) trait Store {
    /// Whether what it was given survives this process, as far as its kind can.
    fn durable(&self) -> Result<(), JournalError>;
    /// Everything that is held.
    fn held(&self) -> Result<Vec<Held>, JournalError>;
    /// Those of `ids` that no event has, in the same order.
    fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError>;
    /// Those events that have one of `ids`, as JSON.
    fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError>;
    /// Where the cursor `name` stands, if it was ever moved.
    fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError>;
    /// What sinks refused, of one or of all, in the order of positions; at most `limit`, and all that there
    /// are of the last event.
    fn dead_letters(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError>;
    /// At most `limit` events after `after`, in order. What a sink, named by its cursor, has in hand goes
    /// last when room runs out.
    fn read(
        &mut self,
        reader: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError>;
}

/// Why the journal takes no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Full,
    Closed,
    /// Its thread is gone, for this reason.
    Stopped(String),
}

/// A question to the store, answered by the journal's thread.
struct Question {
    // Whether it is about everything that was queued before.
    is_about_all: bool,
    ask: Box<dyn FnOnce(&mut dyn Store) + Send>,
}

/// What the handles, the thread and receipts share.
struct Shared {
    state: Mutex<State>,
    // The thread waits on it, and nobody else.
    wake: Condvar,
    counters: Counters,
    queue_size: usize,
    appends_inline: bool,
    #[cfg(feature = "sqlite")]
    log: Option<Arc<log::Log>>,
    // How many bytes the log may have that the store does not have.
    #[cfg(feature = "sqlite")]
    max_log_bytes: u64,
    process: u32,
}

struct State {
    queue: VecDeque<Arc<Slot>>,
    events: usize,
    // None while somebody appends.
    appender: Option<Box<Appender>>,
    questions: Vec<Question>,
    notes: Vec<Note>,
    // Somebody waits for what is queued.
    is_awaited: bool,
    // The thread sleeps, and does not know that there is something to do.
    is_idle: bool,
    // The thread waits for the appender.
    wants_appender: bool,
    is_closed: bool,
    // Whom to tell that the journal is closed.
    closing: Option<oneshot::Sender<Result<(), JournalError>>>,
    // Why the thread is gone.
    stopped: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change keeps it consistent, whatever panics behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, if it sleeps without knowing that there is something to do.
    fn rouse(&self, state: &mut State) {
        if std::mem::take(&mut state.is_idle) {
            self.wake.notify_one();
        }
    }

    /// Queues something, if it stays below a limit of events.
    fn push(&self, work: Work, limit: usize) -> Result<Arc<Slot>, Rejected> {
        let is_full = self.is_log_full(&work);
        let slot = Arc::new(Slot::new(work));
        let events = slot.events;
        // A forked child has no thread, and shares its parent's files.
        let is_forked = self.process != std::process::id();
        let rejected = {
            let mut state = self.state();
            match &state.stopped {
                Some(reason) => Rejected::Stopped(reason.clone()),
                None if state.is_closed || is_forked => Rejected::Closed,
                // A unit larger than the queue still goes through an empty one.
                None if is_full
                    || (events > 0
                        && state.events > 0
                        && state.events.saturating_add(events) > limit) =>
                {
                    Rejected::Full
                }
                None => {
                    state.queue.push_back(slot.clone());
                    state.events += events;
                    self.counters.enqueue(events);
                    self.rouse(&mut state);
                    return Ok(slot);
                }
            }
        };
        self.counters.refuse(events);
        Err(rejected)
    }

    /// Whether the log has no room for this, since its store takes nothing: above half of its bound it takes no
    /// more events of applications, at the bound no others, and in any case what settles something held.
    #[cfg(feature = "sqlite")]
    fn is_log_full(&self, work: &Work) -> bool {
        let unfed = self.log.as_ref().map_or(0, |log| log.unfed_bytes());
        let bound = match work {
            Work::Append(draft) if !draft.is_lifecycle() => self.max_log_bytes / 2,
            Work::Append(_) | Work::Commit { .. } => self.max_log_bytes,
            Work::Release(_) | Work::Replace(..) | Work::Discard(_) => u64::MAX,
        };
        unfed > bound
    }

    #[cfg(not(feature = "sqlite"))]
    fn is_log_full(&self, _work: &Work) -> bool {
        false
    }

    /// Appends what is queued: here, in the plain case; else the thread does.
    fn append_now(&self) {
        let (mut appender, queue) = {
            let mut state = self.state();
            if state.queue.is_empty() {
                return;
            }
            let is_plain = self.appends_inline
                && !state.is_closed
                && state.events <= MAX_INLINE_EVENTS
                && state.queue.len() <= MAX_INLINE_EVENTS
                && state
                    .appender
                    .as_ref()
                    .is_some_and(|appender| appender.is_plain());
            match state.appender.take() {
                Some(appender) if is_plain => {
                    state.events = 0;
                    (appender, std::mem::take(&mut state.queue))
                }
                appender => {
                    state.appender = appender;
                    state.is_awaited = true;
                    state.is_idle = false;
                    self.wake.notify_one();
                    return;
                }
            }
        };
        // It comes back, whatever panics.
        let appended = catch_unwind(AssertUnwindSafe(|| {
            append::append(&mut appender, queue, &self.counters)
        }));
        self.give_back(appender);
        match appended {
            Ok(appended) => appended.answer(),
            Err(_) => tracing::error!("the journal panicked, and events are lost; this is a bug"),
        }
    }

    /// Gives the appender back, and wakes who has something to do with it.
    fn give_back(&self, appender: Box<Appender>) {
        let has_unfed = appender.is_behind();
        let mut state = self.state();
        state.appender = Some(appender);
        if state.wants_appender || (state.is_awaited && !state.queue.is_empty()) {
            state.wants_appender = false;
            state.is_idle = false;
            self.wake.notify_one();
        } else if has_unfed {
            self.rouse(&mut state);
        }
    }
}

/// A handle to the journal; clones share it.
#[derive(Clone)]
pub(crate) struct Journal {
    inner: Arc<Inner>,
}

/// See [`Journal::downgrade`].
pub(crate) struct WeakJournal(Weak<Inner>);

impl WeakJournal {
    /// The journal, while somebody keeps it open.
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

    /// Appends one event. Never blocks and never waits.
    pub(crate) fn append(&self, mut draft: Draft) -> Result<Receipt, Rejected> {
        if !draft.reserve() {
            self.inner.shared.counters.refuse(1);
            return Err(Rejected::Full);
        }
        self.queue(Work::Append(draft), self.inner.shared.queue_size)
    }

    /// Appends some events and holds others: durable together with what was queued before, when the receipt is
    /// polled. Never waits for another thread. Where there is no room for all of it, lifecycle events get in
    /// all the same, and events of applications are refused and counted.
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

    /// Moves what is held under `key` to the store. What is not held (any more) is no error.
    pub(crate) fn release(&self, key: RunKey) -> Result<Receipt, Rejected> {
        self.queue(Work::Release(key), usize::MAX)
    }

    /// Appends `drafts` instead of what is held under `key`, if that is still held.
    pub(crate) fn replace(&self, key: RunKey, drafts: Vec<Draft>) -> Result<Receipt, Rejected> {
        self.queue(Work::Replace(key, drafts), usize::MAX)
    }

    /// Forgets what is held under `key`.
    pub(crate) fn discard(&self, key: RunKey) -> Result<Receipt, Rejected> {
        self.queue(Work::Discard(key), usize::MAX)
    }

    /// Asks the store, behind everything that was queued before.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.question(true, question).await
    }

    /// Asks the store as it is: what it does not have yet, it will have soon.
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
                // Who has gone away does not want to know.
                ask: Box::new(move |store| drop(answer.send(question(store)))),
            });
            state.is_idle = false;
            shared.wake.notify_one();
        }
        answered.await.unwrap_or_else(|_| Err(shared.gone()))
    }

    /// Notes something about delivery; it is stored with what is stored next.
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

    /// Moves the cursor `name`, and notes what its sink refused. What a crash loses of it is delivered again.
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

    /// Removes what a sink refused and took after all.
    pub(crate) fn remove_dead_letter(
        &self,
        sink: String,
        position: u64,
    ) -> Result<(), JournalError> {
        self.note([Note::RemoveDeadLetter(sink, position)])
    }

    /// The position of the newest event, as it grows.
    pub(crate) fn newest(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.shared.counters.newest()
    }

    /// A handle that does not keep the journal open.
    pub(crate) fn downgrade(&self) -> WeakJournal {
        WeakJournal(Arc::downgrade(&self.inner))
    }

    /// Resolves when everything that was queued or noted before is in the store, or could not be.
    pub(crate) async fn flush(&self) -> Result<(), JournalError> {
        self.ask(|store| store.durable()).await
    }

    /// Flushes, checkpoints and gives the file back. The second time it does nothing.
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

    /// Counts events that were refused before they came here.
    pub(crate) fn count_refused(&self, events: usize) {
        self.inner.shared.counters.refuse(events);
    }

    /// Up to when what was stored has been removed.
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

/// Adds notes to those that wait; of a cursor only where it stands in the end.
fn add_notes(notes: &mut Vec<Note>, more: impl IntoIterator<Item = Note>) {
    for note in more {
        let known = notes.iter_mut().find_map(|known| match (known, &note) {
            (Note::MoveCursor(name, known), Note::MoveCursor(of, position)) if name == of => {
                Some((known, *position))
            }
            _ => None,
        });
        match known {
            Some((known, position)) => *known = position,
            None => notes.push(note),
        }
    }
}

impl Shared {
    /// Why there is no answer.
    fn gone(&self) -> JournalError {
        match &self.state().stopped {
            Some(reason) => JournalError::Stopped(reason.clone()),
            None => JournalError::Closed,
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    // Local work only, and bounded: a program that ends without a shutdown still keeps its events.
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            if state.is_closed || state.stopped.is_some() {
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
