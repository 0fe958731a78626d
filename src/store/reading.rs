//! What applications and operators ask a store: its events, its dead letters, its numbers, its sinks and handlers.

use super::{EventStore, Health, Stats, stats::get};
#[cfg(feature = "sqlite")]
use crate::reader::{EventQuery, EventReader, ReadError};
use crate::{
    delivery::{ControlError, Delivery, RedeliverError, SinkCheck},
    event::{DeadLetter, StoredEvent},
    journal::JournalError,
};
use std::{sync::atomic::Ordering, time::Duration};

impl EventStore {
    /// Returns the stored events after `position` (0 for the beginning), in the order in which they were stored. One
    /// call returns at most `limit` events and about 8 MiB. To continue, pass the position of the last event. Works with each
    /// kind of store, also in memory; [`read`](Self::read) takes a query.
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
    ///     let stored = events.read_after(position, 100).await?;
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
    pub async fn read_after(
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

    /// Returns the stored events that a query selects, as [`EventReader::read`] does.
    ///
    /// Waits first until the store has every event that was published before this call. Cancel safe. If you read often, or
    /// want a live stream, keep a [`reader`](Self::reader).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main] async fn main() -> anyhow::Result<()> {
    /// use temporal_eventstore::{EventQuery, EventStore};
    /// # let directory = tempfile::tempdir()?;
    /// # let url = format!("sqlite:{}", directory.path().join("events.db").display());
    /// # let events = EventStore::builder().store(url).build().await?;
    /// let query = EventQuery::new().workflow_id("order-1").only("workflow_*")?;
    /// for event in events.read(&query).await? {
    ///     println!("{} {}", event.created_at, event.event_name);
    /// }
    /// # events.shutdown(std::time::Duration::from_secs(5)).await?;
    /// # Ok(()) }
    /// # #[cfg(not(feature = "sqlite"))] fn main() {}
    /// ```
    ///
    /// # Errors
    /// As for [`reader`](Self::reader).
    #[cfg(feature = "sqlite")]
    pub async fn read(&self, query: &EventQuery) -> Result<Vec<StoredEvent>, ReadError> {
        self.reader().await?.read(query).await
    }

    /// Returns a reader of the file of this store, or of the journal that feeds its sinks: for queries, and for a live stream
    /// from a position ([`EventReader::follow`]). It goes on after a [`shutdown`](Self::shutdown).
    ///
    /// Waits first until the file has every event that was published before this call. Cancel safe.
    ///
    /// # Errors
    /// [`ReadError::NoFile`] if the store is in memory, or if none is configured; [`ReadError::Journal`] if the file cannot be
    /// read, or has not what was published.
    #[cfg(feature = "sqlite")]
    pub async fn reader(&self) -> Result<EventReader, ReadError> {
        let open = self.shared.open.as_ref();
        let Some((open, path)) = open.and_then(|open| Some((open, open.file.as_deref()?))) else {
            return Err(ReadError::NoFile);
        };
        // A closed store has been flushed.
        if !self.shared.shut_down.load(Ordering::Acquire) {
            open.journal.flush().await?;
        }
        EventReader::open_file(path).await
    }

    /// Returns the events after `position` (0 for the beginning) that sinks rejected, with the reasons, in the order
    /// of their positions. Returns at most `limit` dead letters, and beyond that only those that share the last
    /// position.
    ///
    /// Like [`read_after`](Self::read_after), waits first until the store has every event that was published before this call.
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

    /// Returns one dead letter: the event at `position` that `sink` rejected. None if there is none.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read.
    pub async fn dead_letter(
        &self,
        sink: &str,
        position: u64,
    ) -> Result<Option<DeadLetter>, JournalError> {
        let Some(open) = &self.shared.open else {
            return Ok(None);
        };
        let sink = sink.to_owned();
        let read = open
            .journal
            .ask(move |store| store.dead_letters(Some(&sink), position.saturating_sub(1), 1));
        let mut letters = read.await?.into_iter();
        Ok(letters.find(|letter| letter.position == position))
    }

    /// Deletes one dead letter for good. Returns whether it was there.
    ///
    /// # Errors
    /// [`JournalError`] if the store cannot be read, or is closed.
    pub async fn delete_dead_letter(
        &self,
        sink: &str,
        position: u64,
    ) -> Result<bool, JournalError> {
        let is_there = self.dead_letter(sink, position).await?.is_some();
        match &self.shared.open {
            Some(open) if is_there => {
                open.journal.remove_dead_letter(sink.to_owned(), position)?;
                // Not before it is written.
                open.journal.flush().await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Sends the dead letters of a sink again. Removes those that the sink takes now, and returns their number. An event
    /// that is refused again remains, and does not stop the others.
    ///
    /// If the call is cancelled, or the process ends meanwhile, an event that the sink took may remain a dead letter,
    /// and be sent again by the next call.
    ///
    /// # Errors
    /// * [`RedeliverError::UnknownSink`] if no sink has this name.
    /// * [`RedeliverError::Sink`] if the sink fails. The events that it had taken by then are no longer dead letters.
    /// * [`RedeliverError::Journal`] if the dead letters cannot be read or removed.
    pub async fn redeliver(&self, sink: &str) -> Result<u64, RedeliverError> {
        match self.delivery() {
            Some(delivery) => delivery.redeliver(sink).await,
            None => Err(RedeliverError::UnknownSink {
                name: sink.to_owned(),
                known: "none".to_owned(),
            }),
        }
    }

    /// Sends one dead letter of a sink again. Returns whether the sink took it, in which case it is removed; none if there
    /// is no such dead letter. Otherwise like [`redeliver`](Self::redeliver).
    ///
    /// # Errors
    /// As for [`redeliver`](Self::redeliver).
    pub async fn redeliver_one(
        &self,
        sink: &str,
        position: u64,
    ) -> Result<Option<bool>, RedeliverError> {
        match self.delivery() {
            Some(delivery) => delivery.redeliver_one(sink, position).await,
            None => Err(RedeliverError::UnknownSink {
                name: sink.to_owned(),
                known: "none".to_owned(),
            }),
        }
    }

    /// Delivers nothing to a sink until [`resume_sink`](Self::resume_sink), also over a restart. Its events wait in the
    /// journal, and [`flush`](Self::flush) does not wait for it. Must be called within a tokio runtime.
    ///
    /// Returns when the pause is durable. Cancel safe, as are `resume_sink` and `skip_sink`: once it began, it is carried
    /// out, also if its future is dropped.
    ///
    /// # Errors
    /// [`ControlError`], which names the sinks that there are. After [`ControlError::Journal`] the sink is paused, but a
    /// restart may forget that.
    pub async fn pause_sink(&self, sink: &str) -> Result<(), ControlError> {
        self.controlled(sink)?.pause(sink).await
    }

    /// Goes on with the deliveries to a sink. One that was not paused tries again at once. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// As for [`pause_sink`](Self::pause_sink).
    pub async fn resume_sink(&self, sink: &str) -> Result<(), ControlError> {
        self.controlled(sink)?.resume(sink).await
    }

    /// Leaves out what a sink has not, up to the event at `position`, which is not delivered either. Returns how many
    /// positions that are. Events that it had in hand may arrive. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As for [`pause_sink`](Self::pause_sink); [`ControlError::InvalidPosition`] for a position that the sink has passed,
    /// or behind the newest event.
    pub async fn skip_sink(&self, sink: &str, position: u64) -> Result<u64, ControlError> {
        let delivery = self.controlled(sink)?;
        let newest = match &self.shared.open {
            Some(open) => {
                open.journal.flush().await?;
                open.journal.status().newest
            }
            None => 0,
        };
        delivery.skip(sink, position, newest).await
    }

    fn controlled(&self, sink: &str) -> Result<&Delivery, ControlError> {
        self.delivery().ok_or_else(|| ControlError::UnknownSink {
            name: sink.to_owned(),
            known: "none".to_owned(),
        })
    }

    fn delivery(&self) -> Option<&Delivery> {
        self.shared.open.as_ref()?.delivery.as_ref()
    }

    /// Asks each sink whether its server can be reached now, and returns the answers.
    pub async fn check_sinks(&self) -> Vec<SinkCheck> {
        match self.delivery() {
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
            reconciler_passes: get(&counters.passes),
            reconciler_failures: get(&counters.failed_passes),
            reconciler_looked_at: get(&counters.looked_at),
            reconciler_added: get(&counters.added),
            reconciler_unreported_ends: get(&counters.unreported_ends),
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
