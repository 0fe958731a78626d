//! The reconciler: finds what no worker could report - runs that were terminated, that timed out, that
//! the SDK's core failed, whose worker died - in the server's own histories, and adds what the store
//! lacks. Asks the server at a bounded rate and remembers how far it came; knows histories only
//! through [`super::history`].

mod options;
mod schedule;

pub use options::{
    ReconcileError, Reconciled, ReconcilerOptions, ReconcilerOptionsBuilder,
    reconciler_options_builder,
};

use super::{
    history::{HistoryReader, RunName},
    server::{ClosedRun, RequestError, Server},
};
use crate::{
    event::{EventId, EventKey, LifecycleEvent, WorkflowState},
    journal::{HeldRun, JournalError},
    store::{EventStore, PublishError, Receipt, publish::Draft},
};
use backon::{ExponentialBuilder, Retryable as _};
use chrono::{DateTime, SecondsFormat, Utc};
use std::{
    collections::HashSet,
    fmt,
    future::Future,
    ops::Range,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use temporalio_client::{Client, NamespacedClient as _};
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, info, warn};

/// Visibility shows a closed run late: so much before the checkpoint is looked at again.
const OVERLAP: Duration = Duration::from_secs(120);
/// The end of the year 9999, since 1970: what RFC 3339 can say.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);
/// How many run ids are remembered, so that looking again costs no second history.
const REMEMBERED: usize = 10_000;
/// How many events wait for the journal at once.
const APPENDED_AT_ONCE: usize = 256;
/// How often a request is tried that fails for a reason that may pass.
const REQUEST_RETRIES: usize = 5;

/// Adds to a store what its workers could not report: `workflow_end` of runs that were terminated,
/// timed out, or failed without the worker's code; `workflow_start` of runs that no worker saw begin;
/// `activity_end` of attempts whose worker died. Reads the server's histories of closed runs, and
/// derives the same event ids as the interceptors, so that both can run at once and nothing is there
/// twice. What it adds has `detected_by: "reconciler"` in its metadata.
///
/// Run it once ([`run_once`](Self::run_once)), over a time range ([`backfill`](Self::backfill)), in
/// the background of a program ([`run`](Self::run)) or of a worker
/// ([`EventStorePlugin::reconcile`](crate::EventStorePlugin::reconcile)), or as a Temporal workflow
/// on a schedule ([`register`](Self::register), [`schedule`](Self::schedule)). A cheap handle: clones
/// share the rate limit.
///
/// It does not know which workers have the plugin: set
/// [`task_queue`](ReconcilerOptions::task_queue) or [`filter`](ReconcilerOptions::filter) in a
/// namespace that others use too.
///
/// ```no_run
/// # use temporal_eventstore::{EventStore, Reconciler, ReconcilerOptions};
/// # async fn f(events: EventStore, client: temporalio_client::Client) -> anyhow::Result<()> {
/// let options = ReconcilerOptions::builder().task_queue("orders").build();
/// let found = Reconciler::new(&events, &client, options).run_once().await?;
/// println!("{} runs, {} events added", found.runs, found.added());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Reconciler {
    shared: Arc<Shared>,
}

/// What is looked at, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// What closed lately: not again what was looked at, and not what the store no longer keeps.
    Routine,
    /// What somebody asked for, all of it.
    Backfill,
}

struct Shared {
    store: EventStore,
    server: Arc<Server>,
    namespace: String,
    options: ReconcilerOptions,
    pace: tokio::sync::Mutex<Option<Interval>>,
    // Runs near the checkpoint whose histories were read.
    done: Mutex<HashSet<String>>,
}

impl Reconciler {
    /// A reconciler that adds to `events` what the server behind `client`, in its namespace, knows.
    pub fn new(events: &EventStore, client: &Client, options: ReconcilerOptions) -> Self {
        let server = Arc::new(Server::connected(client.connection().clone()));
        Self::with_server(events.clone(), server, client.namespace(), options)
    }

