//! Waiting for everything that was published, and closing the store.

use super::{EventStore, FlushError, open::Open};
use crate::journal::JournalError;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tracing::{info, warn};

impl EventStore {
    /// Waits until every event that was published before this call is in the store, where [`read_after`](Self::read_after) and
    /// other programs see it, and until every sink has it
    /// and every handler is done with it. To wait only until an event is durable, await its
    /// [`Receipt`](super::Receipt). Cancel safe.
    ///
    /// # Errors
    /// * [`FlushError::TimedOut`] if the store does not have the events after `timeout`, for example because another
    ///   program has the file locked.
    /// * [`FlushError::SinksBehind`] if the store has the events after `timeout`, but a sink does not.
    /// * [`FlushError::Journal`] if the store's file is damaged or cannot be written. The events are still durable in
    ///   the journal's log, unless the log cannot be written either.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        match &self.shared.open {
            Some(open) => open.flush(timeout).await,
            None => Ok(()),
        }
    }

    /// Flushes the store, then stops handlers and the delivery to sinks, and closes the journal. Events that are published
    /// afterwards are refused and counted. Call it after the workers have stopped.
    ///
    /// The flush and the closing of the journal may take up to `timeout` each. Further calls, during the first one or
    /// after it, return the result of the first. Cancel safe: after a cancelled call, the next call takes over. If
    /// there is none, the journal closes when the last handle is dropped.
    ///
    /// # Errors
    /// The same as for [`flush`](Self::flush), and two errors in [`FlushError::Journal`]:
    ///
    /// * [`JournalError::NotStored`] if events are in the journal's log, but not in the store. The next start stores
    ///   them.
    /// * [`JournalError::Lost`] if events are lost.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        let mut behind = None;
        let closing = async {
            self.shared.shut_down.store(true, Ordering::Release);
            let Some(open) = &self.shared.open else {
                return Ok(());
            };
            let (closed, left) = open.close(timeout).await;
            behind = Some(left);
            closed
        };
        let closed = self.shared.closed.get_or_init(|| closing).await.clone();
        // Logged by the call that closed it, once the others can have the result.
        if let Some(behind) = behind {
            self.say_closed(behind);
        }
        closed
    }

    fn say_closed(&self, behind: u64) {
        let stats = self.stats();
        if stats.lost + stats.refused + stats.invalid > 0 {
            warn!(
                lost = stats.lost,
                refused = stats.refused,
                invalid = stats.invalid,
                written = stats.written,
                "the event store closed, and some events are not in it"
            );
        } else {
            info!(written = stats.written, "the event store closed");
        }
        if behind > 0 && self.shared.open.as_ref().is_some_and(|it| it.is_lasting()) {
            warn!(
                behind,
                "sinks lack events; these are in the journal and go on when the store is opened again"
            );
        } else if behind > 0 {
            warn!(
                behind,
                "sinks lack events, and these are lost: there is no journal file (EVENTSTORE_JOURNAL)"
            );
        }
    }
}

impl Open {
    async fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        let began = Instant::now();
        self.within(timeout, self.journal.flush()).await?;
        let left = timeout.saturating_sub(began.elapsed());
        if tokio::time::timeout(left, self.reached()).await.is_ok() {
            return Ok(());
        }
        let behind = self
            .sinks()
            .into_iter()
            .filter(|sink| sink.behind > 0)
            .map(|sink| format!("{} ({})", sink.name, sink.behind));
        Err(FlushError::SinksBehind {
            sinks: behind.collect::<Vec<_>>().join(", "),
            timeout,
        })
    }

    /// Closes the store. Returns the result, and how many positions the slowest sink is behind.
    async fn close(&self, timeout: Duration) -> (Result<(), FlushError>, u64) {
        let flushed = self.flush(timeout).await;
        if let Some(delivery) = &self.delivery {
            delivery.stop();
            // A function that blocks its thread cannot be ended.
            tokio::time::timeout(timeout, delivery.ended()).await.ok();
        }
        let behind = self.behind();
        let closed = self.within(timeout, self.journal.close()).await;
        // Closing comes last and says what is lost for good.
        (closed.and(flushed), behind)
    }

    async fn within(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<(), JournalError>>,
    ) -> Result<(), FlushError> {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(FlushError::TimedOut {
                queued: self.journal.status().queued,
                timeout,
            }),
        }
    }

    /// Closes what was not shut down. What is queued is still written, by the journal.
    pub(super) fn abandon(&mut self) {
        let behind = self.behind();
        // The tasks end here.
        drop(self.delivery.take());
        if behind > 0 && !self.is_lasting() {
            warn!(
                behind,
                "the last handle of an event store was dropped without shutdown; sinks lack \
                 events, and these are lost: there is no journal file (EVENTSTORE_JOURNAL)"
            );
        } else {
            warn!(
                "the last handle of an event store was dropped without shutdown; \
                 what is queued is still written, for a few seconds at most"
            );
        }
    }
}
