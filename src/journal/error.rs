//! The errors of the journal.

use std::{error::Error, path::PathBuf, sync::Arc};

/// The error when the journal cannot be opened, read or written.
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
    /// The journal's file cannot be opened or created.
    #[error("the journal {} cannot be opened: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What went wrong, and what to do about it.
        reason: String,
        /// The error that caused this one.
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
    /// The file is a SQLite database of another application. It was not changed.
    #[error("{} is a database, but not an event store's; nothing was changed in it", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of this crate.
    #[error(
        "the journal {} has schema version {found}; this version of temporal-eventstore knows \
         versions up to {supported}",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The file's schema version.
        found: u32,
        /// The newest schema version that this version of the crate knows.
        supported: u32,
    },
    /// The file was written by an older version of this crate, before the first release.
    #[error(
        "the journal {} has schema version {found}, and this version of temporal-eventstore needs \
         {supported}; let the version that wrote it deliver what is in it, then move the file aside",
        path.display()
    )]
    OlderSchema {
        /// The file.
        path: PathBuf,
        /// The file's schema version.
        found: u32,
        /// The schema version that is needed.
        supported: u32,
    },
    /// The journal cannot write one of its files.
    ///
    /// From a receipt: the log cannot be written. The event is in memory, as far as there is room, and the journal
    /// retries every second. A receipt also returns this error if the store's file is not at its path, for example
    /// because the directory is gone.
    ///
    /// From a flush: the store's file cannot be written, or is damaged. The store lacks events that are in the log.
    #[error("the journal cannot write its file, and keeps events in memory: {reason}")]
    Degraded {
        /// What went wrong.
        reason: String,
    },
    /// The journal was closed while events were only in memory, or in a file that was deleted. These events are lost.
    #[error(
        "the journal closed with {events} events that it could not write, and they are lost: {reason}"
    )]
    Lost {
        /// How many events are lost.
        events: u64,
        /// Why they could not be written.
        reason: String,
    },
    /// The journal was closed before its store had every event. The missing events are in the files of the log beside
    /// the store, and the next start stores them.
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
        /// Which rule, and how the event breaks it.
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
    /// The journal's thread ended, for the reason given. Nothing is stored until the program is restarted.
    #[error("the journal has stopped: {0}")]
    Stopped(String),
}
