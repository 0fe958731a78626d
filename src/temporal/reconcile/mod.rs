//! The reconciler: finds in the server's histories what no worker could report (runs that were terminated, that timed
//! out, that the SDK's core failed, or whose worker died), and adds what the store lacks. Asks the server at a bounded
//! rate, and remembers how far it has come. Reads histories only through [`super::history`].

mod adding;
mod asking;
mod open;
mod options;
mod passes;
mod ranges;
mod schedule;
mod seen;
mod standalone;

pub use options::{
    ReconcileError, Reconciled, ReconcilerOptions, ReconcilerOptionsBuilder,
    reconciler_options_builder,
};

use super::{
    held::{HeldTask, verdict},
    history::HistoryReader,
    request_error::RequestError,
    resolve::execute,
    server::{ClosedRun, Server},
};
use crate::{
    event::{EventId, EventKey, Execution, LifecycleEvent},
    journal::Held,
    store::{EventStore, FoundByPass},
};
use adding::APPENDED_AT_ONCE;
use asking::server_error;
use open::Open;
use passes::Kind;
use seen::Seen;
use std::{
    fmt,
    future::Future,
    ops::Range,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use temporalio_client::{Client, NamespacedClient as _};
use tokio::time::Interval;
use tracing::{debug, info, warn};

/// Adds to a store the lifecycle events that its workers could not report:
///
/// * `workflow_end` of runs that were terminated, timed out, or failed outside of workflow code;
/// * `workflow_start` of runs that no worker saw begin;
/// * `activity_end` of attempts whose worker died, also of standalone activities.
///
/// It reads the server's histories of closed runs, and asks about open ones. It derives the same event ids as the
/// interceptors, so that both can run at the same time, and each event is stored once. Events that it adds have
/// `detected_by: "reconciler"` in their metadata.
///
/// It can run
///
/// * once: [`run_once`](Self::run_once);
/// * over a time range: [`backfill`](Self::backfill);
/// * in the background of a program: [`run`](Self::run);
/// * in the background of a worker: [`EventStorePlugin::reconcile`](crate::EventStorePlugin::reconcile);
/// * as a Temporal workflow on a schedule: [`register`](Self::register) and [`schedule`](Self::schedule).
///
/// Clones are cheap, and share the rate limit.
///
/// The reconciler does not know which workers have the plugin. If others use the namespace too, set
/// [`task_queue`](ReconcilerOptions::task_queue) or [`filter`](ReconcilerOptions::filter).
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
#[must_use = "a reconciler does nothing until it is run"]
pub struct Reconciler {
    shared: Arc<Shared>,
}

/// What is looked at, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// What closed lately: not again what was looked at, and not what the store no longer keeps.
    Routine,
    /// What closed before, and was not listed then: visibility may show it late.
    Late,
    /// What somebody asked for, all of it.
    Backfill,
}

struct Shared {
    store: EventStore,
    server: Arc<Server>,
    namespace: String,
    options: ReconcilerOptions,
    pace: tokio::sync::Mutex<Option<Interval>>,
    // Runs whose histories were read, and standalone activities that were described.
    runs: Mutex<Seen>,
    standalone: Mutex<Seen>,
    open_runs: Open,
    open_standalone: Open,
}

