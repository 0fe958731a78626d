//! What applications and operators ask a store: its events, its dead letters, its numbers, its sinks.

use super::{EventStore, Health, Stats, stats::get};
use crate::{
    delivery::{RedeliverError, SinkCheck},
    event::{DeadLetter, StoredEvent},
    journal::JournalError,
};
use std::{sync::atomic::Ordering, time::Duration};

impl EventStore {
    /// Returns the stored events after `position` (0 for the beginning), in the order in which they were stored. One
    /// call returns at most `limit` events and about 8 MiB. To continue, pass the position of the last event.
    ///
    /// Waits first until the store has every event that was published before this call. While another program has the
    /// file locked, it waits until the lock is released. Cancel safe.
    ///
    /// ```
    /// # use temporal_eventstore::EventStore;
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// # let events = EventStore::builder().store("memory:").build().await?;
    /// let mut position = 0;
    /// loop {
    ///     let stored = events.read(position, 100).await?;
    ///     let Some(last) = stored.last() else { break };
    ///     position = last.position;
    ///     for event in &stored {
    ///         println!("{}", event.json);
    ///     }
    /// }
    /// # events.shutdown(std::time::Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// ```
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

    /// Returns the events after `position` (0 for the beginning) that sinks rejected, with the reasons, in the order
    /// of their positions. Returns at most `limit` dead letters, and beyond that only those that share the last
    /// position.
    ///
    /// Like [`read`](Self::read), waits first until the store has every event that was published before this call.
    /// Cancel safe.
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

    /// Sends the dead letters of a sink again. Removes those that the sink takes now, and returns their number.
    ///
    /// If the call is cancelled, or the process ends meanwhile, an event that the sink took may remain a dead letter,
    /// and be sent again by the next call.
    ///
    /// # Errors
    /// * [`RedeliverError::UnknownSink`] if no sink has this name.
    /// * [`RedeliverError::Sink`] if the sink fails. The events that it had taken by then are no longer dead letters.
    /// * [`RedeliverError::Journal`] if the dead letters cannot be read or removed.
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

    /// Asks each sink whether its server can be reached now, and returns the answers.
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

    /// Returns a snapshot of the statistics of this store.
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

    /// Returns whether the store works, and what is wrong if it does not.
    pub fn health(&self) -> Health {
        match &self.shared.open {
            None => Health::Disabled,
            Some(_) if self.shared.shut_down.load(Ordering::Acquire) => Health::ShutDown,
            Some(open) => open.health(),
        }
    }
}