    pub(super) fn with_server(
        store: EventStore,
        server: Arc<Server>,
        namespace: String,
        options: ReconcilerOptions,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                server,
                namespace,
                options,
                pace: tokio::sync::Mutex::new(None),
                done: Mutex::default(),
            }),
        }
    }

    /// Looks at the runs that closed since the checkpoint, or, the first time, within
    /// [`lookback`](ReconcilerOptions::lookback); then moves the checkpoint, which the journal keeps.
    /// Runs that closed within the last [`grace`](ReconcilerOptions::grace) are left for the next time.
    ///
    /// Cancel safe: what was added stays, the checkpoint stands where the last whole window ended.
    ///
    /// # Errors
    /// [`ReconcileError`] when the server or the journal fails for longer than a few retries. What was
    /// found until then is in the store.
    pub async fn run_once(&self) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        shared.options.check()?;
        let until = before(SystemTime::now(), shared.options.grace);
        let name = self.checkpoint_name();
        let checkpoint = shared.store.cursor(name.clone()).await?;
        let checkpoint = checkpoint.map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
        let from = match checkpoint {
            Some(checkpoint) if checkpoint <= until => before(checkpoint, OVERLAP),
            Some(checkpoint) => {
                warn!(
                    checkpoint = rfc3339(checkpoint),
                    "this machine's clock is behind the server's, or was set back: the reconciler looks \
                     back as at its first time"
                );
                before(until, shared.options.lookback)
            }
            None => before(until, shared.options.lookback),
        };
        let mut all = Reconciled::default();
        // The checkpoint is a time that the server gave. This machine's clock may be ahead of it, and runs
        // yet to close would be passed over.
        let Some(newest) = self.newest(from..until).await? else {
            return Ok(all);
        };
        for window in windows(from..until, shared.options.window) {
            if window.start > newest {
                break;
            }
            let end = window.end.min(newest);
            all += self.reconcile(window, Pass::Routine).await?;
            let micros = end
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_micros());
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            shared.store.move_cursor(name.clone(), micros).await?;
        }
        Ok(all)
    }

    /// Looks at the runs that closed within a time range, and leaves the checkpoint alone. For the time
    /// before the plugin was there, or after a journal was lost. Reaches as far back as the
    /// namespace's retention.
    ///
    /// Cancel safe; what was added stays.
    ///
    /// # Errors
    /// As [`run_once`](Self::run_once); [`ReconcileError::EmptyRange`] when the range ends before it
    /// begins.
    pub async fn backfill(&self, closed: Range<SystemTime>) -> Result<Reconciled, ReconcileError> {
        self.shared.options.check()?;
        if closed.is_empty() {
            return Err(ReconcileError::EmptyRange);
        }
        self.reconcile(closed, Pass::Backfill).await
    }

    /// Runs [`run_once`](Self::run_once) every so often until `stop` resolves. Errors are logged and
    /// the next time is waited for. Cancel safe.
    pub async fn run(&self, every: Duration, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let round = async {
                match self.run_once().await {
                    Ok(found) if found.added() > 0 => info!(
                        runs = found.runs,
                        added = found.added(),
                        "the reconciler added what workers could not report"
                    ),
                    Ok(found) => debug!(runs = found.runs, "the reconciler found nothing to add"),
                    Err(error) => warn!(%error, "the reconciler failed and tries again later"),
                }
                tokio::time::sleep(every).await;
            };
            tokio::select! {
                () = &mut stop => return,
                () = round => {}
            }
        }
    }

    /// One for each namespace and filter: each has come to another point.
    fn checkpoint_name(&self) -> String {
        let query = self.shared.options.query().unwrap_or_default();
        format!("reconciler {} {query}", self.shared.namespace)
    }

    /// The visibility query for runs that closed in a time range.
    fn query(&self, closed: &Range<SystemTime>) -> String {
        let query = format!(
            "CloseTime >= '{}' AND CloseTime < '{}'",
            rfc3339(closed.start),
            rfc3339(closed.end)
        );
        match self.shared.options.query() {
            Some(filter) => format!("{query} AND {filter}"),
            None => query,
        }
    }

    /// When the last of the runs closed that closed in a time range.
    async fn newest(
        &self,
        closed: Range<SystemTime>,
    ) -> Result<Option<SystemTime>, ReconcileError> {
        let shared = &self.shared;
        let query = self.query(&closed);
        // The newest come first.
        let page = self
            .request(|| {
                shared
                    .server
                    .closed_runs(&shared.namespace, &query, 1, Vec::new())
            })
            .await
            .map_err(server_error)?;
        Ok(page.runs.iter().filter_map(|run| run.closed_at).max())
    }

    /// Looks at the runs that closed in a time range.
    async fn reconcile(
        &self,
        closed: Range<SystemTime>,
        pass: Pass,
    ) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let query = self.query(&closed);
        let mut found = Reconciled::default();
        let mut page_token = Vec::new();
        loop {
            let page = self
                .request(|| {
                    shared.server.closed_runs(
                        &shared.namespace,
                        &query,
                        shared.options.page_size,
                        page_token.clone(),
                    )
                })
                .await
                .map_err(server_error)?;
            // What is held is settled first: it says more than history does.
            let held = shared.store.held().await?;
            for run in page.runs {
                if pass == Pass::Routine && self.is_done(&run.run_id) {
                    continue;
                }
                found.runs += 1;
                found.settled += self.settle(&held, &run);
                self.reconcile_run(&run, pass, &mut found).await?;
                self.remember(run.run_id);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Releases an end that waits for the server's word, or drops one that was not accepted.
    fn settle(&self, held: &[HeldRun], run: &ClosedRun) -> u64 {
        let shared = &self.shared;
        let Some(held) = held.iter().find(|held| {
            held.key.run_id == run.run_id
                && held.key.workflow_id == run.workflow_id
                && held.key.namespace == shared.namespace
        }) else {
            return 0;
        };
        let told = super::resolve::held_state(&held.records);
        // Without an end, what is held is what workflow code published in a task that ended the run.
        if told == run.state || told == WorkflowState::Unknown {
            shared.store.release(held.key.clone());
        } else {
            shared.store.discard(held.key.clone());
        }
        1
    }

    async fn reconcile_run(
        &self,
        run: &ClosedRun,
        pass: Pass,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let shared = &self.shared;
        if !shared.options.activities && self.has_start_and_end(run).await? {
            return Ok(());
        }
        let name = RunName {
            namespace: shared.namespace.clone(),
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id.clone(),
        };
        let mut reader = HistoryReader::new(&shared.store, name);
        let mut drafts = Vec::new();
        let mut page_token = Vec::new();
        loop {
            let page = self
                .request(|| {
                    shared.server.history_page(
                        &shared.namespace,
                        &run.workflow_id,
                        &run.run_id,
                        shared.options.page_size,
                        page_token.clone(),
                    )
                })
                .await;
            let page = match page {
                // Deleted, or its retention is over, since it was listed.
                Err(RequestError::Gone) => return Ok(()),
                page => page.map_err(server_error)?,
            };
            for event in page.events {
                reader.read(event, &mut drafts);
                if drafts.len() >= APPENDED_AT_ONCE {
                    self.add(std::mem::take(&mut drafts), pass, found).await?;
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        self.add(drafts, pass, found).await
    }

    async fn has_start_and_end(&self, run: &ClosedRun) -> Result<bool, ReconcileError> {
        let id = |kind: LifecycleEvent| {
            EventId::derive(&EventKey {
                namespace: &self.shared.namespace,
                workflow_id: &run.workflow_id,
                run_id: &run.run_id,
                kind: kind.as_str(),
                ..EventKey::default()
            })
        };
        let ids = vec![
            id(LifecycleEvent::WorkflowStart),
            id(LifecycleEvent::WorkflowEnd),
        ];
        Ok(self.shared.store.missing(ids).await?.is_empty())
    }

    /// Adds those events that the store lacks.
    async fn add(
        &self,
        drafts: Vec<Draft>,
        pass: Pass,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let store = &self.shared.store;
        let ids = drafts.iter().flat_map(Draft::known_ids).collect();
        let missing: HashSet<EventId> = store.missing(ids).await?.into_iter().collect();
        let mut missing: Vec<Draft> = drafts
            .into_iter()
            // With activities switched off, a history is only read for its ends.
            .filter(|draft| self.shared.options.activities || draft.is_of_run())
            // What the store removed, or would at once, is absent because it was there long enough.
            .filter(|draft| pass == Pass::Backfill || !store.is_removed(draft))
            .filter(|draft| draft.known_ids().all(|id| missing.contains(&id)))
            .collect();
        // A part of the queue at a time: others publish, too.
        let at_once = (store.queue_size() / 4).clamp(1, APPENDED_AT_ONCE);
        while !missing.is_empty() {
            let rest = missing.split_off(missing.len().min(at_once));
            let part = std::mem::replace(&mut missing, rest);
            let mut receipts = Vec::with_capacity(part.len());
            for draft in part {
                found.count(draft.event_name());
                receipts.push(store.append(draft));
            }
            self.all_stored(receipts).await?;
        }
        Ok(())
    }

    async fn all_stored(&self, receipts: Vec<Receipt>) -> Result<(), ReconcileError> {
        for receipt in receipts {
            match receipt.await {
                // A filter's wish, or an event that breaks a rule: neither will ever be otherwise.
                Ok(_) | Err(PublishError::Invalid(_)) => {}
                Err(PublishError::Journal(JournalError::Invalid { .. })) => {}
                Err(error) => return Err(ReconcileError::Store(error)),
            }
        }
        Ok(())
    }

    /// One request at the agreed rate, tried again when its failure may pass.
    async fn request<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<T, RequestError> {
        let paced = || async {
            self.pace().await;
            request().await
        };
        paced
            .retry(
                ExponentialBuilder::default()
                    .with_jitter()
                    .with_max_times(REQUEST_RETRIES),
            )
            .when(RequestError::may_pass)
            .await
    }

    async fn pace(&self) {
        let mut pace = self.shared.pace.lock().await;
        pace.get_or_insert_with(|| {
            let mut interval = tokio::time::interval(self.shared.options.pause_between_requests());
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        })
        .tick()
        .await;
    }

    fn is_done(&self, run_id: &str) -> bool {
        let done = self.shared.done.lock();
        done.unwrap_or_else(PoisonError::into_inner)
            .contains(run_id)
    }

    fn remember(&self, run_id: String) {
        let mut done = self
            .shared
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Forgetting costs a history that is read again, and nothing else.
        if done.len() >= REMEMBERED {
            done.clear();
        }
        done.insert(run_id);
    }
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("namespace", &self.shared.namespace)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

fn server_error(error: RequestError) -> ReconcileError {
    ReconcileError::Server(Box::new(error))
}

fn before(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_sub(by).unwrap_or(UNIX_EPOCH)
}

fn rfc3339(time: SystemTime) -> String {
    let time = time.min(UNIX_EPOCH + END_OF_TIME);
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// A range in parts of at most `length`.
fn windows(range: Range<SystemTime>, length: Duration) -> impl Iterator<Item = Range<SystemTime>> {
    let length = length.max(Duration::from_secs(1));
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let end = start
            .checked_add(length)
            .map_or(range.end, |end| end.min(range.end));
        let window = start..end;
        start = end;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_a_range_without_gaps() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let parts: Vec<_> = windows(at(0)..at(25), Duration::from_secs(10)).collect();
        assert_eq!(parts, [at(0)..at(10), at(10)..at(20), at(20)..at(25)]);
        assert_eq!(windows(at(5)..at(5), Duration::from_secs(10)).count(), 0);
    }
}
