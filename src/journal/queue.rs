//! Queued work. One allocation holds an event while it is queued, and the answer afterwards.
//! If nobody awaits the receipt, no channel is made and nobody is woken.

use super::{
    JournalError,
    record::{Change, Hold, HoldKey},
    status::Counters,
};
use crate::{
    event::{EventId, StoredEvent},
    record::{Draft, Finished},
};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::Waker,
};

/// The outcome of appending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// None when the filter dropped the event, and for a commit.
    pub(crate) event_id: Option<EventId>,
}

pub(super) type Answer = Result<Appended, JournalError>;

/// Work that is to be appended.
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once, into the one allocation that holds an event while it waits"
)]
#[derive(Debug)]
pub(super) enum Work {
    Append(Draft),
    Commit {
        append: Vec<Draft>,
        holds: Vec<Hold>,
    },
    Release(HoldKey),
    Replace(HoldKey, Vec<Draft>),
    Discard(HoldKey),
}

impl Work {
    /// How many events it counts as in the queue.
    pub(super) fn events(&self) -> usize {
        match self {
            Self::Append(_) => 1,
            Self::Commit { append, holds } => {
                append.len() + holds.iter().map(|hold| hold.drafts.len()).sum::<usize>()
            }
            Self::Replace(_, drafts) => drafts.len(),
            Self::Release(_) | Self::Discard(_) => 0,
        }
    }
}

/// A place in the queue, shared with the receipt: first the work, then the answer.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) events: usize,
    state: Mutex<SlotState>,
}

#[derive(Debug)]
pub(super) struct SlotState {
    pub(super) work: Option<Work>,
    pub(super) answer: Option<Answer>,
    pub(super) waker: Option<Waker>,
}

impl Slot {
    pub(super) fn new(work: Work) -> Self {
        Self {
            events: work.events(),
            state: Mutex::new(SlotState {
                work: Some(work),
                answer: None,
                waker: None,
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SlotState> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Work> {
        self.state().work.take()
    }

    /// Leaves the answer for the receipt, and wakes whoever awaits it.
    pub(super) fn answer(self: Arc<Self>, answer: Answer) {
        // The receipt was dropped: nobody will ever ask.
        if Arc::strong_count(&self) == 1 {
            return;
        }
        let waker = {
            let mut state = self.state();
            state.answer = Some(answer);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Work that is appended together. Dropping it answers everybody who was not answered yet, so that a panic leaves
/// nobody waiting.
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    waiting: Vec<Waiting>,
    /// How many events it frees in the queue.
    pub(super) events: usize,
}

struct Waiting {
    slot: Arc<Slot>,
    result: Result<Option<EventId>, JournalError>,
}

impl Batch {
    /// Finishes queued work: this is where the filter runs and events are encoded.
    pub(super) fn finish(queue: VecDeque<Arc<Slot>>, counters: &Counters) -> Self {
        let waiting = queue.into_iter().map(|slot| Waiting {
            slot,
            // The answer in case of a panic; replaced below.
            result: Err(JournalError::Stopped("it panicked".to_owned())),
        });
        let mut batch = Self {
            changes: Vec::new(),
            waiting: waiting.collect(),
            events: 0,
        };
        for index in 0..batch.waiting.len() {
            let Some(work) = batch.waiting.get(index).map(|waiting| waiting.slot.take()) else {
                break;
            };
            let result = match work {
                Some(work) => batch.add(work, counters),
                None => Ok(None),
            };
            if let Some(waiting) = batch.waiting.get_mut(index) {
                batch.events += waiting.slot.events;
                waiting.result = result;
            }
        }
        batch
    }

    fn add(&mut self, work: Work, counters: &Counters) -> Result<Option<EventId>, JournalError> {
        match work {
            Work::Append(draft) => {
                let mut events = Vec::with_capacity(1);
                let result = finish(draft, &mut events, counters);
                self.insert(events);
                result
            }
            Work::Commit { append, holds } => {
                let (events, mut result) = finish_all(append, counters);
                self.insert(events);
                for hold in holds {
                    let (events, held) = finish_all(hold.drafts, counters);
                    result = result.and(held);
                    self.changes
                        .push(Change::Hold(hold.key, hold.evidence, events));
                }
                result
            }
            Work::Release(key) => {
                self.changes.push(Change::Release(key));
                Ok(None)
            }
            Work::Replace(key, drafts) => {
                let (events, result) = finish_all(drafts, counters);
                self.changes.push(Change::Replace(key, events));
                result
            }
            Work::Discard(key) => {
                self.changes.push(Change::Discard(key));
                Ok(None)
            }
        }
    }

    fn insert(&mut self, events: Vec<StoredEvent>) {
        match self.changes.last_mut() {
            Some(Change::Insert(last)) => last.extend(events),
            _ if events.is_empty() => {}
            _ => self.changes.push(Change::Insert(events)),
        }
    }

    /// Answers everybody who waits.
    pub(super) fn answer(mut self, durable: &Result<(), JournalError>) {
        for Waiting { slot, result } in std::mem::take(&mut self.waiting) {
            slot.answer(result.and_then(|event_id| {
                durable.clone()?;
                Ok(Appended { event_id })
            }));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for Waiting { slot, .. } in std::mem::take(&mut self.waiting) {
            slot.answer(Err(JournalError::Stopped("it panicked".to_owned())));
        }
    }
}

fn finish(
    draft: Draft,
    events: &mut Vec<StoredEvent>,
    counters: &Counters,
) -> Result<Option<EventId>, JournalError> {
    // The user's filter runs in there.
    match catch_unwind(AssertUnwindSafe(|| draft.finish())) {
        Ok(Finished::Stored(event)) => {
            let event_id = event.event_id;
            events.push(event);
            Ok(Some(event_id))
        }
        Ok(Finished::Dropped) => {
            counters.filtered.fetch_add(1, Relaxed);
            Ok(None)
        }
        Ok(Finished::Invalid(reason)) => Err(invalid(reason, counters)),
        Err(_) => Err(invalid("the filter panicked".to_owned(), counters)),
    }
}

fn invalid(reason: String, counters: &Counters) -> JournalError {
    counters.invalid.fetch_add(1, Relaxed);
    tracing::warn!(reason, "an event was refused");
    JournalError::Invalid { reason }
}

fn finish_all(
    drafts: Vec<Draft>,
    counters: &Counters,
) -> (Vec<StoredEvent>, Result<Option<EventId>, JournalError>) {
    let mut events = Vec::with_capacity(drafts.len());
    let mut result = Ok(None);
    for draft in drafts {
        let finished = finish(draft, &mut events, counters);
        result = result.and(finished.map(|_| None));
    }
    (events, result)
}
