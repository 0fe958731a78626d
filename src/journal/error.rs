//! The journal's errors.

use std::{error::Error, path::PathBuf, sync::Arc};

/// The journal failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another store, in this process or another one, has the file open.
    #[error(
        "the journal {} is in use by another event store; give each process a file of its own, or \
         share one store within a process",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened or created.
    #[error("the journal {} cannot be opened: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What went wrong, and what to do.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// The file is a SQLite database of another application.
    #[error("{} is a database, but not an event store's; nothing was changed in it", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error(
        "the journal {} has schema version {found}; this version of temporal-eventstore knows \
         versions up to {supported}",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest known version.
        supported: u32,
    },
    /// The file was written by an older version, before the first release.
    #[error(
        "the journal {} has schema version {found}, and this version of temporal-eventstore needs \
         {supported}; let the version that wrote it deliver what is in it, then move the file aside",
        path.display()
    )]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is needed.
        supported: u32,
    },
    /// The journal cannot write a file that it should write.
    ///
    /// From a receipt: the log could not be appended to. The event is in memory, as far as there is room, and
    /// the journal retries every second. Or the directory of the journal is gone.
    ///
    /// From a flush: the store's file cannot be written, or is damaged. The store then lacks events, which are
    /// in the log.
    #[error("the journal cannot write its file, and keeps events in memory: {reason}")]
    Degraded {
        /// What went wrong.
        reason: String,
    },
    /// The journal was closed while events were only in memory, or in a file that was deleted. They are lost.
    #[error(
        "the journal closed with {events} events that it could not write, and they are lost: {reason}"
    )]
    Lost {
        /// How many events are lost.
        events: u64,
        /// Why they could not be written.
        reason: String,
    },
    /// The journal was closed before its store had everything. What the store lacks is in the files of the log
    /// beside it, and the next start reads it from there.
    #[error(
        "the journal closed before its store had everything; what it lacks is in the log beside it, for the \
         next start: {reason}"
    )]
    NotStored {
        /// Why the store could not be written.
        reason: String,
    },
    /// The event breaks a rule.
    #[error("the event was refused: {reason}")]
    Invalid {
        /// The rule.
        reason: String,
    },
    /// The store cannot be read.
    #[error("the journal cannot be read: {reason}")]
    Read {
        /// What went wrong.
        reason: String,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The journal's thread ended, for this reason. Nothing is stored until the program starts again.
    #[error("the journal has stopped: {0}")]
    Stopped(String),
}
