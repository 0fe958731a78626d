//! What applications and operators ask a store: its events, its dead letters, its numbers, its sinks.

use super::{EventStore, Health, Stats, stats::get};
use crate::{
    delivery::{RedeliverError, SinkCheck},
    event::{DeadLetter, StoredEvent},
    journal::JournalError,
};
use std::{sync::atomic::Ordering, time::Duration};

impl EventStore {
    /// Returns stored events in the order in which they were stored: those after `position` (0 for the beginning), at
    /// most `limit`, and fewer if they are large (a call ends at about 8 MiB).
    ///
    /// First waits until the store has everything that was published before; while another program has the file
    /// locked, that is as long as the lock is held.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read.
    pub async fn read(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, JournalError> {
        match &self.shared.open {
            None => Ok(Vec::new()),
            Some(open) => {
                let read = open
                    .journal
                    .ask(move |store| store.read(None, position, limit));
                read.await
            }
        }
    }

    /// Returns events that sinks rejected, with the reasons, in the order of their positions: at most `limit`
    /// of those after `position` (0 for the beginning), and then the rest of those that share the last position.
    ///
    /// Like [`read`](Self::read), waits until the store has everything that was published before.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read.
    pub async fn dead_letters(
        &self,
        position: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JournalError> {
        match &self.shared.open {
            None => Ok(Vec::new()),
            Some(open) => {
                let read = open
                    .journal
                    .ask(move |store| store.dead_letters(None, position, limit));
                read.await
            }
        }
    }

    /// Sends the dead letters of a sink again. Those that the sink takes now are removed; returns how many. If the call
    /// is cancelled, or the process ends just then, an event that was taken may stay a dead letter and be sent again.
    ///
    /// # Errors
    /// [`RedeliverError`], which names the sink.
    pub async fn redeliver(&self, sink: &str) -> Result<u64, RedeliverError> {
        let delivery = self
            .shared
            .open
            .as_ref()
            .and_then(|it| it.delivery.as_ref());
        match delivery {
            Some(delivery) => delivery.redeliver(sink).await,
            None => Err(RedeliverError::UnknownSink {
                name: sink.to_owned(),
                known: "none".to_owned(),
            }),
        }
    }

    /// Asks each sink whether its server can be reached now.
    pub async fn check_sinks(&self) -> Vec<SinkCheck> {
        let delivery = self
            .shared
            .open
            .as_ref()
            .and_then(|it| it.delivery.as_ref());
        match delivery {
            Some(delivery) => delivery.check().await,
            None => Vec::new(),
        }
    }

    /// Returns the numbers of this store.
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let mut stats = Stats {
            invalid: get(&counters.invalid),
            trimmed: self.shared.rules.trimmed.count(),
            skipped: get(&counters.skipped),
            staged: get(&counters.staged),
            discarded: get(&counters.discarded),
            commits: get(&counters.commits),
            commit_wait: Duration::from_micros(get(&counters.commit_wait_micros)),
            commit_timeouts: get(&counters.commit_timeouts),
            queued_bytes: self.shared.rules.budget.used() as u64,
            ..Stats::default()
        };
        if let Some(open) = &self.shared.open {
            open.count(&mut stats);
        }
        stats
    }

    /// Returns whether the store can do its work.
    pub fn health(&self) -> Health {
        match &self.shared.open {
            None => Health::Disabled,
            Some(_) if self.shared.shut_down.load(Ordering::Acquire) => Health::ShutDown,
            Some(open) => open.health(),
        }
    }
}
