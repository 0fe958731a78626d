//! The commit protocol of workflow tasks: **stage** while the task runs, **commit** before its
//! completion is sent, **confirm** when the server's word is known, **recover** what a crash left.
//! Knows activations and completions, and nothing of how interceptors are called.

use super::{
    resolve::{Resolver, WhenOpen},
    run::{HeldEnd, Run},
};
use crate::{
    context::WorkerFrame,
    crash_point::{crash_point, is_left_out},
    event::WorkflowState,
    store::{
        EventStore,
        stage::{Mode, Staged},
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use temporalio_common::protos::coresdk::{
    workflow_activation::{
        RemoveFromCache, WorkflowActivation, remove_from_cache::EvictionReason,
        workflow_activation_job::Variant,
    },
    workflow_commands::{WorkflowCommand, workflow_command},
    workflow_completion::{WorkflowActivationCompletion, workflow_activation_completion::Status},
};
use temporalio_sdk::WorkflowContextView;

/// The runs that one worker has in memory, and what becomes of their events.
pub(super) struct Commit {
    store: EventStore,
    resolver: Arc<Resolver>,
    runs: Mutex<HashMap<String, Slot>>,
}

enum Slot {
    /// The activation that starts the run was seen; its interceptor comes next.
    Announced {
        replaying: bool,
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
        let now = activation
            .timestamp
            .and_then(|timestamp| SystemTime::try_from(timestamp).ok());
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
        } else if initializes {
            self.runs().insert(
                activation.run_id.clone(),
                Slot::Announced {
                    replaying: activation.is_replaying,
                    now,
                },
            );
        } else if let Some(run) = self.run(&activation.run_id) {
            if queries {
                run.queried();
            }
            // A query alone says nothing of where the run stands; what it touches is read-only.
            if !only_queries {
                run.begin(activation.is_replaying, now);
            }
        }
    }

    /// The interceptor of a run is being made.
    pub(super) fn adopt(&self, worker: &WorkerFrame, view: &WorkflowContextView) -> Arc<Run> {
        let run = Arc::new(Run::new(&self.store, worker, view, Mode::UntilTaken));
        let mut runs = self.runs();
        if let Some(Slot::Announced { replaying, now }) = runs.get(run.run_id()) {
            run.begin(*replaying, *now);
        }
        runs.insert(run.run_id().to_owned(), Slot::Running(run.clone()));
        run
    }

    /// A completion is about to be sent to the server: what is staged becomes durable first.
    pub(super) async fn completion(&self, completion: &WorkflowActivationCompletion) {
        let Some(run) = self.run(&completion.run_id) else {
            return;
        };
        let staged = run.stage().take();
        crash_point("after-stage");
        let Some(Status::Successful(success)) = &completion.status else {
            // The task failed and will be executed again, and will publish all of it again.
            return;
        };
        let Staged {
            mut lifecycle,
            mut user,
        } = staged;
        if run.stage().is_replaying() {
            // Only a store that repairs on replay has something here. It is history: true already, and
            // nobody waits for it.
            for draft in lifecycle.into_iter().chain(user) {
                drop(self.store.append(draft));
            }
            return;
        }
        let end = success.commands.iter().find_map(terminal_state);
        match end {
            Some(_) if user.is_empty() && !self.store.lifecycle().workflow => {}
            Some(state) => {
                let (held, end) = run.end(state);
                if self.store.lifecycle().workflow {
                    user.push(end);
                }
                // What workflow code published in the task that ends the run is true only if the
                // server accepts the end: it is held with it.
                if is_left_out("confirm") {
                    lifecycle.append(&mut user);
                    self.store.commit(lifecycle, None).await;
                } else {
                    self.store.commit(lifecycle, Some((held.key, user))).await;
                }
            }
            None => {
                lifecycle.append(&mut user);
                if !lifecycle.is_empty() {
                    self.store.commit(lifecycle, None).await;
                }
            }
        }
        crash_point("before-completion");
    }

    fn evict(&self, run_id: &str, eviction: &RemoveFromCache) {
        let Some(Slot::Running(run)) = self.runs().remove(run_id) else {
            return;
        };
        let Some(HeldEnd { key, state }) = run.take_held() else {
            return;
        };
        crash_point("before-confirm");
        match eviction.reason() {
            // A run that was closed from outside and is replayed for a query may execute what came in
            // before, and then looks as if it had ended just now: the server knows better.
            EvictionReason::WorkflowExecutionEnding if run.was_queried_after_end() => {
                self.resolver.resolve(key, state, WhenOpen::Discard);
            }
            EvictionReason::WorkflowExecutionEnding => self.store.release(key),
            EvictionReason::UnhandledCommand | EvictionReason::LangFail => self.store.discard(key),
            _ => self.resolver.resolve(key, state, WhenOpen::Discard),
        }
    }

    /// The worker has stopped: ends for which no eviction came are settled by asking.
    pub(super) fn stopped(&self) {
        for (_, slot) in self.runs().drain() {
            if let Slot::Running(run) = slot
                && let Some(HeldEnd { key, state }) = run.take_held()
            {
                self.resolver.resolve(key, state, WhenOpen::Discard);
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