impl Reconciler {
    /// Creates a reconciler that adds events to `events`. It asks the server of `client` about the client's namespace.
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
                runs: Mutex::default(),
                standalone: Mutex::default(),
                open_runs: Open::default(),
                open_standalone: Open::default(),
            }),
        }
    }

    /// Looks at the runs that closed since the checkpoint, or within [`lookback`](ReconcilerOptions::lookback) if
    /// there is no checkpoint yet. Then moves the checkpoint, which the journal keeps.
    ///
    /// Runs that closed within the last [`grace`](ReconcilerOptions::grace) are left for the next pass. Each pass also
    /// looks at some of the [`open_runs`](ReconcilerOptions::open_runs), and some passes look for runs that visibility
    /// shows [`late`](ReconcilerOptions::late).
    ///
    /// Cancel safe: events that were added stay in the store, and the checkpoint stays at the end of the last complete
    /// window.
    ///
    /// # Errors
    /// Returns a [`ReconcileError`] if the options name a task queue that the server cannot be asked for, if the
    /// server refuses a request or still fails after a few retries, or if the journal fails. Events that were found
    /// until then are in the store.
    pub async fn run_once(&self) -> Result<Reconciled, ReconcileError> {
        self.counted(Box::pin(self.pass())).await
    }

    async fn pass(&self) -> Result<Reconciled, ReconcileError> {
        self.shared.options.check()?;
        let mut found = self.catch_up(Kind::Runs).await?;
        if self.looks_at_standalone() {
            found += self.catch_up(Kind::StandaloneActivities).await?;
            found += self.look_at_open_standalone().await?;
        }
        found += self.look_at_open_runs().await?;
        Ok(found)
    }

    /// Adds what a pass came to to the numbers of the store. A pass is large: boxed, it takes no room on a stack that it is
    /// moved over.
    async fn counted(
        &self,
        pass: impl Future<Output = Result<Reconciled, ReconcileError>>,
    ) -> Result<Reconciled, ReconcileError> {
        let result = pass.await;
        let found = result.as_ref().ok();
        self.shared.store.count_pass(found.map(|found| FoundByPass {
            looked_at: found.runs + found.standalone_activities,
            added: found.added(),
            unreported_ends: found.unreported_ends,
        }));
        result
    }

    /// Looks at the runs that closed within the time range `closed`, and does not move the checkpoint. Use it for the
    /// time before the plugin was installed, or after a journal was lost. It reaches as far back as the namespace's
    /// retention. It also adds events that the store has removed because of their age or for lack of room.
    ///
    /// Cancel safe: events that were added stay in the store.
    ///
    /// # Errors
    /// The same as for [`run_once`](Self::run_once), and [`ReconcileError::EmptyRange`] if the range does not end
    /// after it begins.
    pub async fn backfill(&self, closed: Range<SystemTime>) -> Result<Reconciled, ReconcileError> {
        self.counted(Box::pin(self.fill(closed))).await
    }

    async fn fill(&self, closed: Range<SystemTime>) -> Result<Reconciled, ReconcileError> {
        self.shared.options.check()?;
        if closed.is_empty() {
            return Err(ReconcileError::EmptyRange);
        }
        let mut found = self.reconcile(closed.clone(), Pass::Backfill).await?;
        if self.looks_at_standalone() {
            found += self.reconcile_standalone(closed, Pass::Backfill).await?;
        }
        Ok(found)
    }

    /// Calls [`run_once`](Self::run_once) until `stop` resolves, with a pause of `every` between two passes. Errors
    /// are logged, and the next pass follows after the same pause. Cancel safe.
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

    /// Looks at the runs that closed in a time range.
    async fn reconcile(
        &self,
        closed: Range<SystemTime>,
        pass: Pass,
    ) -> Result<Reconciled, ReconcileError> {
        let shared = &self.shared;
        let query = self.query(Kind::Runs, &closed);
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
                if pass != Pass::Backfill && self.is_done(&run, pass).await? {
                    continue;
                }
                found.runs += 1;
                found.settled += self.settle(&held, &run).await?;
                self.reconcile_run(&run, pass, &mut found).await?;
                self.seen(Kind::Runs).remember(closed_at(&run), &run.run_id);
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    fn execution(&self, run: &ClosedRun) -> Execution {
        Execution {
            namespace: self.shared.namespace.clone(),
            workflow_id: run.workflow_id.clone(),
            run_id: run.run_id.clone(),
        }
    }

    /// Settles what is held of a run, unless a worker of this process looks after it.
    async fn settle(&self, held: &[Held], run: &ClosedRun) -> Result<u64, ReconcileError> {
        let shared = &self.shared;
        let mut settled = 0;
        let execution = self.execution(run);
        for held in held.iter().filter(|held| held.key.execution == execution) {
            let Some((task, claim)) = HeldTask::read(held).zip(shared.store.claim(&held.key))
            else {
                continue;
            };
            let testimony = self
                .request(|| shared.server.testimony(&task.key.execution, &task.evidence))
                .await
                .map_err(server_error)?;
            let verdict = verdict(task.end.as_ref(), &testimony, false);
            execute(&shared.store, &task, &claim, verdict).await;
            settled += u64::from(claim.is_settled());
        }
        Ok(settled)
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
        let execution = self.execution(run);
        let mut reader = HistoryReader::new(&shared.store, execution);
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

    /// Whether a listed run need not be looked at.
    async fn is_done(&self, run: &ClosedRun, pass: Pass) -> Result<bool, ReconcileError> {
        let is_new = {
            let seen = self.seen(Kind::Runs);
            if seen.contains(closed_at(run), &run.run_id) {
                return Ok(true);
            }
            pass == Pass::Routine || seen.is_complete_at(closed_at(run))
        };
        if is_new || !self.has_start_and_end(run).await? {
            return Ok(false);
        }
        // It closed before what this process remembers. Its history was read then, or its worker saw all
        // of it: to read it once more for what may be missing within would be the price of every start.
        self.seen(Kind::Runs).remember(closed_at(run), &run.run_id);
        Ok(true)
    }

    fn seen(&self, kind: Kind) -> MutexGuard<'_, Seen> {
        let seen = match kind {
            Kind::Runs => &self.shared.runs,
            Kind::StandaloneActivities => &self.shared.standalone,
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether both are stored, as far as can be told without the run's history. Ids are derived from the time at
    /// which the run was started. For a run that a reset made, visibility shows another time, so that this is false
    /// and the history is read once without need. An event that is found under a derived id is the right one in any
    /// case.
    async fn has_start_and_end(&self, run: &ClosedRun) -> Result<bool, ReconcileError> {
        let id = |kind: LifecycleEvent| {
            EventId::derive(&EventKey {
                namespace: &self.shared.namespace,
                workflow_id: &run.workflow_id,
                run_id: &run.run_id,
                kind: kind.as_str(),
                time: run.started_at,
                ..EventKey::default()
            })
        };
        let ids = vec![
            id(LifecycleEvent::WorkflowStart),
            id(LifecycleEvent::WorkflowEnd),
        ];
        Ok(self.shared.store.missing(ids).await?.is_empty())
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

fn closed_at(run: &ClosedRun) -> SystemTime {
    run.closed_at.unwrap_or(UNIX_EPOCH)
}
