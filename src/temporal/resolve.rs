//! Tasks whose fate is unknown: ask the server, off the worker's path, and release, correct or discard
//! what is held of them. Knows held tasks and the server, no interceptor.

use super::{
    held::{HeldTask, TaskFate, Testimony, Verdict, is_end, verdict},
    request_error::RequestError,
    server::Server,
};
use crate::{
    crash_point::{crash_point, is_left_out},
    event::{Event, WorkflowState},
    record::Draft,
    said::Said,
    store::{Claim, EventStore},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, info, warn};

/// How many questions may be under way at once.
const CONCURRENT_QUESTIONS: usize = 8;
/// For so long at most a completion may still be on its way, though the server knows nothing of its task.
/// Three times Temporal's default workflow task timeout.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether the completion of a task may still be on its way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// The SDK said that it has its answer, or its process is gone.
    Answered,
    /// Nobody knows.
    OnItsWay,
    /// The run is in memory, and had local activities: its task may have been given out to it anew, so that
    /// only an eviction proves that what it did was not accepted.
    InMemory,
}

/// Settles held tasks with the server's word.
pub(super) struct Resolver {
    store: EventStore,
    server: Arc<Server>,
    slots: Semaphore,
    under_way: AtomicUsize,
    idle: Notify,
    said_unreachable: Said,
}

impl Resolver {
    pub(super) fn new(store: EventStore, server: Arc<Server>) -> Self {
        Self {
            store,
            server,
            slots: Semaphore::new(CONCURRENT_QUESTIONS),
            under_way: AtomicUsize::new(0),
            idle: Notify::new(),
            said_unreachable: Said::default(),
        }
    }

    /// Settles what is held of a run in the background, one after the other, so that it is stored in its
    /// order. Without an answer it stays held, for the next start.
    pub(super) fn resolve(
        self: &Arc<Self>,
        held: Vec<(HeldTask, Arc<Claim>)>,
        completion: Completion,
    ) {
        if held.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.server.is_known() {
            self.say_unreachable(&RequestError::NotConnected);
            return;
        }
        let resolver = self.clone();
        self.under_way.fetch_add(1, Ordering::AcqRel);
        let under_way = UnderWay(resolver.clone());
        runtime.spawn(async move {
            let _under_way = under_way;
            for (held, claim) in held {
                resolver.settle(held, &claim, completion).await;
            }
        });
    }

    /// Whether there is a server to ask.
    pub(super) fn can_ask(&self) -> bool {
        self.server.is_known()
    }

