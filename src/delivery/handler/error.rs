//! Why a store does not take a handler.

use crate::journal::JournalError;

/// The error when a store does not take a handler.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The name is not usable.
    #[error("a handler cannot be called {name:?}; allowed: {allowed}")]
    InvalidName {
        /// The name, shortened.
        name: String,
        /// What is allowed.
        allowed: String,
    },
    /// The selection selects nothing sensible.
    #[error("the handler {handler:?} selects {selection:?}; allowed: {allowed}")]
    InvalidSelection {
        /// The handler's name.
        handler: String,
        /// The selection, shortened.
        selection: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An option has a value that is not allowed.
    #[error("{option} of the handler {handler:?} is {value}; allowed: {allowed}")]
    InvalidOption {
        /// The handler's name.
        handler: String,
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Another handler, or a sink, of the store has this name. Each keeps its cursor under its name.
    #[error(
        "the store has a handler or a sink that is called {name:?} already; allowed: a name of its own"
    )]
    NameTaken {
        /// The name of both.
        name: String,
    },
    /// The journal cannot be read or written, or the store was shut down.
    #[error("the journal does not answer: {0}")]
    Journal(#[from] JournalError),
}
