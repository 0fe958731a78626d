//! The numbers of a store: counters that only grow, and gauges.

use crate::delivery::SinkStats;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A snapshot of a store's numbers. Counters count from when it was built.
///
/// The store's file is fed from the log within about 50 ms, so that `written`, `duplicates`, `held` and
/// `journal_events` lag behind `accepted`. [`flush`](crate::EventStore::flush) brings them up to date.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Events that were queued for the journal: published ones, and lifecycle events.
    pub accepted: u64,
    /// Events that were written into the store, each counted once.
    pub written: u64,
    /// Events that the store had already, and that were not written again.
    pub duplicates: u64,
    /// Events that were refused because they break a rule. Each is logged.
    pub invalid: u64,
    /// Events that were stored without a field, or with a shortened one, because it breaks a rule: a field of a frame,
    /// or any field of a lifecycle event, which is never refused.
    pub trimmed: u64,
    /// Events that the filter dropped.
    pub filtered: u64,
    /// Events that were refused because the queue or the log was full, or the store was shut down or had stopped.
    pub refused: u64,
    /// Events that were skipped: no store is configured, or nothing may be published there (queries, update
    /// validators).
    pub skipped: u64,
    /// Events that workflow code published, and that waited for their workflow task to complete.
    pub staged: u64,
    /// Events and dead letters that were accepted and then lost: removed at the size cap, or dropped because memory was
    /// full while the log could not be written.
    pub lost: u64,
    /// Holds in the store now: what a workflow task published, and the end that it brought, until it is known whether
    /// the server accepted the task.
    pub held: u64,
    /// Holds that were discarded because the server did not accept the task.
    pub discarded: u64,
    /// Commits that a workflow task or an activity result waited for.
    pub commits: u64,
    /// The total time of those waits.
    pub commit_wait: Duration,
    /// Commits that took longer than the commit timeout, so that the task went on without.
    pub commit_timeouts: u64,
    /// Transactions of the store. Appends to the log are not among them.
    pub transactions: u64,
    /// Events that wait to be appended to the log now.
    pub queued: u64,
    /// About how many bytes of memory the events take that wait now, for the journal or for their workflow task.
    pub queued_bytes: u64,
    /// Events in the store now.
    pub journal_events: u64,
    /// The bytes of the store's file that are in use, measured once a second. Neither the WAL nor the log is included.
    pub journal_bytes: u64,
    /// Whether the log cannot be written, the store's file cannot be written or is damaged, or the file is not at its
    /// path.
    pub degraded: bool,
    /// The numbers of each sink.
    pub sinks: Vec<SinkStats>,
}

/// Whether a store can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Everything works.
    Healthy,
    /// No store is configured; events are skipped.
    Disabled,
    /// One of the journal's files is not as it should be. If the store's file cannot be written or is damaged, new
    /// events wait in the log, where they are durable. If the log cannot be written, they are kept in memory, up to the
    /// queue's size. If the store's file is not at its path, events are gone with this process.
    Degraded {
        /// What went wrong, as far as it is known.
        reason: String,
    },
    /// Sinks take no events now. The events wait in the journal, and none is lost while it has room.
    SinksFailing {
        /// The sinks that take none.
        sinks: Vec<FailingSink>,
    },
    /// The journal's thread ended, though the store was not shut down. Events are refused until the program starts
    /// again. What was appended before is in the journal's files.
    Stopped {
        /// Why it ended, as far as it is known.
        reason: String,
    },
    /// The store was shut down.
    ShutDown,
}

/// A sink that takes no events now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailingSink {
    /// The sink's name.
    pub name: String,
    /// Why it takes none.
    pub reason: String,
}

/// The counters that the journal does not keep itself.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) invalid: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) staged: AtomicU64,
    pub(super) discarded: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) commit_wait_micros: AtomicU64,
    pub(super) commit_timeouts: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
