//! The operations for interceptors: append, commit, hold and settle. Applications publish instead. Knows the
//! journal, and not when or why it is asked.

use super::{Claim, EventStore, LifecycleSelection, PublishError, Published, Receipt, stats::add};
use crate::{
    context::Context,
    crash_point::is_left_out,
    event::{Event, EventError, EventId},
    journal::{Held, Hold, HoldKey, Journal, JournalError, Rejected},
    record::{Draft, Rules, ids_of_attempt},
};
use std::{sync::Arc, time::Instant};
use tracing::{debug, error, warn};

impl EventStore {
    fn journal(&self) -> Option<&Journal> {
        self.shared.open.as_ref().map(|open| &open.journal)
    }

    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.shared.rules
    }

    pub(crate) fn lifecycle(&self) -> LifecycleSelection {
        self.shared.lifecycle
    }

    /// Counts a pass of a reconciler, which failed if there is nothing to say of it.
    #[cfg(feature = "temporal")]
    pub(crate) fn count_pass(&self, found: Option<super::FoundByPass>) {
        self.shared.counters.count_pass(found);
    }

    /// Returns how many events may wait for the journal.
    pub(crate) fn queue_size(&self) -> usize {
        self.shared.queue_size
    }

    /// Whether an event that is in history, but not in the store, was removed for its age or for lack of room, or
    /// would be removed at once.
    pub(crate) fn is_removed(&self, draft: &Draft) -> bool {
        match (&self.shared.open, draft.happened_at()) {
            (Some(open), Some(at)) => {
                let removed = open.journal.removed_until();
                open.is_past_retention(at) || removed.has(draft.is_lifecycle(), at)
            }
            _ => false,
        }
    }

    pub(crate) fn repairs_on_replay(&self) -> bool {
        self.shared.repair_on_replay
    }

    pub(crate) fn keeps_error_messages(&self) -> bool {
        self.shared.error_messages
    }

    #[cfg(feature = "plugin")]
    pub(crate) fn application_name(&self) -> &str {
        &self.shared.rules.application_name
    }

    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn count_invalid(&self, error: &EventError) {
        add(&self.shared.counters.invalid, 1);
        warn!(%error, "an event was refused");
    }

    pub(crate) fn count_staged(&self) {
        add(&self.shared.counters.staged, 1);
    }

    /// Counts an event for which there is no room in memory, and logs that once in a while.
    pub(crate) fn refuse_for_lack_of_room(&self) -> PublishError {
        if let Some(journal) = self.journal() {
            journal.count_refused(1);
        }
        self.refused(&Rejected::Full)
    }

    /// Queues one event for the journal.
    pub(crate) fn append(&self, draft: Draft) -> Receipt {
        let Some(open) = &self.shared.open else {
            self.skip();
            return Receipt::ready(Ok(Published::Skipped));
        };
        if draft.is_repair() && self.is_removed(&draft) {
            let stored = draft.derived_id().map(Published::Stored);
            return Receipt::ready(Ok(stored.unwrap_or(Published::Skipped)));
        }
        match open.journal.append(draft) {
            Ok(receipt) if open.is_durable_with_sinks() => {
                let store = self.clone();
                Receipt::delivered(async move {
                    let published = Published::by_journal(receipt.await?.event_id);
                    let timeout = store.shared.commit_timeout;
                    let reached = async {
                        if let Some(open) = &store.shared.open {
                            open.reached_by_sinks().await;
                        }
                    };
                    tokio::time::timeout(timeout, reached)
                        .await
                        .map_err(|_| PublishError::SinksBehind { timeout })?;
                    Ok(published)
                })
            }
            Ok(receipt) => Receipt::waiting(receipt),
            Err(rejected) => Receipt::ready(Err(self.refused(&rejected))),
        }
    }

    /// Commits the events of a workflow task, or an activity's end: appends them to the journal and waits until
    /// they are durable. After the commit timeout the caller goes on, and the events stay queued. The timeout does
    /// not bound an append that this call makes itself: only the kernel does.
    pub(crate) async fn commit(&self, append: Vec<Draft>, holds: Vec<Hold>) {
        let Some(open) = &self.shared.open else {
            return;
        };
        let receipt = match open.journal.commit(append, holds) {
            Ok(receipt) => receipt,
            Err(rejected) => {
                self.refused(&rejected);
                return;
            }
        };
        if is_left_out("commit-wait") {
            return;
        }
        let started = Instant::now();
        let durable = async {
            receipt.await?;
            if open.is_durable_with_sinks() {
                open.reached_by_sinks().await;
            }
            Ok::<(), JournalError>(())
        };
        let outcome = tokio::time::timeout(self.shared.commit_timeout, durable).await;
        let counters = &self.shared.counters;
        add(&counters.commits, 1);
        let waited = started.elapsed();
        add(
            &counters.commit_wait_micros,
            u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        );
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                // The journal has logged the cause once; this is for debugging.
                debug!(%error, "a commit is not durable");
            }
            Err(_) => {
                add(&counters.commit_timeouts, 1);
                warn!(
                    timeout = ?self.shared.commit_timeout,
                    "the journal is slow: a task goes on before its events are durable; they stay queued"
                );
            }
        }
    }

    /// Holds events without waiting for them to be durable.
    pub(crate) fn hold_without_waiting(&self, holds: Vec<Hold>) {
        if let Some(journal) = self.journal() {
            self.not_refused(journal.commit(Vec::new(), holds));
        }
    }

    /// Claims what is held under a key; none if somebody in this process has claimed it.
    pub(crate) fn claim(&self, key: &HoldKey) -> Option<Claim> {
        self.shared.claims.claim(key.hold_id)
    }

    /// Returns those of `ids` that no stored event has.
    pub(crate) async fn missing(&self, ids: Vec<EventId>) -> Result<Vec<EventId>, JournalError> {
        match self.journal() {
            None => Ok(Vec::new()),
            Some(journal) => journal.ask(move |store| store.missing(ids)).await,
        }
    }

    /// Returns the stored events that have one of `ids`.
    pub(crate) async fn find(&self, ids: Vec<EventId>) -> Result<Vec<Event>, JournalError> {
        match self.journal() {
            Some(journal) if !ids.is_empty() => {
                let found = journal.ask(move |store| store.find(&ids)).await?;
                Ok(found
                    .into_iter()
                    .filter_map(|json| Event::from_json(&json).ok())
                    .collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Whether the store has an event of an earlier attempt with the number of the one on the stack, which has
    /// just begun. Then the activity was reset, and counts its attempts from 1 again. False if the store does not
    /// answer within the commit timeout.
    pub(crate) async fn knows_attempt(&self, context: &Context) -> bool {
        let ids = ids_of_attempt(context);
        let asked = ids.len();
        match tokio::time::timeout(self.shared.commit_timeout, self.missing(ids)).await {
            Ok(Ok(missing)) => missing.len() < asked,
            Ok(Err(_)) | Err(_) => {
                debug!("the store does not say whether an attempt's number was given before");
                false
            }
        }
    }

    /// Returns the position of the cursor `name`; none if it was never moved.
    pub(crate) async fn cursor(&self, name: String) -> Result<Option<u64>, JournalError> {
        match self.journal() {
            None => Ok(None),
            Some(journal) => journal.ask_as_it_is(move |store| store.cursor(&name)).await,
        }
    }

    /// Moves the cursor `name`, and waits until that is in the store.
    pub(crate) async fn move_cursor(
        &self,
        name: String,
        position: u64,
    ) -> Result<(), JournalError> {
        match self.journal() {
            None => Ok(()),
            Some(journal) => {
                journal.move_cursor(name, position, Vec::new())?;
                journal.flush().await
            }
        }
    }

    /// Returns everything that is held.
    pub(crate) async fn held(&self) -> Result<Vec<Held>, JournalError> {
        match self.journal() {
            None => Ok(Vec::new()),
            Some(journal) => journal.ask(|store| store.held()).await,
        }
    }

    /// Stores what is held: the server accepted it.
    pub(crate) fn release(&self, key: HoldKey) {
        if let Some(journal) = self.journal() {
            self.not_refused(journal.release(key));
        }
    }

    /// Stores `events` instead of what is held: the server accepted something else.
    pub(crate) fn replace(&self, key: HoldKey, events: Vec<Draft>) {
        if let Some(journal) = self.journal() {
            self.not_refused(journal.replace(key, events));
        }
    }

    /// Discards what is held: the server did not accept it.
    pub(crate) fn discard(&self, key: HoldKey) {
        if let Some(journal) = self.journal() {
            add(&self.shared.counters.discarded, 1);
            self.not_refused(journal.discard(key));
        }
    }

    /// Counts an event that is skipped because of where it was published.
    pub(crate) fn count_skipped(&self) {
        add(&self.shared.counters.skipped, 1);
    }

    fn not_refused<T>(&self, result: Result<T, Rejected>) {
        if let Err(rejected) = result {
            self.refused(&rejected);
        }
    }

    pub(super) fn refused(&self, rejected: &Rejected) -> PublishError {
        match rejected {
            Rejected::Closed => {
                debug!("an event was refused: the event store was shut down");
                PublishError::ShutDown
            }
            Rejected::Stopped(reason) => {
                if self.shared.said_stopped.is_first() {
                    error!("the journal has stopped, and events are refused: {reason}");
                }
                PublishError::Journal(JournalError::Stopped(reason.clone()))
            }
            Rejected::Full => {
                // Once in a while is enough: the count is in the statistics.
                if self.shared.said_full.is_due() {
                    warn!(
                        refused = self.stats().refused,
                        "the queue of the event store is full: events are lost"
                    );
                }
                PublishError::QueueFull
            }
        }
    }
}

#[cfg(all(test, feature = "failpoints", feature = "sqlite"))]
mod tests {
    use super::*;
    use crate::record::Identity;
    use std::time::Duration;

    async fn commit(store: EventStore, event_type: String) -> Duration {
        let draft = Draft::published(
            store.rules(),
            Event::new(event_type),
            Context::new(),
            Identity::Random,
        );
        let began = Instant::now();
        store.commit(vec![draft], Vec::new()).await;
        began.elapsed()
    }

    /// A disk that stalls in the middle of an append holds up whoever appends; nobody else waits longer than the
    /// commit timeout, and nothing is lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_disk_that_stalls_holds_up_one_thread_alone() {
        const STALL: Duration = Duration::from_secs(5);
        const TIMEOUT: Duration = Duration::from_millis(700);
        let _scenario = fail::FailScenario::setup();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("events.db");
        let store = EventStore::builder()
            .store(format!("sqlite:{}", file.display()))
            .commit_timeout(TIMEOUT)
            .build()
            .await
            .unwrap();
        assert!(commit(store.clone(), "before".to_owned()).await < TIMEOUT);
        let stall = format!("1*sleep({})->off", STALL.as_millis());
        fail::cfg("before-append", &stall).unwrap();
        let stalled = tokio::spawn(commit(store.clone(), "stalled".to_owned()));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let others: Vec<_> = (0..8)
            .map(|number| tokio::spawn(commit(store.clone(), format!("other.{number}"))))
            .collect();
        for other in others {
            let waited = other.await.unwrap();
            assert!(waited >= TIMEOUT, "nothing was stalled: {waited:?}");
            assert!(waited < TIMEOUT * 3, "{waited:?}");
        }
        let waited = stalled.await.unwrap();
        assert!(waited >= STALL, "{waited:?}");
        // Later ones are quick again.
        assert!(commit(store.clone(), "after".to_owned()).await < TIMEOUT);
        store.flush(Duration::from_secs(10)).await.unwrap();
        let stats = store.stats();
        assert_eq!((stats.refused, stats.commit_timeouts), (0, 8));
        store.shutdown(Duration::from_secs(10)).await.unwrap();
        let file = rusqlite::Connection::open(file).unwrap();
        let count: u32 = file
            .query_row("SELECT COUNT(*) FROM events", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 11);
    }
}
