//! One workflow run in a worker's cache: who it is, its stage, and what its end will say. Plain data
//! that the interceptors share; knows nothing of activations or of the journal.

use super::payload;
use crate::{
    context::{Context, WorkerFrame, WorkflowFrame},
    crash_point::crash_point,
    event::{Event, FailureDetails, LifecycleEvent, WorkflowState, lifecycle},
    journal::RunKey,
    store::{
        EventStore, Outlet, Place,
        publish::{Draft, Identity},
        stage::{self, Mode, RunIdentity, RunStage},
    },
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use temporalio_sdk::WorkflowContextView;
use uuid::Uuid;

/// A run, from the moment a worker has it in memory until it is evicted.
pub(super) struct Run {
    store: EventStore,
    stage: Arc<RunStage>,
    context: Context,
    read_only: Context,
    start_time: Option<SystemTime>,
    started: AtomicBool,
    // A reset made this run out of another one's history.
    is_reset: bool,
    // Its `workflow_start` is to be staged when the replay is over.
    owes_start: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    // The time of the current workflow task, as the server recorded it.
    now: Option<SystemTime>,
    failure: Option<FailureDetails>,
    held: Option<HeldEnd>,
    // Somebody asked this run a question after its end: it may have been closed before, and is only
    // replayed for the answer. Its eviction then proves nothing.
    #[cfg(feature = "plugin")]
    queried_after_end: bool,
}

/// An end that waits for the server's word.
#[derive(Clone, Debug)]
pub(super) struct HeldEnd {
    pub(super) key: RunKey,
    pub(super) state: WorkflowState,
}

impl Run {
    pub(super) fn new(
        store: &EventStore,
        worker: &WorkerFrame,
        view: &WorkflowContextView,
        mode: Mode,
    ) -> Self {
        let stage = Arc::new(RunStage::new(
            RunIdentity {
                namespace: view.namespace().to_owned(),
                workflow_id: view.workflow_id().to_owned(),
                run_id: view.run_id().to_owned(),
            },
            mode,
            // What a reset run replays at first was executed by another run, and stored for that one.
            store.repairs_on_replay() && !is_reset(view),
        ));
        let headers = &view.raw().headers;
        let mut frames = Context::new()
            .push(worker.clone())
            .push(workflow_frame(view, payload::traceparent(headers)));
        if let Some(user) = payload::frame(headers) {
            frames = frames.push(user);
        }
        let outlet = |place| {
            Arc::new(Outlet {
                store: store.clone(),
                place,
            })
        };
        Self {
            context: frames
                .clone()
                .with_extension(outlet(Place::Workflow(stage.clone()))),
            read_only: frames.with_extension(outlet(Place::ReadOnly)),
            store: store.clone(),
            stage,
            start_time: view.start_time(),
            started: AtomicBool::new(false),
            is_reset: is_reset(view),
            owes_start: AtomicBool::new(false),
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(feature = "plugin")]
    pub(super) fn run_id(&self) -> &str {
        &self.stage.identity().run_id
    }

    pub(super) fn stage(&self) -> &RunStage {
        &self.stage
    }

    /// The stack of run, signal and update code.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// The stack of queries and update validators.
    pub(super) fn read_only_context(&self) -> &Context {
        &self.read_only
    }

    /// A workflow task, or a part of one, begins.
    pub(super) fn begin(&self, replaying: bool, now: Option<SystemTime>) {
        self.stage.set_replaying(replaying, now);
        {
            let mut progress = self.progress();
            if now.is_some() {
                progress.now = now;
            }
        }
        if !replaying && self.owes_start.swap(false, Ordering::Relaxed) {
            self.stage_start(1, false);
        }
    }

    /// Stages `workflow_start`, the first time only.
    pub(super) fn start(&self) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        crash_point("before-stage");
        let sequence = self.stage.next_sequence();
        let replaying = self.stage.is_replaying();
        // A run that a reset made begins with the history of another one: nobody executed its first
        // task under its own id.
        self.owes_start
            .store(replaying && self.is_reset, Ordering::Relaxed);
        self.stage_start(sequence, replaying);
    }

    fn stage_start(&self, sequence: u64, replaying: bool) {
        if !self.store.lifecycle().workflow {
            return;
        }
        self.stage.lifecycle(&self.store, || {
            let mut event = lifecycle::workflow_start();
            if replaying {
                event = stage::repaired(event, self.start_time);
            }
            self.draft(event, LifecycleEvent::WorkflowStart, sequence)
        });
    }

    /// Keeps what `execute` said of a failure, for the end.
    pub(super) fn failed_with(&self, failure: FailureDetails) {
        self.progress().failure = Some(failure);
    }

    /// The end of the run, to be held: its event, and the name under which it is held.
    pub(super) fn end(&self, state: WorkflowState) -> (HeldEnd, Draft) {
        let sequence = self.stage.next_sequence();
        let identity = self.stage.identity();
        let held = HeldEnd {
            key: RunKey {
                namespace: identity.namespace.clone(),
                workflow_id: identity.workflow_id.clone(),
                run_id: identity.run_id.clone(),
                hold_id: Uuid::now_v7(),
            },
            state: state.clone(),
        };
        let (duration_ms, failure) = {
            let mut progress = self.progress();
            let failure = progress.failure.take();
            progress.held = Some(held.clone());
            (milliseconds(self.start_time, progress.now), failure)
        };
        let failure = failure.filter(|_| state == WorkflowState::Failed);
        let event = lifecycle::workflow_end(state, duration_ms, failure.as_ref());
        (
            held,
            self.draft(event, LifecycleEvent::WorkflowEnd, sequence),
        )
    }

    /// A query reached the run.
    #[cfg(feature = "plugin")]
    pub(super) fn queried(&self) {
        let mut progress = self.progress();
        progress.queried_after_end |= progress.held.is_some();
    }

    /// Whether the end may be one that a replay came to, for the sake of a query.
    #[cfg(feature = "plugin")]
    pub(super) fn was_queried_after_end(&self) -> bool {
        self.progress().queried_after_end
    }

    #[cfg(feature = "plugin")]
    /// Takes the end that is held for this run, if one is.
    pub(super) fn take_held(&self) -> Option<HeldEnd> {
        self.progress().held.take()
    }

    fn draft(&self, mut event: Event, kind: LifecycleEvent, sequence: u64) -> Draft {
        event.metadata.sequence = Some(sequence);
        Draft::new(
            self.store.rules(),
            event,
            self.context.clone().without_extension(),
            Identity::Run {
                kind: kind.as_str(),
            },
        )
    }
}

fn is_reset(view: &WorkflowContextView) -> bool {
    let original = &view.raw().original_execution_run_id;
    !original.is_empty() && original != view.run_id()
}

fn milliseconds(from: Option<SystemTime>, to: Option<SystemTime>) -> f64 {
    match (from, to) {
        (Some(from), Some(to)) => {
            to.duration_since(from)
                .unwrap_or(Duration::ZERO)
                .as_secs_f64()
                * 1000.0
        }
        _ => 0.0,
    }
}

fn workflow_frame(view: &WorkflowContextView, traceparent: Option<String>) -> WorkflowFrame {
    let parent = view.parent();
    WorkflowFrame {
        namespace: view.namespace().into(),
        task_queue: Some(view.task_queue().into()),
        workflow_type: view.workflow_type().into(),
        workflow_id: view.workflow_id().into(),
        workflow_run_id: view.run_id().into(),
        workflow_attempt: Some(view.attempt()),
        first_execution_run_id: Some(view.first_execution_run_id().into()),
        continued_from_run_id: view.continued_from_run_id().map(Into::into),
        parent_workflow_id: parent.as_ref().map(|parent| parent.workflow_id().into()),
        parent_run_id: parent.as_ref().map(|parent| parent.run_id().into()),
        root_workflow_id: view
            .raw()
            .root_workflow
            .as_ref()
            .map(|root| root.workflow_id.as_str().into()),
        traceparent: traceparent.map(Into::into),
    }
}
