//! What a journal is opened with.

use std::time::Duration;

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
    Memory,
}

/// SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) enum Synchronous {
    /// A killed process loses nothing.
    Normal,
    /// A power cut loses nothing either.
    Full,
}

/// How long events stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    Keep,
    For(Duration),
}

#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) struct JournalOptions {
    pub(crate) target: Target,
    pub(crate) queue_size: usize,
    /// How many bytes of events may wait in memory; half of it while nothing can be written.
    pub(crate) max_queued_bytes: usize,
    pub(crate) batch_size: usize,
    /// How long what nobody waits for may wait for company.
    pub(crate) linger: Duration,
    pub(crate) synchronous: Synchronous,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) retention: Retention,
    /// The cursors of those who must have an event before age alone removes it.
    pub(crate) sinks: Vec<String>,
    /// Whether callers may append themselves, where that is cheap and safe.
    pub(crate) appends_inline: bool,
    /// Whether the log is itself the store, so that an event that leaves it for lack of room is lost
    /// even if others have it.
    pub(crate) is_store: bool,
}
