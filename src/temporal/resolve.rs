//! Ends whose fate is unknown: ask the server, off the worker's path, and release, correct or
//! discard what is held. Knows held ends and the server, no interceptor.

use super::server::{RequestError, RunStatus, Server};
use crate::{
    crash_point::crash_point,
    event::{Event, LifecycleEvent, WorkflowState},
    journal::RunKey,
    store::{EventStore, publish::Draft},
};
use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, info, warn};

/// How many questions may be under way at once.
const CONCURRENT_QUESTIONS: usize = 8;
/// While the server says that a worker has a task of the run, a completion may still be on its way;
/// for this long at most the end stays held. Three times Temporal's default workflow task timeout.
const TASK_PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What an open run means for a held end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenOpen {
    /// The end was not accepted: discard it.
    Discard,
    /// The completion may not even have been sent: go on asking.
    AskAgain,
}

/// Settles held ends with the server's word.
pub(super) struct Resolver {
    store: EventStore,
    server: Arc<Server>,
    slots: Semaphore,
    under_way: AtomicUsize,
    idle: Notify,
    said_unreachable: Once,
}

impl Resolver {
    pub(super) fn new(store: EventStore, server: Arc<Server>) -> Self {
        Self {
            store,
            server,
            slots: Semaphore::new(CONCURRENT_QUESTIONS),
            under_way: AtomicUsize::new(0),
            idle: Notify::new(),
            said_unreachable: Once::new(),
        }
    }

    /// Settles one held end in the background. Without an answer it stays held, for the next start.
    pub(super) fn resolve(
        self: &Arc<Self>,
        key: RunKey,
        state: WorkflowState,
        when_open: WhenOpen,
    ) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.server.is_known() {
            self.say_unreachable(&RequestError::NotConnected);
            return;
        }
        let resolver = self.clone();
        self.under_way.fetch_add(1, Ordering::AcqRel);
        runtime.spawn(async move {
            let _under_way = UnderWay(&resolver);
            resolver.settle(key, state, when_open).await;
        });
    }

    /// Settles the ends that an earlier process of this namespace left.
    pub(super) fn recover(self: &Arc<Self>, namespace: &str) {
        let leftovers = self.store.take_leftovers(namespace);
        if !leftovers.is_empty() {
            info!(
                ends = leftovers.len(),
                "asking the server about workflow ends that an earlier worker left unconfirmed"
            );
        }
        for leftover in leftovers {
            let state = held_state(&leftover.records);
            self.resolve(leftover.key, state, WhenOpen::Discard);
        }
    }

    #[cfg(feature = "plugin")]
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

    async fn settle(&self, key: RunKey, state: WorkflowState, when_open: WhenOpen) {
        let asked_first = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.ask(&key).await;
            crash_point("inside-recovery");
            match answer {
                Ok(RunStatus::Closed(actual)) if actual == state => {
                    self.store.release(key);
                    return;
                }
                Ok(RunStatus::Closed(actual)) => {
                    self.correct(key, state, actual).await;
                    return;
                }
                Ok(RunStatus::Gone) => {
                    warn!(
                        workflow_id = key.workflow_id,
                        run_id = key.run_id,
                        "the server does not know the run of a held workflow end any more; \
                         the end stays held"
                    );
                    return;
                }
                Ok(RunStatus::Open { task_started }) => {
                    let wait = when_open == WhenOpen::AskAgain
                        || (task_started && asked_first.elapsed() < TASK_PATIENCE);
                    if !wait {
                        debug!(
                            workflow_id = key.workflow_id,
                            run_id = key.run_id,
                            "a workflow end was not accepted and is discarded: the run goes on"
                        );
                        self.store.discard(key);
                        return;
                    }
                }
                Err(error) => self.say_unreachable(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask(&self, key: &RunKey) -> Result<RunStatus, RequestError> {
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await.ok();
        self.server
            .describe(&key.namespace, &key.workflow_id, &key.run_id)
            .await
    }

    /// The server closed the run otherwise than the worker said: its word counts. What workflow code
    /// published in that task was not accepted either.
    async fn correct(&self, key: RunKey, state: WorkflowState, actual: WorkflowState) {
        let held = match self.store.held().await {
            Ok(held) => held,
            Err(error) => {
                warn!(%error, "a held workflow end cannot be read and stays held");
                return;
            }
        };
        let Some(run) = held.into_iter().find(|run| run.key == key) else {
            return;
        };
        let Some(mut end) = find_end(&run.records) else {
            // No end to correct: only what workflow code published, or an end that a filter made
            // something else of. It is true if nothing is known to contradict it.
            if state == WorkflowState::Unknown {
                self.store.release(key);
            } else {
                self.store.discard(key);
            }
            return;
        };
        end.data
            .insert("status".to_owned(), actual.as_str().to_owned().into());
        end.data.remove("error");
        end.metadata.workflow_state = actual;
        let draft = Draft::finished(self.store.rules(), end);
        self.store.replace(key, vec![draft]);
    }

    fn say_unreachable(&self, error: &RequestError) {
        let mut said = false;
        self.said_unreachable.call_once(|| {
            said = true;
            warn!(
                %error,
                "the fate of a workflow end is unknown, and the server cannot be asked; \
                 the end stays held until it can"
            );
        });
        if !said {
            debug!(%error, "a held workflow end is still unresolved");
        }
    }
}

/// The `workflow_end` among what is held of a run: it was put there last.
fn find_end(records: &[String]) -> Option<Event> {
    records
        .iter()
        .rev()
        .filter_map(|json| Event::from_json(json).ok())
        .find(|event| {
            event.is_lifecycle() && event.event_name == LifecycleEvent::WorkflowEnd.as_str()
        })
}

/// The outcome that a held end reports.
pub(super) fn held_state(records: &[String]) -> WorkflowState {
    find_end(records).map_or(WorkflowState::Unknown, |end| end.metadata.workflow_state)
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

struct UnderWay<'a>(&'a Resolver);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}
