//! The commit protocol of workflow tasks: **stage** while the task runs, **commit** before its
//! completion is sent, **confirm** when the server's word is known, **recover** what a crash left.
//! Knows activations and completions, and nothing of how interceptors are called.
//!
//! What a task publishes, what it did in local activities and the end that it brings are *held* under one
//! key for each part of an execution of a task, from one outcome of a local activity to the next. They are
//! released when
//!
//! * the run goes on in memory with a later task: the SDK's core evicts a run whose completion the server did
//!   not take (while local activities are under way nothing was completed, and nothing is proven);
//! * an activity begins that only this task can have scheduled;
//! * the run is evicted because the server accepted its end;
//! * nothing of that happens for a moment, and the server's history says so when it is asked.

use super::{
    holding::{Holding, Silence},
    resolve::{Completion, Resolver},
    run::Run,
    stage::{Mode, Staged},
    time::time,
};
use crate::{
    context::WorkerFrame,
    crash_point::{crash_point, is_left_out},
    event::WorkflowState,
    store::EventStore,
};
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use temporalio_common::protos::coresdk::{
    workflow_activation::{
        RemoveFromCache, WorkflowActivation, remove_from_cache::EvictionReason,
        workflow_activation_job::Variant,
    },
    workflow_commands::{WorkflowCommand, workflow_command},
    workflow_completion::{WorkflowActivationCompletion, workflow_activation_completion::Status},
};
use temporalio_sdk::{WorkflowContextView, activities::ActivityInfo};
use tokio::sync::Notify;

/// A task that nothing was heard of for so long is asked for.
const SILENCE: Duration = Duration::from_millis(500);
/// The same while local activities are under way, so that the task goes on; heartbeats of it may have been
/// accepted.
const SILENCE_OF_LOCAL: Duration = Duration::from_secs(10);
/// How often tasks are looked through for silent ones, while there are any that are held.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The runs that one worker has in memory, and what becomes of their events.
pub(super) struct Commit {
    store: EventStore,
    resolver: Arc<Resolver>,
    runs: Mutex<HashMap<String, Slot>>,
    // Something is held of a run that goes on.
    held: Notify,
}

enum Slot {
    /// The activation that starts the run was seen; its interceptor comes next.
    Announced {
        replaying: bool,
        started_event_id: i64,
        now: Option<SystemTime>,
    },
    Running(Arc<Run>),
}

