//! One workflow run in a worker's cache: who it is, its stage, what its end will say, and what is held of
//! its present workflow task. Plain data that the interceptors share; knows nothing of activations.

use super::{
    holding::{Holding, Holdings, Silence},
    payload,
    stage::{self, Mode, ReadOnly, RunStage},
    started,
    task::LocalOutcome,
    time::time,
};
use crate::{
    context::{Context, WorkerFrame, WorkflowFrame},
    crash_point::crash_point,
    event::{Event, Execution, FailureDetails, WorkflowState, lifecycle},
    journal::{Hold, HoldKey},
    record::Draft,
    store::{EventStore, Outlet, Place},
};
use serde_json::{Map, Value};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use temporalio_common::protos::coresdk::workflow_commands::ScheduleLocalActivity;
use temporalio_sdk::WorkflowContextView;
use uuid::Uuid;

/// A run, from the moment a worker has it in memory until it is evicted.
pub(super) struct Run {
    store: EventStore,
    stage: Arc<RunStage>,
    frames: Context,
    start_time: Option<SystemTime>,
    // What its start and its end say of how it was started.
    started_with: Map<String, Value>,
    started: AtomicBool,
    // A reset made this run out of another one's history.
    is_reset: bool,
    // Its `workflow_start` is to be staged when the replay is over.
    owes_start: AtomicBool,
    // An activity that was scheduled so long after a task had begun may have been scheduled by the next.
    task_timeout: Option<Duration>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    // The time of the current workflow task, as the server recorded it.
    now: Option<SystemTime>,
    failure: Option<FailureDetails>,
    holdings: Holdings,
}

