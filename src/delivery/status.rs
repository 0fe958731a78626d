//! How far a sink has come, and whether it works. Counters only grow.

use super::reading::Standing;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What one sink has done since the store was built.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SinkStats {
    /// The sink's name.
    pub name: String,
    /// Events that it took.
    pub delivered: u64,
    /// Events that it rejected, and that are dead letters now.
    pub rejected: u64,
    /// Events that it does not take, or that are not selected for it.
    pub passed_over: u64,
    /// Calls that failed and were tried again.
    pub retries: u64,
    /// Calls that succeeded.
    pub batches: u64,
    /// The total time of the calls that succeeded.
    pub latency: Duration,
    /// The position in the journal up to which it is done.
    pub position: u64,
    /// How many positions it is behind the newest event in the store.
    pub behind: u64,
    /// Why it takes nothing now; none while it works.
    pub failing: Option<String>,
    /// How long it has been failing; none while it works.
    pub failing_for: Option<Duration>,
    /// How old the oldest event is that it was given and does not have, by the clock of this machine; none while it has all
    /// that it was given. A [handler](crate::Handler) does not measure it.
    pub oldest: Option<Duration>,
    /// Whether it was paused by [`pause_sink`](crate::EventStore::pause_sink).
    pub is_paused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) delivered: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) passed_over: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) latency_micros: AtomicU64,
    // None until the journal was asked, or a command said it.
    position: watch::Sender<Option<u64>>,
    is_paused: watch::Sender<Option<bool>>,
    // The furthest position that somebody waits for.
    wanted: watch::Sender<u64>,
    failing: Mutex<Option<(Instant, String)>>,
    // When the oldest event happened that is not delivered, in the text of events.
    oldest: Mutex<Option<String>>,
}

impl Progress {
    pub(super) fn position(&self) -> u64 {
        self.position.borrow().unwrap_or_default()
    }

    pub(super) fn move_to(&self, position: u64) {
        self.position.send_replace(Some(position));
    }

    /// Returns where the sink stands, if that is known already.
    pub(super) fn standing(&self) -> Option<Standing> {
        let (position, is_paused) = (*self.position.borrow(), *self.is_paused.borrow());
        Some(Standing {
            position: position?,
            is_paused: is_paused?,
        })
    }

    /// Learns from the journal what is not known better. Returns what holds then.
    pub(super) fn learn(&self, asked: Standing) -> Standing {
        let position = self.position.borrow().unwrap_or(asked.position);
        let is_paused = self.is_paused.borrow().unwrap_or(asked.is_paused);
        self.move_to(position);
        self.pause(is_paused);
        Standing {
            position,
            is_paused,
        }
    }

    pub(super) async fn reached(&self, position: u64) {
        self.wanted.send_if_modified(|wanted| {
            let is_further = position > *wanted;
            *wanted = position.max(*wanted);
            is_further
        });
        let mut positions = self.position.subscribe();
        let mut pauses = self.is_paused.subscribe();
        // The senders live as long as this does. Nobody waits for what an operator paused.
        tokio::select! {
            _ = positions.wait_for(|at| at.unwrap_or_default() >= position) => {}
            _ = pauses.wait_for(|is_paused| is_paused.unwrap_or_default()) => {}
        }
    }

    /// Returns the furthest position that somebody waited for, to be watched.
    pub(super) fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    pub(super) fn pause(&self, is_paused: bool) {
        self.is_paused.send_replace(Some(is_paused));
        if is_paused {
            self.recovered();
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.borrow().unwrap_or_default()
    }

    /// Notes when the oldest event happened that waits to be delivered; none if none does.
    pub(super) fn wait_since(&self, oldest: Option<String>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    fn oldest(&self) -> Option<Duration> {
        let oldest = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let happened = DateTime::parse_from_rfc3339(oldest.as_deref()?).ok()?;
        let age = Utc::now().signed_duration_since(happened);
        // A clock that was set back makes it no younger than now.
        Some(age.to_std().unwrap_or_default())
    }

    /// Notes a failure. Returns whether it is the first of an outage.
    pub(super) fn failed(&self, reason: String) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = failing.is_none();
        let since = failing.take().map_or_else(Instant::now, |(since, _)| since);
        *failing = Some((since, reason));
        is_first
    }

    /// Notes the end of a failure that was not the sink's.
    pub(super) fn recovered(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes a success. Returns how long the outage was, if it ends one.
    pub(super) fn succeeded(&self, took: Duration) -> Option<Duration> {
        self.batches.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency_micros.fetch_add(micros, Relaxed);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.take().map(|(since, _)| since.elapsed())
    }

    /// Notes that a handler returned without an error.
    pub(super) fn handled(&self, took: Duration) {
        self.delivered.fetch_add(1, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency_micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn stats(&self, name: &str, newest: u64) -> SinkStats {
        let position = self.position();
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        SinkStats {
            name: name.to_owned(),
            delivered: self.delivered.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            passed_over: self.passed_over.load(Relaxed),
            retries: self.retries.load(Relaxed),
            batches: self.batches.load(Relaxed),
            latency: Duration::from_micros(self.latency_micros.load(Relaxed)),
            position,
            behind: newest.saturating_sub(position),
            failing_for: failing.as_ref().map(|(since, _)| since.elapsed()),
            failing: failing.as_ref().map(|(_, reason)| reason.clone()),
            oldest: self.oldest(),
            is_paused: self.is_paused(),
        }
    }
}
