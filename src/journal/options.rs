//! What a journal is opened with.

use super::removed::seconds;
use std::time::{Duration, SystemTime};

/// Where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
    Memory,
}

/// SQLite's `synchronous`, and whether the log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "sqlite"),
    allow(dead_code, reason = "memory has no file")
)]
pub(crate) enum Synchronous {
    /// `NORMAL`, and no sync of the log: survives a killed process.
    Normal,
    /// `FULL`, and each append is synced before it is answered: survives a power cut.
    Full,
}

/// How long events stay, or dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    Keep,
    For(Duration),
}

impl Retention {
    /// Returns the time, in seconds since 1970, before which nothing is kept; none if everything is.
    pub(super) fn oldest(self, now: SystemTime) -> Option<i64> {
        match self {
            Self::Keep => None,
            Self::For(age) => now.checked_sub(age).map(seconds),
        }
    }
}

#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "sqlite"),
    allow(dead_code, reason = "memory has no file")
)]
pub(crate) struct JournalOptions {
    pub(crate) target: Target,
    pub(crate) queue_size: usize,
    /// How many bytes of events may wait in memory. The backlog of a log that cannot be written may have half as
    /// many, besides.
    pub(crate) max_queued_bytes: usize,
    /// How many events the journal's thread appends at once, at most.
    pub(crate) batch_size: usize,
    /// How long the journal's thread lets work that nobody awaits wait for more of it.
    pub(crate) linger: Duration,
    pub(crate) synchronous: Synchronous,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) retention: Retention,
    /// How long dead letters stay.
    pub(crate) dead_letter_retention: Retention,
    /// The cursors of the sinks. Age removes an event only once all of them have it.
    pub(crate) sinks: Vec<String>,
    /// Whether callers may append themselves, where that is cheap and safe.
    pub(crate) appends_inline: bool,
    /// Whether the journal is itself a store. An event that is removed from it for lack of room then counts
    /// as lost, even if every sink has it.
    pub(crate) is_store: bool,
}

#[cfg(test)]
impl JournalOptions {
    /// A small journal that waits for nothing, for tests; what a test is about it sets itself.
    pub(crate) fn small(target: Target) -> Self {
        Self {
            target,
            queue_size: 100,
            max_queued_bytes: usize::MAX,
            batch_size: 10,
            linger: Duration::ZERO,
            synchronous: Synchronous::Normal,
            max_bytes: None,
            retention: Retention::Keep,
            dead_letter_retention: Retention::Keep,
            sinks: Vec::new(),
            appends_inline: true,
            is_store: true,
        }
    }
}
