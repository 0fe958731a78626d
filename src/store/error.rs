//! The errors, one type per operation.

use crate::{event::EventError, journal::JournalError, sink::SinkUrlError};
use std::path::PathBuf;

/// A store could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option or an environment variable has a value that is not understood.
    #[error("{name} holds {value:?}; allowed: {allowed}")]
    InvalidOption {
        /// The option or the variable.
        name: String,
        /// Its value, shortened and without secrets.
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
    /// A `sqlite:` or `memory:` store is its own journal, but another journal was named.
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
    /// Two sinks have the same name, under which each keeps its cursor.
    #[error(
        "the sink {name:?} is named twice; leave one out, or give it another name with the \
         parameter `eventstore.name` of its URL"
    )]
    SameSinkTwice {
        /// Its name.
        name: String,
    },
    /// A SQLite file was asked for, but this build does not include SQLite.
    #[error("{} needs the cargo feature `sqlite` of temporal-eventstore, which is off", path.display())]
    SqliteDisabled {
        /// The file.
        path: PathBuf,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An event was not stored, or not as durably as it should be. Only an awaited [`Receipt`](super::Receipt) returns it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event breaks a rule.
    #[error(transparent)]
    Invalid(EventError),
    /// Too many events wait for the journal, or its log is full because the store takes nothing. Try again later.
    #[error("the queue of the event store is full; raise queue_size or publish less")]
    QueueFull,
    /// The store was shut down.
    #[error("the event store was shut down")]
    ShutDown,
    /// The event was published in a query or an update validator. Those are read-only and may run any number of times.
    #[error("nothing can be published in a query or an update validator")]
    ReadOnly,
    /// A local activity published it after its workflow had been told another outcome, or after its run had left the
    /// worker. The server records nothing of what that code does.
    #[error(
        "nobody waits for this local activity any more: what it publishes is not part of the run"
    )]
    GivenUp,
    /// The journal refused the event, or could not make it durable.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is in memory, and not every sink took the event within the commit timeout. The event stays queued.
    #[error("not every sink has the event after {timeout:?}; it stays queued")]
    SinksBehind {
        /// The commit timeout.
        timeout: std::time::Duration,
    },
    /// The receipt was awaited before, and its result was returned then.
    #[error("the receipt was awaited already")]
    AlreadyAwaited,
}

/// Not everything was stored in time.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The journal did not finish in time. Events stay queued, or in the log, and are stored later.
    #[error("{queued} events were still waiting after {timeout:?}")]
    TimedOut {
        /// How many events waited to be appended to the log. Events that are in the log, but not in the store, do not
        /// count.
        queued: u64,
        /// The time that was given.
        timeout: std::time::Duration,
    },
    /// The journal has everything, but a sink does not yet. With a journal file the sink gets the rest later, also
    /// after a restart; without one, only while this store is open.
    #[error("the sinks {sinks} were still behind after {timeout:?}")]
    SinksBehind {
        /// The names of the sinks, and by how many positions each is behind.
        sinks: String,
        /// The time that was given.
        timeout: std::time::Duration,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
