//! One workflow run in a worker's cache: who it is, its stage, what its end will say, and what is held of
//! its present workflow task. Plain data that the interceptors share; knows nothing of activations.

use super::{
    held::{HeldTask, Holding},
    payload,
    stage::{self, Mode, ReadOnly, RunIdentity, RunStage},
    task::TaskExecution,
};
use crate::{
    context::{Context, WorkerFrame, WorkflowFrame},
    crash_point::crash_point,
    event::{Event, FailureDetails, LifecycleEvent, WorkflowState, lifecycle},
    journal::{Hold, RunKey},
    store::{
        Claim, EventStore, Outlet, Place,
        publish::{Draft, Identity},
    },
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use temporalio_sdk::WorkflowContextView;
use uuid::Uuid;

/// A run, from the moment a worker has it in memory until it is evicted.
pub(super) struct Run {
    store: EventStore,
    stage: Arc<RunStage>,
    frames: Context,
    start_time: Option<SystemTime>,
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
    task: TaskExecution,
    // When it began, where the workflow's time says so.
    began: Option<SystemTime>,
    failure: Option<FailureDetails>,
    holding: Option<Holding>,
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
        Self {
            frames,
            store: store.clone(),
            stage,
            start_time: view.start_time(),
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

    pub(super) fn run_id(&self) -> &str {
        &self.stage.identity().run_id
    }

    pub(super) fn stage(&self) -> &Arc<RunStage> {
        &self.stage
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

    /// An execution of a workflow task, or a part of it, begins.
    pub(super) fn begin_task(&self, replaying: bool, mut task: TaskExecution) {
        let now = task.first_time;
        self.stage.set_replaying(replaying, now);
        {
            let mut progress = self.progress();
            let earlier = progress.task;
            if earlier.started_event_id != task.started_event_id {
                // The SDK's time never goes back, the server's clock may: then it is not the event's time.
                if earlier.started_event_id > 0 && progress.now >= now {
                    task.first_time = None;
                }
                progress.task = task;
                progress.began = task.first_time;
            }
            if now.is_some() {
                progress.now = now;
            }
        }
        if !replaying && self.owes_start.swap(false, Ordering::Relaxed) {
            self.stage_start(1, false);
        }
    }

    /// The first thing that the task told the workflow is what a local activity came to: the workflow's
    /// time is that of the activity's end.
    pub(super) fn begins_with_local(&self, task: &TaskExecution) {
        let mut progress = self.progress();
        if progress.task == *task {
            progress.began = None;
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

    /// The event that says how the run ended.
    pub(super) fn end(&self, state: WorkflowState) -> Draft {
        let sequence = self.stage.next_sequence();
        let (duration_ms, failure) = {
            let mut progress = self.progress();
            let failure = progress.failure.take();
            (milliseconds(self.start_time, progress.now), failure)
        };
        let failure = failure.filter(|_| state == WorkflowState::Failed);
        let event = lifecycle::workflow_end(state, duration_ms, failure.as_ref());
        self.draft(event, LifecycleEvent::WorkflowEnd, sequence)
    }

    /// Adds events to what is held of the present task, and notes that the task ends the run. Gives what is
    /// to be held; none if that is nothing.
    pub(super) fn hold(
        &self,
        store: &EventStore,
        end: Option<WorkflowState>,
        drafts: Vec<Draft>,
    ) -> Option<Hold<Draft>> {
        let goes_on = self.stage.waits_for_local();
        let mut progress = self.progress();
        let (task, began) = (progress.task, progress.began);
        if progress.holding.is_none() && !drafts.is_empty() {
            let identity = self.stage.identity();
            let key = RunKey {
                namespace: identity.namespace.clone(),
                workflow_id: identity.workflow_id.clone(),
                run_id: identity.run_id.clone(),
                hold_id: Uuid::now_v7(),
            };
            // Nobody has an id that is new.
            let claim = Arc::new(store.claim(&key)?);
            progress.holding = Some(Holding {
                held: HeldTask {
                    key,
                    task,
                    end: None,
                },
                claim,
                silent_since: Instant::now(),
                began,
                goes_on,
                is_asked: false,
                was_queried: false,
            });
        }
        let holding = progress.holding.as_mut()?;
        holding.silent_since = Instant::now();
        holding.goes_on = goes_on;
        holding.held.end = end.or(holding.held.end.take());
        (!drafts.is_empty()).then(|| Hold {
            key: holding.held.key.clone(),
            evidence: holding.held.task.to_string(),
            drafts,
        })
    }

    /// A query reached the run.
    pub(super) fn queried(&self) {
        if let Some(holding) = &mut self.progress().holding {
            holding.was_queried = true;
        }
    }

    /// Takes what is held.
    pub(super) fn take_holding(&self) -> Option<Holding> {
        self.progress().holding.take()
    }

    /// Takes what is held of another task than `task`, which comes later.
    pub(super) fn take_holding_before(&self, task: &TaskExecution) -> Option<Holding> {
        let mut progress = self.progress();
        // Another execution of the same task would have begun with the run's eviction.
        progress
            .holding
            .take_if(|holding| holding.held.task.started_event_id != task.started_event_id)
    }

    /// Takes what is held if an activity that was scheduled then proves that the task was accepted: nobody
    /// else can have scheduled it before another attempt of the task can have begun.
    pub(super) fn take_holding_that_scheduled(
        &self,
        scheduled_at: Option<SystemTime>,
    ) -> Option<Holding> {
        let timeout = self.task_timeout?;
        self.progress().holding.take_if(|holding| {
            let after = holding
                .began
                .zip(scheduled_at)
                .and_then(|(started, scheduled)| scheduled.duration_since(started).ok());
            holding.held.end.is_none() && after.is_some_and(|after| after < timeout)
        })
    }

    /// What is held of a task of which nothing was heard for `silence`; the inner none if that is not over
    /// yet, the outer if there is nothing to wait for.
    pub(super) fn silent_holding(
        &self,
        silence: impl FnOnce(bool) -> Duration,
    ) -> Option<Option<(HeldTask, Arc<Claim>)>> {
        let mut progress = self.progress();
        let holding = progress.holding.as_mut()?;
        // An end is followed by an eviction.
        if holding.is_asked || holding.held.end.is_some() {
            return None;
        }
        if holding.silent_since.elapsed() < silence(holding.goes_on) {
            return Some(None);
        }
        holding.is_asked = true;
        Some(Some((holding.held.clone(), holding.claim.clone())))
    }

    fn draft(&self, mut event: Event, kind: LifecycleEvent, sequence: u64) -> Draft {
        event.metadata.sequence = Some(sequence);
        Draft::new(
            self.store.rules(),
            event,
            self.frames.clone(),
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
