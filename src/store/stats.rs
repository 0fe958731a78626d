//! Numbers about a store, for people and machines: plain counters that only grow, and gauges.

use crate::delivery::SinkStats;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A snapshot of what a store has done since it was built.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Events handed to `publish`, and lifecycle events, that were accepted.
    pub accepted: u64,
    /// Events that are in the store, each counted once.
    pub written: u64,
    /// Events that the store had already, and so were not written again.
    pub duplicates: u64,
    /// Events refused because they break a rule; each was said in the log.
    pub invalid: u64,
    /// Events that were stored without a field, or with a shortened one, because it breaks a rule: a field
    /// of a frame, or anything of a lifecycle event, which is never refused.
    pub trimmed: u64,
    /// Events that the filter dropped.
    pub filtered: u64,
    /// Events refused because the queue was full or the store shut down.
    pub refused: u64,
    /// Events skipped: no store is configured, or nothing may be published there (queries, update
    /// validators).
    pub skipped: u64,
    /// Events that workflow code published and that waited for their workflow task.
    pub staged: u64,
    /// Events that were accepted and then lost: the size cap, or memory that overflowed while the
    /// file could not be written.
    pub lost: u64,
    /// Workflow ends that wait for the server's word.
    pub held: u64,
    /// Ends that were discarded, since the server did not accept them.
    pub discarded: u64,
    /// Commits that a workflow task or an activity result waited for.
    pub commits: u64,
    /// The time that they waited in all.
    pub commit_wait: Duration,
    /// Commits that took longer than the commit timeout; the task went on without.
    pub commit_timeouts: u64,
    /// Transactions of the journal.
    pub transactions: u64,
    /// Events that wait for the journal now.
    pub queued: u64,
    /// About how many bytes of memory the events take that wait now, for the journal or for their workflow
    /// task.
    pub queued_bytes: u64,
    /// Events in the journal now.
    pub journal_events: u64,
    /// The size of the journal's file now, in bytes.
    pub journal_bytes: u64,
    /// Whether the journal lives in memory because its file cannot be written.
    pub degraded: bool,
    /// Each sink.
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
    /// The journal's file cannot be written; events are kept in memory, up to the queue's size.
    Degraded {
        /// What went wrong, as far as it is known.
        reason: String,
    },
    /// Sinks take no events now. They wait in the journal, and nothing is lost while it has room.
    SinksFailing {
        /// The name of each such sink, and why.
        sinks: Vec<(String, String)>,
    },
    /// The journal's thread ended, though the store was not shut down: events are refused until the
    /// program starts again. What was stored before is in the journal's file. Shows when the journal is
    /// used next.
    Stopped {
        /// What is known of it.
        reason: String,
    },
    /// The store was shut down.
    ShutDown,
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
