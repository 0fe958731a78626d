//! The statistics of a store: counters that only grow, and gauges.

pub use crate::delivery::SinkStats;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A snapshot of a store's statistics. Counters start at 0 when the store is opened. Fields that say "now" are gauges.
///
/// Events are moved from the journal's log to the store's file within about 50 ms, so `written`, `duplicates`, `held`
/// and `journal_events` lag behind `accepted`. [`flush`](crate::EventStore::flush) brings them up to date.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Events that were queued for the journal: published events and lifecycle events.
    pub accepted: u64,
    /// Events that were written to the store.
    pub written: u64,
    /// Events that were not written because the store already had an event with the same id.
    pub duplicates: u64,
    /// Events that were refused because they break a rule. Each is logged.
    pub invalid: u64,
    /// Events that were stored with a field left out or shortened, because the field breaks a rule. This concerns the
    /// fields of frames, and all fields of lifecycle events, which are never refused.
    pub trimmed: u64,
    /// Events that the filter dropped.
    pub filtered: u64,
    /// Events that were refused because the queue or the log was full, or because the store was shut down or had
    /// stopped.
    pub refused: u64,
    /// Events that were skipped because no store is configured, or because they were published where nothing may be
    /// published: in queries, in update validators, and in local activities that were given up.
    pub skipped: u64,
    /// Events of workflow code and of local activities that waited for their workflow task to complete.
    pub staged: u64,
    /// Events and dead letters that were accepted and then lost: removed at the size cap, or dropped because memory
    /// was full while the log could not be written.
    pub lost: u64,
    /// Holds in the store now. A hold is what one workflow task published, and the `workflow_end` that it led to,
    /// until it is known whether the server accepted the task.
    pub held: u64,
    /// Holds that were discarded because the server did not accept the task.
    pub discarded: u64,
    /// How long the oldest hold has been in the store now, by the clock of this machine; none if nothing is held.
    /// Measured once a second. A journal in memory does not measure it.
    pub oldest_held: Option<Duration>,
    /// Passes of reconcilers over closed runs, with and without success.
    pub reconciler_passes: u64,
    /// Those that failed, and that are tried again.
    pub reconciler_failures: u64,
    /// Closed runs and standalone activities that reconcilers looked at.
    pub reconciler_looked_at: u64,
    /// Events that reconcilers added.
    pub reconciler_added: u64,
    /// Of the events that reconcilers added, the ends of workflows that were neither terminated nor timed out. A worker
    /// sent such an end to the server, so that its event should have been in the store already.
    pub reconciler_unreported_ends: u64,
    /// Commits that a workflow task or an activity result waited for.
    pub commits: u64,
    /// The total time that workflow tasks and activity results waited for commits.
    pub commit_wait: Duration,
    /// Commits that took longer than the commit timeout, so that the workflow task or the activity result was sent
    /// before its events were durable.
    pub commit_timeouts: u64,
    /// Transactions of the store. Appends to the log are not included.
    pub transactions: u64,
    /// Events that wait to be appended to the log now.
    pub queued: u64,
    /// About how many bytes of memory are now taken by events that wait for the journal or for their workflow task.
    pub queued_bytes: u64,
    /// Events in the store now.
    pub journal_events: u64,
    /// The bytes in use now in the store's file, measured once a second. The WAL and the log are not included.
    pub journal_bytes: u64,
    /// Whether a file of the journal is in trouble now: the log cannot be written, the store's file cannot be written
    /// or is damaged, or the store's file is not at its path. See [`Health::Degraded`].
    pub degraded: bool,
    /// The statistics of each sink.
    pub sinks: Vec<SinkStats>,
}

/// Whether a store works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Everything works.
    Healthy,
    /// No store is configured. Events are skipped.
    Disabled,
    /// A file of the journal is in trouble:
    ///
    /// * The store's file cannot be written, or is damaged. New events wait in the log, where they are durable.
    /// * The log cannot be written. New events are kept in memory, up to the size of the queue.
    /// * The store's file is not at its path. Until it can be restored there, events are lost when the process ends.
    Degraded {
        /// What went wrong, if it is known.
        reason: String,
    },
    /// One or more sinks accept no events. The events wait in the journal, and none is lost while the journal has
    /// room.
    SinksFailing {
        /// The sinks that accept no events.
        sinks: Vec<FailingSink>,
    },
    /// The journal's thread ended although the store was not shut down. Events are refused until the program is
    /// restarted. Events that were appended before are in the journal's files.
    Stopped {
        /// Why the thread ended.
        reason: String,
    },
    /// The store was shut down.
    ShutDown,
}

/// A sink that accepts no events now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailingSink {
    /// The sink's name.
    pub name: String,
    /// Why it accepts none.
    pub reason: String,
}

/// The counters that the journal does not keep itself.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) invalid: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) staged: AtomicU64,
    pub(super) discarded: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) failed_passes: AtomicU64,
    pub(super) looked_at: AtomicU64,
    pub(super) added: AtomicU64,
    pub(super) unreported_ends: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) commit_wait_micros: AtomicU64,
    pub(super) commit_timeouts: AtomicU64,
}

/// What a pass of a reconciler came to.
#[cfg(feature = "temporal")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundByPass {
    pub(crate) looked_at: u64,
    pub(crate) added: u64,
    pub(crate) unreported_ends: u64,
}

#[cfg(feature = "temporal")]
impl Counters {
    /// Counts a pass, which failed if there is nothing to say of it.
    pub(super) fn count_pass(&self, found: Option<FoundByPass>) {
        add(&self.passes, 1);
        let Some(found) = found else {
            add(&self.failed_passes, 1);
            return;
        };
        add(&self.looked_at, found.looked_at);
        add(&self.added, found.added);
        add(&self.unreported_ends, found.unreported_ends);
    }
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

pub(super) fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