impl Commit {
    pub(super) fn new(store: EventStore, resolver: Arc<Resolver>) -> Self {
        Self {
            store,
            resolver,
            runs: Mutex::default(),
            held: Notify::new(),
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run in memory, if this worker has it.
    pub(super) fn run(&self, run_id: &str) -> Option<Arc<Run>> {
        match self.runs().get(run_id) {
            Some(Slot::Running(run)) => Some(run.clone()),
            _ => None,
        }
    }

    /// An activation is about to reach workflow code, or to evict it.
    pub(super) fn activation(&self, activation: &WorkflowActivation) {
        let started_event_id = i64::from(activation.history_length);
        let now = time(activation.timestamp);
        let mut initializes = false;
        let mut only_queries = true;
        let mut queries = false;
        let mut evicts = None;
        for job in &activation.jobs {
            match &job.variant {
                Some(Variant::RemoveFromCache(eviction)) => evicts = Some(eviction),
                Some(Variant::QueryWorkflow(_)) => queries = true,
                Some(Variant::InitializeWorkflow(_)) => {
                    initializes = true;
                    only_queries = false;
                }
                _ => only_queries = false,
            }
        }
        if let Some(eviction) = evicts {
            self.evict(&activation.run_id, eviction);
            return;
        }
        if initializes {
            let announced = Slot::Announced {
                replaying: activation.is_replaying,
                started_event_id,
                now,
            };
            let earlier = self.runs().insert(activation.run_id.clone(), announced);
            if let Some(Slot::Running(run)) = earlier {
                self.ask(&run);
            }
            return;
        }
        let Some(run) = self.run(&activation.run_id) else {
            return;
        };
        if queries {
            run.queried();
        }
        // A query alone says nothing of where the run stands; what it touches is read-only.
        if only_queries {
            return;
        }
        let goes_on = run.stage().waits_for_local() && !is_left_out("chain");
        for holding in run.take_held_before(started_event_id, goes_on) {
            self.accepted(&holding);
        }
        let resolved: Vec<_> = activation
            .jobs
            .iter()
            .filter_map(|job| match &job.variant {
                Some(Variant::ResolveActivity(resolved)) if resolved.is_local => Some(resolved),
                _ => None,
            })
            .collect();
        run.begin(
            activation.is_replaying,
            started_event_id,
            now,
            resolved
                .iter()
                .map(|resolved| {
                    run.stage()
                        .local_outcome(resolved.seq, resolved.result.as_ref())
                })
                .collect(),
        );
        for resolved in resolved {
            let stage = run.stage();
            stage.resolve_local(&self.store, resolved.seq, resolved.result.as_ref());
        }
    }

    /// The interceptor of a run is being made.
    pub(super) fn adopt(&self, worker: &WorkerFrame, view: &WorkflowContextView) -> Arc<Run> {
        let run = Arc::new(Run::new(&self.store, worker, view, Mode::UntilTaken));
        let mut runs = self.runs();
        if let Some(Slot::Announced {
            replaying,
            started_event_id,
            now,
        }) = runs.get(run.run_id())
        {
            run.begin(*replaying, *started_event_id, *now, Vec::new());
        }
        runs.insert(run.run_id().to_owned(), Slot::Running(run.clone()));
        run
    }

    /// An activity begins. If only the task that is held can have scheduled it, that task was accepted.
    pub(super) fn activity_begins(&self, info: &ActivityInfo) {
        let run = info.workflow_run_id.as_deref().filter(|_| !info.is_local);
        let Some(run) = run.and_then(|run_id| self.run(run_id)) else {
            return;
        };
        for holding in run.take_held_that_scheduled(info.scheduled_time) {
            self.accepted(&holding);
        }
    }

    /// A completion is about to be sent to the server: what is staged becomes durable first.
    pub(super) async fn completion(&self, completion: &WorkflowActivationCompletion) {
        let Some(run) = self.run(&completion.run_id) else {
            return;
        };
        let staged = run.stage().take();
        crash_point("after-stage");
        let Some(Status::Successful(success)) = &completion.status else {
            // The task failed and will be executed again, and will publish all of it again. What earlier
            // activations of it published is held, and is settled when the run is evicted.
            return;
        };
        for command in &success.commands {
            if let Some(workflow_command::Variant::ScheduleLocalActivity(local)) = &command.variant
            {
                run.schedule_local(local);
            }
        }
        let Staged {
            mut lifecycle,
            user: mut with_task,
        } = staged;
        if run.stage().is_replaying() {
            // Only a store that repairs on replay has something here. It is history: true already, and
            // nobody waits for it.
            for draft in lifecycle.into_iter().chain(with_task) {
                drop(self.store.append(draft));
            }
            return;
        }
        let end = success.commands.iter().find_map(terminal_state);
        if let Some(state) = &end
            && self.store.lifecycle().workflow
        {
            with_task.push(run.end(state.clone()));
        }
        let left_out = if end.is_some() { "confirm" } else { "hold" };
        if is_left_out(left_out) {
            lifecycle.append(&mut with_task);
        }
        let holds = run.hold(end, with_task);
        let is_held = !holds.is_empty();
        if is_held || !lifecycle.is_empty() {
            self.store.commit(lifecycle, holds).await;
        }
        if is_held {
            self.held.notify_one();
        }
        crash_point("before-completion");
    }

    fn evict(&self, run_id: &str, eviction: &RemoveFromCache) {
        let Some(Slot::Running(run)) = self.runs().remove(run_id) else {
            return;
        };
        let mut held = run.take_held();
        let Some(last) = held.last() else {
            return;
        };
        crash_point("before-confirm");
        match eviction.reason() {
            // A run that was closed from outside and is replayed for a query may execute what came in
            // before, and then looks as if it had ended just now: the server knows better.
            EvictionReason::WorkflowExecutionEnding
                if last.held.end.is_some() && !last.was_queried =>
            {
                for holding in &held {
                    self.accepted(holding);
                }
            }
            EvictionReason::UnhandledCommand if is_left_out("discard") => {
                held.iter().for_each(|holding| self.accepted(holding));
            }
            EvictionReason::UnhandledCommand => {
                if let Some(last) = held.pop()
                    && last.claim.settle()
                {
                    self.store.discard(last.held.key);
                }
                // What came before may have been accepted with a heartbeat.
                self.resolve(held, Completion::Answered);
            }
            // The SDK evicts before it reports, in these cases.
            EvictionReason::CacheFull
            | EvictionReason::CacheMiss
            | EvictionReason::LangRequested
            | EvictionReason::Unspecified => self.resolve(held, Completion::OnItsWay),
            _ => self.resolve(held, Completion::Answered),
        }
    }

    fn accepted(&self, holding: &Holding) {
        if holding.claim.settle() {
            self.store.release(holding.held.key.clone());
        }
    }

    fn ask(&self, run: &Run) {
        self.resolve(run.take_held(), Completion::OnItsWay);
    }

    fn resolve(&self, held: Vec<Holding>, completion: Completion) {
        let held = held.into_iter().map(|it| (it.held, it.claim)).collect();
        self.resolver.resolve(held, completion);
    }

    /// Asks for tasks of which nothing was heard: a workflow may publish and then sleep for a month. Never
    /// ends.
    pub(super) async fn watch(&self) -> Infallible {
        if is_left_out("watch") {
            return std::future::pending().await;
        }
        loop {
            self.held.notified().await;
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if !self.ask_for_silent_ones() {
                    break;
                }
            }
        }
    }

    /// Whether there are more to look at later.
    fn ask_for_silent_ones(&self) -> bool {
        let running: Vec<Arc<Run>> = self
            .runs()
            .values()
            .filter_map(|slot| match slot {
                Slot::Running(run) => Some(run.clone()),
                Slot::Announced { .. } => None,
            })
            .collect();
        let mut are_left = false;
        for run in running {
            let silence = |goes_on| if goes_on { SILENCE_OF_LOCAL } else { SILENCE };
            let (asked, completion) = match run.silent(silence) {
                Silence::Nothing => continue,
                Silence::NotYet => {
                    are_left = true;
                    continue;
                }
                Silence::Over(asked, true) => (asked, Completion::InMemory),
                Silence::Over(asked, false) => (asked, Completion::OnItsWay),
            };
            if self.resolver.can_ask() {
                self.resolver.resolve(asked, completion);
                continue;
            }
            for (held, claim) in asked {
                // Nobody can be asked. The SDK would have evicted the run by now, had the server not taken
                // the task.
                if completion == Completion::OnItsWay && claim.settle() {
                    self.store.release(held.key);
                }
            }
        }
        are_left
    }

    /// The worker has stopped, or was dropped: tasks for which no eviction came are settled by asking.
    pub(super) fn stopped(&self) {
        let runs: Vec<Slot> = self.runs().drain().map(|(_, slot)| slot).collect();
        for slot in runs {
            if let Slot::Running(run) = slot {
                self.ask(&run);
            }
        }
    }
}

/// The state that a terminal command reports; none for any other command.
fn terminal_state(command: &WorkflowCommand) -> Option<WorkflowState> {
    match command.variant.as_ref()? {
        workflow_command::Variant::CompleteWorkflowExecution(_) => Some(WorkflowState::Completed),
        workflow_command::Variant::FailWorkflowExecution(_) => Some(WorkflowState::Failed),
        workflow_command::Variant::CancelWorkflowExecution(_) => Some(WorkflowState::Cancelled),
        workflow_command::Variant::ContinueAsNewWorkflowExecution(_) => {
            Some(WorkflowState::ContinuedAsNew)
        }
        _ => None,
    }
}
