//! Where the writer's changes go: memory, or a file. Knows how to call each, and no more.
#![cfg_attr(not(feature = "sqlite"), allow(unused_variables))]

#[cfg(feature = "sqlite")]
use super::file::FileLog;
use super::{
    JournalError, JournalOptions, Target,
    memory::MemoryLog,
    record::{Change, Held, Refused, Stored},
    status::Counters,
};
use crate::event::EventId;

/// Where changes go now.
pub(super) enum Log {
    Memory(Box<MemoryLog>),
    #[cfg(feature = "sqlite")]
    File(Box<FileLog>),
}

impl Log {
    pub(super) fn open(options: JournalOptions, counters: &Counters) -> Result<Self, JournalError> {
        match &options.target {
            Target::Memory => Ok(Self::Memory(Box::new(MemoryLog::new(
                options.queue_size,
                options.sinks,
            )))),
            #[cfg(feature = "sqlite")]
            Target::Sqlite(path) => {
                let path = path.clone();
                Ok(Self::File(Box::new(FileLog::open(
                    path, options, counters,
                )?)))
            }
        }
    }

    pub(super) fn apply(
        &mut self,
        changes: Vec<Change>,
        counters: &Counters,
    ) -> Result<(), JournalError> {
        match self {
            Self::Memory(log) => {
                log.write(&changes, counters);
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.apply(changes, counters),
        }
    }

    pub(super) fn durable(&self) -> Result<(), JournalError> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.durable(),
        }
    }

    pub(super) fn held(&self) -> Result<Vec<Held>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.held()),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.held(),
        }
    }

    pub(super) fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.missing(ids)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.missing(ids),
        }
    }

    pub(super) fn find(&self, ids: &[EventId]) -> Result<Vec<String>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.find(ids)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.find(ids),
        }
    }

    pub(super) fn cursor(&self, name: &str) -> Result<Option<u64>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.cursor(name)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.cursor(name),
        }
    }

    pub(super) fn refused(
        &self,
        sink: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Refused>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.refused(sink, after, limit)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.refused(sink, after, limit),
        }
    }

    pub(super) fn read(
        &mut self,
        reader: Option<String>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Stored>, JournalError> {
        match self {
            Self::Memory(log) => Ok(log.read(after, limit)),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.read(reader, after, limit),
        }
    }

    pub(super) fn tick(&mut self, counters: &Counters) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.tick(counters),
        }
    }

    pub(super) fn close(&mut self, counters: &Counters) -> Result<(), JournalError> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "sqlite")]
            Self::File(log) => log.close(counters),
        }
    }
}
