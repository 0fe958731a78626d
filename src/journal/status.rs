//! The journal's numbers. Counters only grow; gauges show the present.

use super::{JournalError, record::Applied, removed::RemovedUntil};
use chrono::{DateTime, Utc};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

/// A snapshot of the numbers.
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
    pub(crate) oldest_held: Option<Duration>,
    pub(crate) transactions: u64,
    pub(crate) queued: u64,
    pub(crate) depth: u64,
    pub(crate) bytes: u64,
    pub(crate) newest: u64,
    pub(crate) degraded: bool,
    pub(crate) last_error: Option<String>,
    /// Why the thread ended, if it did.
    pub(crate) stopped: Option<String>,
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
    // When the oldest of what is held happened, in microseconds; 0 if nothing is held.
    oldest_held: AtomicI64,
    removed_user_until: AtomicI64,
    removed_lifecycle_until: AtomicI64,
    // The position of the newest event in the store; delivery waits for it to grow.
    newest: watch::Sender<u64>,
    queued: AtomicUsize,
    troubles: Mutex<Troubles>,
    // Whether `Troubles::place` is set; read for each append, without the lock.
    is_detached: AtomicBool,
}

/// What is wrong now.
#[derive(Debug, Default)]
struct Troubles {
    // The store's file cannot be written.
    store: Option<String>,
    // The log cannot be appended to.
    log: Option<String>,
    // The store's file is not at its path.
    place: Option<String>,
    // The last trouble, also when it is over.
    last: Option<String>,
}

impl Troubles {
    fn any(&self) -> Option<&String> {
        let troubles = [&self.place, &self.log, &self.store];
        troubles.into_iter().find_map(Option::as_ref)
    }
}

impl Counters {
    /// Counts what was queued.
    pub(super) fn enqueue(&self, events: usize) {
        self.queued.fetch_add(events, Relaxed);
        self.accepted.fetch_add(events as u64, Relaxed);
    }

    /// Counts one transaction of the store and its effect.
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

    /// Notes the position of the newest event. A lower one than before changes nothing.
    pub(super) fn reach(&self, newest: u64) {
        self.newest.send_if_modified(|known| {
            let is_news = *known < newest;
            *known = newest.max(*known);
            is_news
        });
    }

    /// Notes when the oldest of what is held happened.
    #[cfg(feature = "sqlite")]
    pub(super) fn hold_since(&self, oldest: Option<DateTime<Utc>>) {
        let micros = oldest.map(|at| at.timestamp_micros().max(1));
        self.oldest_held.store(micros.unwrap_or_default(), Relaxed);
    }

    fn oldest_held(&self) -> Option<Duration> {
        let micros = self.oldest_held.load(Relaxed);
        let at = DateTime::from_timestamp_micros(micros).filter(|_| micros != 0)?;
        // A clock that was set back makes it no younger than now.
        Some(
            Utc::now()
                .signed_duration_since(at)
                .to_std()
                .unwrap_or_default(),
        )
    }

    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Notes up to when events were removed. An earlier time than before changes nothing.
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

    /// Counts lost events, and logs that.
    pub(super) fn lose(&self, events: u64, why: &str) {
        let all = self.lost.fetch_add(events, Relaxed) + events;
        tracing::warn!(lost = events, all, "{why}");
    }

    pub(super) fn refuse(&self, events: usize) {
        self.refused.fetch_add(events as u64, Relaxed);
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the store's file cannot be written; none if it can again.
    #[cfg(feature = "sqlite")]
    pub(super) fn degrade(&self, trouble: Option<String>) {
        note(
            &mut self.troubles(),
            |troubles| &mut troubles.store,
            trouble,
        );
    }

    /// Notes that the log cannot be written; none if it can again.
    #[cfg(feature = "sqlite")]
    pub(super) fn degrade_log(&self, trouble: Option<String>) {
        note(&mut self.troubles(), |troubles| &mut troubles.log, trouble);
    }

    /// Notes that the file is not at its path; none if it is again. Returns whether that is news.
    #[cfg(feature = "sqlite")]
    pub(super) fn detach(&self, trouble: Option<String>) -> bool {
        self.is_detached.store(trouble.is_some(), Relaxed);
        note(
            &mut self.troubles(),
            |troubles| &mut troubles.place,
            trouble,
        )
    }

    /// Fails if the store's file is not at its path, so that events may not outlive this process.
    pub(super) fn attached(&self) -> Result<(), JournalError> {
        if !self.is_detached.load(Relaxed) {
            return Ok(());
        }
        match &self.troubles().place {
            Some(reason) => Err(JournalError::Degraded {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn status(&self) -> JournalStatus {
        let (degraded, last_error) = {
            let troubles = self.troubles();
            (
                troubles.any().is_some(),
                troubles.any().or(troubles.last.as_ref()).cloned(),
            )
        };
        JournalStatus {
            accepted: self.accepted.load(Relaxed),
            written: self.written.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
            filtered: self.filtered.load(Relaxed),
            refused: self.refused.load(Relaxed),
            lost: self.lost.load(Relaxed),
            held: self.held.load(Relaxed),
            oldest_held: self.oldest_held(),
            transactions: self.transactions.load(Relaxed),
            queued: self.queued.load(Relaxed) as u64,
            depth: self.depth.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            newest: *self.newest.borrow(),
            degraded,
            last_error,
            stopped: None,
        }
    }
}

#[cfg(feature = "sqlite")]
fn note(
    troubles: &mut Troubles,
    of: impl FnOnce(&mut Troubles) -> &mut Option<String>,
    trouble: Option<String>,
) -> bool {
    if trouble.is_some() {
        troubles.last.clone_from(&trouble);
    }
    let known = of(troubles);
    let is_news = known.is_some() != trouble.is_some();
    *known = trouble;
    is_news
}