    /// Settles, in the background, what is held in this namespace and nobody looks after: an earlier
    /// process left it, or a worker of this one that was dropped. Call it within a tokio runtime.
    pub(super) fn recover(self: &Arc<Self>, namespace: &str) {
        if is_left_out("recover") {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let resolver = self.clone();
        let namespace = namespace.to_owned();
        // A worker that stops does not wait for this: a journal that is slow is read by the next one.
        runtime.spawn(async move {
            let held = match resolver.store.held().await {
                Ok(held) => held,
                Err(error) => {
                    warn!(%error, "what an earlier worker left held cannot be read");
                    return;
                }
            };
            let left: Vec<_> = held
                .iter()
                .filter(|held| held.key.execution.namespace == namespace)
                .filter_map(|held| {
                    let task = HeldTask::read(held)?;
                    Some((task, resolver.store.claim(&held.key)?))
                })
                .collect();
            if !left.is_empty() {
                info!(
                    tasks = left.len(),
                    "asking the server about workflow tasks that an earlier worker left unconfirmed"
                );
            }
            // In the order of the runs, and of the tasks of each.
            let mut left = left.into_iter().peekable();
            while let Some((task, claim)) = left.next() {
                let execution = task.key.execution.clone();
                let mut of_run = vec![(task, Arc::new(claim))];
                while let Some((task, claim)) =
                    left.next_if(|(task, _)| task.key.execution == execution)
                {
                    of_run.push((task, Arc::new(claim)));
                }
                resolver.resolve(of_run, Completion::Answered);
            }
        });
    }

    /// Waits until nothing is under way, for `timeout` at most.
    pub(super) async fn idle(&self, timeout: Duration) {
        let wait = async {
            loop {
                let notified = self.idle.notified();
                if self.under_way.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        // Time being up is no error: what is left stays held.
        tokio::time::timeout(timeout, wait).await.ok();
    }

    async fn settle(&self, held: HeldTask, claim: &Claim, completion: Completion) {
        let asked_first = Instant::now();
        let mut pause = FIRST_PAUSE;
        while !claim.is_settled() {
            match self.ask(&held).await {
                Ok(testimony) => {
                    crash_point("inside-recovery");
                    let is_patient =
                        completion == Completion::OnItsWay && asked_first.elapsed() < PATIENCE;
                    let verdict = verdict(held.end.as_ref(), &testimony, is_patient);
                    let is_final = match verdict {
                        Verdict::AskAgain => false,
                        Verdict::Release | Verdict::Keep => true,
                        _ => completion != Completion::InMemory,
                    };
                    if is_final {
                        execute(&self.store, &held, claim, verdict).await;
                        return;
                    }
                }
                Err(error) => self.say_unreachable(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, held: &HeldTask) -> Result<Testimony, RequestError> {
        if is_left_out("ask") {
            return Ok(Testimony::Of {
                fate: TaskFate::Accepted,
                closed: held.end.clone(),
            });
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.ok();
        self.server
            .testimony(&held.key.execution, &held.evidence)
            .await
    }

    fn say_unreachable(&self, error: &RequestError) {
        if self.said_unreachable.is_first() {
            warn!(
                %error,
                "the fate of a workflow task is unknown, and the server cannot be asked; \
                 its events stay held until it can"
            );
        } else {
            debug!(%error, "a held workflow task is still unresolved");
        }
    }
}

/// Does what the verdict says, once.
pub(super) async fn execute(store: &EventStore, held: &HeldTask, claim: &Claim, verdict: Verdict) {
    let HeldTask { key, .. } = held;
    match verdict {
        Verdict::AskAgain => {}
        Verdict::Keep => warn!(
            workflow_id = key.execution.workflow_id,
            run_id = key.execution.run_id,
            "the server does not know the run of a held workflow task any more; its events stay held"
        ),
        Verdict::Release if claim.settle() => store.release(key.clone()),
        Verdict::Discard if claim.settle() => {
            debug!(
                workflow_id = key.execution.workflow_id,
                run_id = key.execution.run_id,
                "a workflow task was not accepted, and what was held of it is discarded"
            );
            store.discard(key.clone());
        }
        Verdict::ReleaseWithoutEnd if claim.settle() => {
            replace(store, held, |events| {
                events.into_iter().filter(|event| !is_end(event)).collect()
            })
            .await;
        }
        Verdict::CorrectEnd(actual) if claim.settle() => {
            replace(store, held, |events| {
                let end = events.into_iter().find(is_end);
                end.map(|end| corrected(end, actual)).into_iter().collect()
            })
            .await;
        }
        // Somebody was quicker.
        Verdict::Release
        | Verdict::Discard
        | Verdict::ReleaseWithoutEnd
        | Verdict::CorrectEnd(_) => {}
    }
}

/// Puts what is true of what is held in its place.
async fn replace(
    store: &EventStore,
    task: &HeldTask,
    truth: impl FnOnce(Vec<Event>) -> Vec<Event>,
) {
    let held = match store.held().await {
        Ok(held) => held,
        Err(error) => {
            warn!(%error, "what is held of a workflow task cannot be read and stays held");
            return;
        }
    };
    let Some(held) = held.into_iter().find(|held| held.key == task.key) else {
        return;
    };
    let events = held
        .records
        .iter()
        .filter_map(|json| Event::from_json(json).ok())
        .collect();
    let drafts: Vec<Draft> = truth(events)
        .into_iter()
        .map(|event| Draft::finished(store.rules(), event))
        .collect();
    if drafts.is_empty() {
        store.discard(task.key.clone());
    } else {
        store.replace(task.key.clone(), drafts);
    }
}

/// The server closed the run otherwise than the worker said: its word counts.
fn corrected(mut end: Event, actual: WorkflowState) -> Event {
    end.data
        .insert("status".to_owned(), actual.as_str().to_owned().into());
    end.data.remove("error");
    end.metadata.workflow_state = actual;
    end
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

struct UnderWay(Arc<Resolver>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
