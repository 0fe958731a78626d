//! The errors of a store, one type per operation.

use crate::{delivery::HandleError, event::EventError, journal::JournalError, sink::SinkUrlError};
use std::path::PathBuf;

/// The error when a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An option or an environment variable has a value that is not allowed, or the variable is unknown.
    #[error("{name} holds {value:?}; allowed: {allowed}")]
    InvalidOption {
        /// The name of the option or the variable.
        name: String,
        /// Its value, shortened and without secrets.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The URL of a store is not usable.
    #[error("the store URL {url:?} is not usable: {reason}; allowed: {allowed}")]
    InvalidUrl {
        /// The URL, without user name, password and parameters.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// What is allowed.
        allowed: String,
    },
    /// The option `journal` names another file than the `sqlite:` or `memory:` store, which is its own journal.
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
    /// The URL of a sink is not usable.
    #[error(transparent)]
    Sink(#[from] SinkUrlError),
    /// Two sinks have the same name. Each sink keeps its cursor under its name.
    #[error(
        "the sink {name:?} is named twice; leave one out, or give it another name with the \
         parameter `eventstore.name` of its URL"
    )]
    SameSinkTwice {
        /// The name of both sinks.
        name: String,
    },
    /// A handler is not allowed.
    #[error(transparent)]
    Handler(#[from] HandleError),
    /// The options name a SQLite file, but this build does not include SQLite.
    #[error("{} needs the cargo feature `sqlite` of temporal-eventstore, which is off", path.display())]
    SqliteDisabled {
        /// The file.
        path: PathBuf,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The error when an event was not stored, or not as durably as it should be. An awaited [`Receipt`](super::Receipt)
/// returns it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event breaks a rule.
    #[error(transparent)]
    Invalid(EventError),
    /// Too many events wait for the journal, or the journal's log is full because its store file cannot be written.
    /// Try again later.
    #[error("the queue of the event store is full; raise queue_size or publish less")]
    QueueFull,
    /// The store was shut down.
    #[error("the event store was shut down")]
    ShutDown,
    /// The event was published in a query handler or an update validator. These are read-only, and may run any number
    /// of times.
    #[error("nothing can be published in a query or an update validator")]
    ReadOnly,
    /// A local activity published the event after its workflow had received another outcome for it, or after its run
    /// had left the worker. The server records nothing that this code does.
    #[error(
        "nobody waits for this local activity any more: what it publishes is not part of the run"
    )]
    GivenUp,
    /// The journal refused the event, or could not make it durable.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is in memory, and not every sink took the event within the commit timeout. The event stays queued
    /// for the sinks.
    #[error("not every sink has the event after {timeout:?}; it stays queued")]
    SinksBehind {
        /// The commit timeout.
        timeout: std::time::Duration,
    },
    /// The receipt was already awaited, and has returned its result.
    #[error("the receipt was awaited already")]
    AlreadyAwaited,
}

/// The error when not every event was stored, or delivered to the sinks, in time.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The journal did not finish in time. The events stay queued, or in the log, and are stored later.
    #[error("{queued} events were still waiting after {timeout:?}")]
    TimedOut {
        /// How many events waited to be appended to the log. Events that are in the log, but not yet in the store, are
        /// not counted.
        queued: u64,
        /// The timeout that the caller gave.
        timeout: std::time::Duration,
    },
    /// The journal has every event, but a sink does not. With a journal file, the sink gets the rest later, also after
    /// a restart. Without one, it gets them only while this store is open.
    #[error("the sinks {sinks} were still behind after {timeout:?}")]
    SinksBehind {
        /// The names of the sinks, each with the number of positions that it is behind.
        sinks: String,
        /// The timeout that the caller gave.
        timeout: std::time::Duration,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
