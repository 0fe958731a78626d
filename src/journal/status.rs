//! The journal's numbers. Counters only grow; gauges are set by the journal's thread.

use super::{record::Applied, removed::RemovedUntil};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::watch;

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JournalStatus {
    pub(crate) accepted: u64,
    pub(crate) written: u64,
    pub(crate) duplicates: u64,
    pub(crate) invalid: u64,
    pub(crate) filtered: u64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    pub(crate) held: u64,
    pub(crate) transactions: u64,
    pub(crate) queued: u64,
    pub(crate) depth: u64,
    pub(crate) bytes: u64,
    pub(crate) newest: u64,
    pub(crate) degraded: bool,
    pub(crate) last_error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) invalid: AtomicU64,
    pub(super) filtered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) held: AtomicU64,
    pub(super) depth: AtomicU64,
    pub(super) bytes: AtomicU64,
    removed_user_until: AtomicI64,
    removed_lifecycle_until: AtomicI64,
    // The position of the newest event; who delivers waits for it to grow.
    newest: watch::Sender<u64>,
    queued: AtomicUsize,
    degraded: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    /// Takes `events` places in the queue, if they stay below `limit`.
    pub(super) fn enqueue(&self, events: usize, limit: usize) -> bool {
        let taken = self
            .queued
            .fetch_update(Relaxed, Relaxed, |queued| {
                let after = queued.saturating_add(events);
                // A unit larger than the queue still goes through an empty one.
                (queued == 0 || events == 0 || after <= limit).then_some(after)
            })
            .is_ok();
        if taken {
            self.accepted.fetch_add(events as u64, Relaxed);
        }
        taken
    }

    /// Counts one transaction and what it did.
    pub(super) fn count(&self, applied: Applied) {
        self.transactions.fetch_add(1, Relaxed);
        self.written.fetch_add(applied.inserted, Relaxed);
        self.duplicates.fetch_add(applied.duplicates, Relaxed);
        self.held
            .fetch_update(Relaxed, Relaxed, |held| {
                held.checked_add_signed(applied.held)
            })
            .ok();
    }

    /// Notes the position of the newest event; it never goes back.
    pub(super) fn reach(&self, newest: u64) {
        self.newest.send_if_modified(|known| {
            let is_news = *known < newest;
            *known = newest.max(*known);
            is_news
        });
    }

    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Notes up to when events were removed; it never goes back.
    pub(super) fn remove_until(&self, until: RemovedUntil) {
        self.removed_user_until.fetch_max(until.user, Relaxed);
        self.removed_lifecycle_until
            .fetch_max(until.lifecycle, Relaxed);
    }

    pub(super) fn removed_until(&self) -> RemovedUntil {
        RemovedUntil {
            user: self.removed_user_until.load(Relaxed),
            lifecycle: self.removed_lifecycle_until.load(Relaxed),
        }
    }

    pub(super) fn unqueue(&self, events: usize) {
        self.queued.fetch_sub(events, Relaxed);
    }

    /// Counts events that are gone, and says so.
    pub(super) fn lose(&self, events: u64, why: &str) {
        let all = self.lost.fetch_add(events, Relaxed) + events;
        tracing::warn!(lost = events, all, "{why}");
    }

    pub(super) fn refuse(&self, events: usize) {
        self.refused.fetch_add(events as u64, Relaxed);
    }

    /// Notes that the file cannot be written, or can again; gives back whether that is news.
    #[cfg(feature = "sqlite")]
    pub(super) fn degrade(&self, error: Option<String>) -> bool {
        let before = self.degraded.swap(error.is_some(), Relaxed);
        let is_news = before != error.is_some();
        if error.is_some() {
            *self
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = error;
        }
        is_news
    }

    pub(super) fn status(&self) -> JournalStatus {
        JournalStatus {
            accepted: self.accepted.load(Relaxed),
            written: self.written.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            refused: self.refused.load(Relaxed),
            lost: self.lost.load(Relaxed),
            held: self.held.load(Relaxed),
            transactions: self.transactions.load(Relaxed),
            queued: self.queued.load(Relaxed) as u64,
            depth: self.depth.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            newest: *self.newest.borrow(),
            degraded: self.degraded.load(Relaxed),
            last_error: self
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
