//! What can go wrong, one type per operation.

use crate::{event::EventError, journal::JournalError, sink::SinkUrlError};
use std::path::PathBuf;

/// A store could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option or an environment variable holds what is not understood.
    #[error("{name} holds {value:?}; allowed: {allowed}")]
    InvalidOption {
        /// The option or the variable.
        name: String,
        /// What it held, shortened, without secrets.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The store's URL is not understood.
    #[error("the store URL {url:?} is not usable: {reason}; allowed: {allowed}")]
    InvalidUrl {
        /// The URL without user name, password and parameters.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// What is allowed.
        allowed: String,
    },
    /// Store and journal are one file, or in memory; two different places were named.
    #[error(
        "the store {url:?} is its own journal, but the journal was set to {}; leave the journal out",
        journal.display()
    )]
    JournalDiffers {
        /// The store's URL.
        url: String,
        /// The journal's path.
        journal: PathBuf,
    },
    /// The URL of a sink is not understood.
    #[error(transparent)]
    Sink(#[from] SinkUrlError),
    /// Two of the sinks have one name: each has a cursor under its name.
    #[error(
        "the sink {name:?} is named twice; leave one out, or give it another name with the \
         parameter `eventstore.name` of its URL"
    )]
    SameSinkTwice {
        /// Its name.
        name: String,
    },
    /// A SQLite file was asked for, and this build has none.
    #[error("{} needs the cargo feature `sqlite` of temporal-eventstore, which is off", path.display())]
    SqliteDisabled {
        /// The file.
        path: PathBuf,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An event was not stored. Raised only to those who await a [`Receipt`](super::Receipt).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event breaks a rule.
    #[error(transparent)]
    Invalid(EventError),
    /// Too many events wait for the journal. Trying again later helps.
    #[error("the queue of the event store is full; raise queue_size or publish less")]
    QueueFull,
    /// The store was shut down.
    #[error("the event store was shut down")]
    ShutDown,
    /// Queries and update validators are read-only and may run any number of times: nothing can be
    /// published there.
    #[error("nothing can be published in a query or an update validator")]
    ReadOnly,
    /// A local activity published after its workflow had been told another outcome, or after its run had
    /// left the worker: nothing that the server records knows of that code.
    #[error(
        "nobody waits for this local activity any more: what it publishes is not part of the run"
    )]
    GivenUp,
    /// The journal could not make the event durable.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is in memory, and not every sink took the event within the commit timeout. It stays
    /// queued.
    #[error("not every sink has the event after {timeout:?}; it stays queued")]
    SinksBehind {
        /// The commit timeout.
        timeout: std::time::Duration,
    },
    /// The receipt was awaited before.
    #[error("the receipt was awaited already")]
    AlreadyAwaited,
}

/// Not everything was stored in time.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The time was up; the events stay queued.
    #[error("{queued} events were still waiting after {timeout:?}")]
    TimedOut {
        /// How many events waited.
        queued: u64,
        /// The time that was given.
        timeout: std::time::Duration,
    },
    /// The journal has everything, and a sink has not yet. With a file as the journal it gets it later,
    /// also after a restart; with `memory:` only while this store is open.
    #[error("the sinks {sinks} were still behind after {timeout:?}")]
    SinksBehind {
        /// Which, and by how many positions each.
        sinks: String,
        /// The time that was given.
        timeout: std::time::Duration,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