impl Run {
    pub(super) fn new(
        store: &EventStore,
        worker: &WorkerFrame,
        view: &WorkflowContextView,
        mode: Mode,
    ) -> Self {
        let execution = Execution {
            namespace: view.namespace().to_owned(),
            workflow_id: view.workflow_id().to_owned(),
            run_id: view.run_id().to_owned(),
        };
        // What a reset run replays at first was executed by another run, and stored for that one.
        let repairs = store.repairs_on_replay() && !is_reset(view);
        let headers = &view.raw().headers;
        let mut frames = Context::new()
            .push(worker.clone())
            .push(workflow_frame(view, payload::traceparent(headers)));
        if let Some(user) = payload::frame(headers) {
            frames = frames.push(user);
        }
        let started_with = if store.lifecycle().workflow {
            let raw = view.raw();
            started::fields(store, raw.search_attributes.as_ref(), raw.memo.as_ref())
        } else {
            Map::new()
        };
        let stage = Arc::new(RunStage::new(execution, view.start_time(), mode, repairs));
        Self {
            frames,
            store: store.clone(),
            stage,
            start_time: view.start_time(),
            started_with,
            started: AtomicBool::new(false),
            is_reset: is_reset(view),
            owes_start: AtomicBool::new(false),
            task_timeout: view
                .raw()
                .workflow_task_timeout
                .and_then(|timeout| Duration::try_from(timeout).ok()),
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the run was started, as its history has it.
    pub(super) fn start_time(&self) -> Option<SystemTime> {
        self.start_time
    }

    pub(super) fn run_id(&self) -> &str {
        &self.stage.execution().run_id
    }

    pub(super) fn stage(&self) -> &Arc<RunStage> {
        &self.stage
    }

    /// When workflow code schedules a local activity, by the clock of this worker: what the SDK's core would
    /// say a moment later, and history has in the marker. A replay does not compare it.
    pub(super) fn schedules_local_at(&self) -> SystemTime {
        self.progress().holdings.schedule_local()
    }

    /// A local activity that workflow code scheduled is known to the SDK's core next.
    pub(super) fn schedule_local(&self, command: &ScheduleLocalActivity) {
        let scheduled_at = time(command.original_schedule_time);
        let scheduled_at = self.progress().holdings.time_of_local(scheduled_at);
        self.stage.schedule_local(command, scheduled_at);
    }

    fn at(&self, place: Arc<dyn Place>) -> Context {
        let outlet = Outlet::new(&self.store, place, &Context::current());
        self.frames.clone().with_extension(outlet)
    }

    /// The stack of run, signal and update code, called from the code that runs now.
    pub(super) fn context(&self) -> Context {
        self.at(self.stage.clone())
    }

    /// The stack of queries and update validators, called from the code that runs now.
    pub(super) fn read_only_context(&self) -> Context {
        self.at(Arc::new(ReadOnly))
    }

    /// An activation begins, of the task with this id, at this time of the workflow. It tells
    /// what the local activities with these numbers came to.
    pub(super) fn begin(
        &self,
        replaying: bool,
        started_event_id: i64,
        now: Option<SystemTime>,
        local_outcomes: Vec<LocalOutcome>,
    ) {
        self.stage.set_replaying(replaying, now);
        {
            let mut progress = self.progress();
            progress
                .holdings
                .begin(started_event_id, now, local_outcomes);
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
            event.data.clone_from(&self.started_with);
            if replaying {
                event = stage::repaired(event, self.start_time);
            }
            self.draft(event, sequence)
        });
    }

    /// Keeps what `execute` said of a failure, for the end.
    pub(super) fn failed_with(&self, failure: FailureDetails) {
        self.progress().failure = Some(failure);
    }

    /// The event that says how the run ended.
    pub(super) fn end(&self, state: WorkflowState) -> Draft {
        let sequence = self.stage.next_sequence();
        let (duration_ms, failure) = {
            let mut progress = self.progress();
            let failure = progress.failure.take();
            (milliseconds(self.start_time, progress.now), failure)
        };
        let failure = failure.filter(|_| state == WorkflowState::Failed);
        let mut event = lifecycle::workflow_end(state, duration_ms, failure.as_ref());
        event.data.extend(self.started_with.clone());
        self.draft(event, sequence)
    }

    /// Adds events to what is held of the present task, and notes how the task ends the run. Gives what the
    /// journal is to be told.
    pub(super) fn hold(&self, end: Option<WorkflowState>, drafts: Vec<Draft>) -> Vec<Hold> {
        let goes_on = self.stage.waits_for_local();
        let execution = self.stage.execution();
        let key = || HoldKey {
            execution: execution.clone(),
            hold_id: Uuid::now_v7(),
        };
        let mut progress = self.progress();
        progress
            .holdings
            .hold(&self.store, key, goes_on, end, drafts)
    }

    /// A query reached the run.
    pub(super) fn queried(&self) {
        self.progress().holdings.queried();
    }

    /// Takes what is held.
    pub(super) fn take_held(&self) -> Vec<Holding> {
        self.progress().holdings.take()
    }

    /// Takes what is held if an activation of another task proves it; not while local activities are under
    /// way.
    pub(super) fn take_held_before(&self, started_event_id: i64, goes_on: bool) -> Vec<Holding> {
        self.progress()
            .holdings
            .take_before(started_event_id, goes_on)
    }

    /// Takes what is held if an activity that was scheduled then proves it.
    pub(super) fn take_held_that_scheduled(
        &self,
        scheduled_at: Option<SystemTime>,
    ) -> Vec<Holding> {
        let Some(timeout) = self.task_timeout else {
            return Vec::new();
        };
        let mut progress = self.progress();
        progress.holdings.take_that_scheduled(scheduled_at, timeout)
    }

    /// What is to be asked when nothing was heard of the run for `silence`.
    pub(super) fn silent(&self, silence: impl FnOnce(bool) -> Duration) -> Silence {
        self.progress().holdings.silent(silence)
    }

    fn draft(&self, mut event: Event, sequence: u64) -> Draft {
        event.metadata.sequence = Some(sequence);
        Draft::lifecycle(self.store.rules(), event, self.frames.clone())
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
        start_time: view.start_time(),
    }
}
