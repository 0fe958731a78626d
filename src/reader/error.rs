//! What can be wrong with reading.

use super::ALLOWED;
#[cfg(feature = "sqlite")]
use crate::journal::JournalError;
use crate::sink::redacted;
use std::{error::Error, sync::Arc};

/// A store cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The URL names no store that can be read.
    #[error("the store {url} cannot be read: {reason}; allowed: {allowed}")]
    InvalidUrl {
        /// The URL without user name, password and parameters.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// What is allowed.
        allowed: String,
    },
    /// The SQLite file cannot be opened, or is not an event store's.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A store in memory, or one that is not configured, has no file.
    #[error(
        "this store has no file to read; allowed: a `sqlite:` store, or one with a journal's file"
    )]
    NoFile,
    /// A query was given something that does not fit.
    #[error("{what} was given {value:?}; it takes {allowed}")]
    InvalidQuery {
        /// What was given it.
        what: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        allowed: &'static str,
    },
    /// Reading failed.
    #[error("the store {url} cannot be read: {reason}")]
    Failed {
        /// The URL without user name, password and parameters.
        url: String,
        /// What went wrong.
        reason: String,
        /// The cause.
        #[source]
        source: Option<Arc<dyn Error + Send + Sync>>,
    },
}

impl ReadError {
    pub(super) fn invalid_url(url: &str, reason: impl Into<String>) -> Self {
        Self::InvalidUrl {
            url: redacted(url),
            reason: reason.into(),
            allowed: ALLOWED.to_owned(),
        }
    }

    #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
    pub(super) fn without_feature(url: &str, feature: &str) -> Self {
        Self::invalid_url(
            url,
            format!("this build lacks the cargo feature `{feature}`"),
        )
    }
}
