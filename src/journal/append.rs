//! Appending: from the queue to where events are durable. Whoever owns the [`Appender`] does it, a caller or
//! the journal's thread.
#![cfg_attr(
    not(feature = "sqlite"),
    allow(unused_variables, reason = "memory needs no looking after")
)]

#[cfg(feature = "sqlite")]
use super::log;
use super::{
    JournalError,
    memory::MemoryLog,
    queue::{Batch, Slot},
    record::Change,
    status::Counters,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Appends to the log. There is one per journal, owned by whoever appends at the moment.
pub(super) enum Appender {
    /// Memory is log and store in one.
    Memory(Arc<Mutex<MemoryLog>>),
    #[cfg(feature = "sqlite")]
    Log(Box<log::Appender>),
}

impl Appender {
    /// Whether a caller may append: nothing stands in the way.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.is_plain(),
        }
    }

    /// Whether something was appended that the store does not have yet.
    pub(super) fn is_behind(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.is_behind(),
        }
    }

    /// Whether as much waits in memory for the store as is fed at once.
    pub(super) fn is_recent_full(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.is_recent_full(),
        }
    }

    /// Retries what could not be written, and prepares the next file. May wait for the disk. `is_last` says
    /// that the journal closes: retry at once, and prepare nothing.
    pub(super) fn look_after(&mut self, counters: &Counters, is_last: bool) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.look_after(counters, is_last),
        }
    }

    fn append(&mut self, changes: Vec<Change>, counters: &Counters) -> Result<(), JournalError> {
        match self {
            Self::Memory(memory) => {
                let made_room = memory
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .write(changes, counters);
                made_room.say(counters);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.append(changes, counters),
        }
    }
}

/// A batch that was appended, with the outcome for those who wait for it.
pub(super) struct Appended {
    batch: Batch,
    durable: Result<(), JournalError>,
}

impl Appended {
    pub(super) fn answer(self) {
        self.batch.answer(&self.durable);
    }
}

/// Finishes queued events (fills, filters, encodes them) and appends them, in order.
pub(super) fn append(
    appender: &mut Appender,
    queue: VecDeque<Arc<Slot>>,
    counters: &Counters,
) -> Appended {
    let mut batch = Batch::finish(queue, counters);
    let changes = std::mem::take(&mut batch.changes);
    let durable = if changes.is_empty() {
        Ok(())
    } else {
        appender.append(changes, counters)
    };
    counters.unqueue(batch.events);
    Appended {
        batch,
        // What is written into a directory that is gone does not outlive this process.
        durable: durable.and_then(|()| counters.attached()),
    }
}
