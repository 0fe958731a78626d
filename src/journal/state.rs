//! The state that handles, receipts and the journal's thread share: the queue, who appends, and what is asked.

#[cfg(feature = "sqlite")]
use super::log;
use super::{
    JournalError, Store,
    append::{self, Appender},
    queue::{Slot, Work},
    record::Note,
    status::Counters,
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// A caller appends the queue itself only while it holds at most this many events. The journal's thread
/// appends a longer one.
pub(super) const MAX_INLINE_EVENTS: usize = 64;

/// Why the journal refuses work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// Its queue is full, or its log holds as much as it may while the store takes nothing.
    Full,
    /// It is closed, or this is a forked child, which has no thread.
    Closed,
    /// Its thread ended, for this reason.
    Stopped(String),
}

pub(super) type Ask = Box<dyn FnOnce(&mut dyn Store) + Send>;

/// A question to the store, answered by the journal's thread.
pub(super) struct Question {
    // The answer takes into account everything that was queued before the question.
    pub(super) is_about_all: bool,
    pub(super) ask: Ask,
}

/// State shared by the handles, the thread and receipts.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    // Only the thread waits on it.
    pub(super) wake: Condvar,
    pub(super) counters: Counters,
    pub(super) queue_size: usize,
    pub(super) appends_inline: bool,
    #[cfg(feature = "sqlite")]
    pub(super) log: Option<Arc<log::Log>>,
    // The bound of the bytes in the log that the store does not have yet.
    #[cfg(feature = "sqlite")]
    pub(super) max_log_bytes: u64,
    pub(super) process: u32,
}

pub(super) struct State {
    pub(super) queue: VecDeque<Arc<Slot>>,
    pub(super) events: usize,
    // None while a caller or the thread appends.
    pub(super) appender: Option<Box<Appender>>,
    pub(super) questions: Vec<Question>,
    pub(super) notes: Vec<Note>,
    // Somebody awaits a receipt of what is queued.
    pub(super) is_awaited: bool,
    // The thread sleeps without a deadline for appending or feeding: new work must wake it.
    pub(super) is_idle: bool,
    // The thread waits for the appender.
    pub(super) wants_appender: bool,
    pub(super) is_closed: bool,
    // Where the result of closing goes.
    pub(super) closing: Option<oneshot::Sender<Result<(), JournalError>>>,
    // Why the thread ended.
    pub(super) stopped: Option<String>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent, so that a panic elsewhere does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it sleeps without a deadline.
    pub(super) fn rouse(&self, state: &mut State) {
        if std::mem::take(&mut state.is_idle) {
            self.wake.notify_one();
        }
    }

    /// Queues work, unless the queue would then hold more than `limit` events.
    pub(super) fn push(&self, work: Work, limit: usize) -> Result<Arc<Slot>, Rejected> {
        let is_full = self.is_log_full(&work);
        let slot = Arc::new(Slot::new(work));
        let events = slot.events;
        let rejected = {
            let mut state = self.state();
            match &state.stopped {
                Some(reason) => Rejected::Stopped(reason.clone()),
                None if state.is_closed => Rejected::Closed,
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

    /// Whether the log has no room for this work, because the store lags too far behind. Above half of the
    /// bound the log refuses events of applications, above the bound lifecycle events and commits too. What
    /// settles something held is never refused.
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

    /// Appends what is queued on the calling thread in the plain case; otherwise wakes the journal's thread
    /// to do it.
    pub(super) fn append_now(&self) {
        if self.process != std::process::id() {
            return self.refuse_in_fork();
        }
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
        // The appender is given back even if this panics.
        let appended = catch_unwind(AssertUnwindSafe(|| {
            append::append(&mut appender, queue, &self.counters)
        }));
        self.give_back(appender);
        match appended {
            Ok(appended) => appended.answer(),
            Err(_) => tracing::error!("the journal panicked, and events are lost; this is a bug"),
        }
    }

    /// A forked child has its parent's files, and no thread: nothing is appended there.
    fn refuse_in_fork(&self) {
        let reason =
            "this process was forked from the one that opened it; open a store after the fork";
        self.stop(reason);
    }

    /// Nothing is appended any more, for this reason. Tells whoever waits.
    pub(super) fn stop(&self, reason: &str) {
        let (queue, others) = {
            let mut state = self.state();
            state.stopped = Some(reason.to_owned());
            state.events = 0;
            let others = (std::mem::take(&mut state.questions), state.closing.take());
            (std::mem::take(&mut state.queue), others)
        };
        // Those who ask are told by the end of their channels.
        drop(others);
        for slot in queue {
            self.counters.unqueue(slot.events);
            slot.answer(Err(JournalError::Stopped(reason.to_owned())));
        }
    }

    /// Gives the appender back, and wakes the thread if there is something for it to do.
    pub(super) fn give_back(&self, appender: Box<Appender>) {
        let has_unfed = appender.is_behind();
        let is_full = appender.is_recent_full();
        let mut state = self.state();
        state.appender = Some(appender);
        if state.wants_appender || is_full || (state.is_awaited && !state.queue.is_empty()) {
            state.wants_appender = false;
            state.is_idle = false;
            self.wake.notify_one();
        } else if has_unfed {
            self.rouse(&mut state);
        }
    }
}

/// Adds notes to those that wait. Of several moves of one cursor only the last is kept.
pub(super) fn add_notes(notes: &mut Vec<Note>, more: impl IntoIterator<Item = Note>) {
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
    /// Returns why the thread does not answer.
    pub(super) fn gone(&self) -> JournalError {
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
