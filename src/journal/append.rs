//! Appending: from what was queued to where it is durable. Whoever has the [`Appender`] does it, a caller or
//! the journal's thread.

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

/// What appends. There is one, and it is owned by whoever appends at the moment.
pub(super) enum Appender {
    /// Memory is the store, too.
    Memory(Arc<Mutex<MemoryLog>>),
    #[cfg(feature = "sqlite")]
    Log(Box<log::Appender>),
}

impl Appender {
    /// Whether whoever has something to append may do so itself.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.is_plain(),
        }
    }

    /// Whether something was appended that has yet to get into the store.
    pub(super) fn is_behind(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.is_behind(),
        }
    }

    /// Tries again what failed, and prepares what comes. For a thread that may wait for the disk.
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
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.write(changes, counters);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Self::Log(appender) => appender.append(changes, counters),
        }
    }
}

/// What was appended, and who waits to be told.
pub(super) struct Appended {
    batch: Batch,
    durable: Result<(), JournalError>,
}

impl Appended {
    pub(super) fn answer(self) {
        self.batch.answer(&self.durable);
    }
}

/// Finishes and appends what was queued, in its order.
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
        // What is in a directory that is gone goes with this process.
        durable: durable.and_then(|()| counters.attached()),
    }
}
