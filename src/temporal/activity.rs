//! The activity interceptor: `activity_start` and `activity_end` for each attempt, and the context
//! stack around activity code. Never delays the start, and waits for the end, and for what the code
//! published, to be durable before the result goes back to the worker. Knows nothing of workflows' commit
//! protocol.

use super::{
    failure, local::AttemptName, local_attempt::LocalAttempt, payload, run::Run, stage::RunStage,
};
use crate::{
    context::{ActivityFrame, Context, WorkerFrame},
    crash_point::{crash_point, is_left_out},
    event::{ActivityStatus, Event, FailureDetails, lifecycle},
    record::{Draft, Identity},
    store::{EventStore, Outlet, Place, Receipt},
};
use futures_util::FutureExt as _;
use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};
use temporalio_sdk::{
    activities::{ActivityError, ActivityInfo},
    interceptors::{ExecuteActivityInput, ExecuteActivityOutput, ExecuteActivityResult, Next},
};

/// Where the events of an attempt wait.
pub(super) enum Staging {
    /// Nowhere: they are true when they happen. Of a local activity, when its run was started.
    None(Option<SystemTime>),
    /// With the run that runs a local activity: the attempt has happened only if a workflow task that knows
    /// its outcome is accepted.
    With(Arc<Run>),
    /// The run of a local activity has left this worker: no task will ever know of the attempt.
    Forgotten,
}

/// Activity code that is not local, as a place to publish from; with the number of events that it
/// published.
#[derive(Default)]
struct Attempt(AtomicU64);

impl Place for Attempt {
    fn publish(
        &self,
        store: &EventStore,
        _is_own: bool,
        event: Event,
        context: Context,
    ) -> Receipt {
        let ordinal = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        store.append(Draft::published(
            store.rules(),
            event,
            context.without_extension(),
            Identity::Attempt {
                kind: "user",
                ordinal,
            },
        ))
    }
}

/// The events of an attempt, and where they go.
enum Events {
    AtOnce(Arc<Attempt>),
    Staged(Arc<RunStage>, AttemptName),
    Nowhere,
}

/// Runs one activity attempt between its two events.
pub(super) fn execute<'a>(
    store: EventStore,
    worker: &WorkerFrame,
    staging: Staging,
    input: ExecuteActivityInput,
    next: Next<'a, ExecuteActivityInput, ExecuteActivityOutput<'a>>,
) -> ExecuteActivityOutput<'a> {
    let info = input.activity_info();
    let selection = store.lifecycle();
    let emits = if info.is_local {
        selection.local_activity
    } else {
        selection.activity
    };
    let below = Context::new().push(worker.clone());
    let mut frame = frame(info, payload::traceparent(input.headers()));
    frame.workflow_start_time = match &staging {
        Staging::None(run_started) => *run_started,
        Staging::With(run) => run.start_time(),
        Staging::Forgotten => None,
    };
    let begun_again = begins_again(info);
    let user = payload::frame(input.headers());
    let around = Context::current();
    Box::pin(async move {
        if begun_again.is_some() && store.knows_attempt(&below.push(frame.clone())).await {
            frame.restarted_time = begun_again;
        }
        let mut context = below.push(frame);
        if let Some(user) = user {
            context = context.push(user);
        }
        let start = emits.then(|| {
            let event = lifecycle::activity_start();
            Draft::lifecycle(store.rules(), event, context.clone())
        });
        let (events, place) = begin(&store, &context, staging, start);
        let outlet = Outlet::new(&store, place, &around);
        let scope = context.clone().with_extension(outlet);
        let started = Instant::now();
        // `next` runs inside of the scope too: interceptors below may look at the stack at once.
        let attempt = scope.scope(async move { next.run(input).await });
        let outcome = AssertUnwindSafe(attempt).catch_unwind().await;
        crash_point("activity-before-commit");
        let end = emits.then(|| {
            let (status, error) = match &outcome {
                Ok(result) => status(&store, result),
                Err(_) => (ActivityStatus::Failed, Some(failure::panicked(&store))),
            };
            let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
            let event = lifecycle::activity_end(status, duration_ms, error.as_ref());
            let draft = Draft::lifecycle(store.rules(), event, context.clone());
            (status, draft)
        });
        match (events, end) {
            (Events::AtOnce(attempt), end) => {
                let end: Vec<Draft> = end.into_iter().map(|(_, end)| end).collect();
                // Also without an end: what the code published is durable before its result.
                let published = attempt.0.load(Ordering::Relaxed) > 0;
                if !end.is_empty() || (published && !is_left_out("activity-wait")) {
                    store.commit(end, Vec::new()).await;
                }
            }
            // It is durable before the completion of the task is sent that is told of it.
            (Events::Staged(stage, name), Some((status, end))) => {
                stage.end_local(name, status, end);
            }
            (Events::Staged(..), None) | (Events::Nowhere, _) => {}
        }
        crash_point("activity-after-commit");
        match outcome {
            Ok(result) => result,
            // The SDK reports a panic as a failure of the attempt; that stays its business.
            Err(panic) => resume_unwind(panic),
        }
    })
}

fn begin(
    store: &EventStore,
    context: &Context,
    staging: Staging,
    start: Option<Draft>,
) -> (Events, Arc<dyn Place>) {
    let staging = if is_left_out("local") {
        Staging::None(None)
    } else {
        staging
    };
    let stage = match staging {
        Staging::None(_) => {
            // Not awaited: an activity does not wait for its start to be stored.
            drop(start.map(|start| store.append(start)));
            let attempt = Arc::<Attempt>::default();
            return (Events::AtOnce(attempt.clone()), attempt);
        }
        Staging::With(run) => Some(run.stage().clone()),
        Staging::Forgotten => None,
    };
    let name = stage
        .as_ref()
        .and_then(|stage| stage.begin_local(context, start));
    let waiting = stage.zip(name);
    let place = Arc::new(LocalAttempt::new(waiting.clone()));
    match waiting {
        Some((stage, name)) => (Events::Staged(stage, name), place),
        None => (Events::Nowhere, place),
    }
}

/// When an attempt began whose number may have been given before: a reset lets an activity count from 1
/// again. The first attempt of one that was neither reset nor paused is scheduled with its activity.
fn begins_again(info: &ActivityInfo) -> Option<SystemTime> {
    let is_first = info.attempt == 1 && info.current_attempt_scheduled_time == info.scheduled_time;
    info.started_time.filter(|_| !is_first && !info.is_local)
}

fn status(
    store: &EventStore,
    result: &ExecuteActivityResult,
) -> (ActivityStatus, Option<FailureDetails>) {
    match result {
        Ok(_) => (ActivityStatus::Completed, None),
        Err(ActivityError::Cancelled { .. }) => (ActivityStatus::Cancelled, None),
        Err(ActivityError::WillCompleteAsync) => (ActivityStatus::WillCompleteAsync, None),
        Err(ActivityError::Application(error)) => (
            ActivityStatus::Failed,
            Some(failure::application(store, error)),
        ),
        Err(_) => (ActivityStatus::Failed, None),
    }
}

fn frame(info: &ActivityInfo, traceparent: Option<String>) -> ActivityFrame {
    // The SDK hands a standalone activity empty texts for the workflow that it does not have, and
    // (1.1.1) keeps its run id to itself for that reason.
    let text = |value: &Option<String>| {
        value
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(Into::into)
    };
    ActivityFrame {
        namespace: info.namespace.as_str().into(),
        task_queue: Some(info.task_queue.as_str().into()),
        workflow_type: text(&info.workflow_type),
        workflow_id: text(&info.workflow_id),
        workflow_run_id: text(&info.workflow_run_id),
        activity_type: info.activity_type.as_str().into(),
        activity_id: info.activity_id.as_str().into(),
        activity_run_id: text(&info.activity_run_id),
        workflow_start_time: None,
        scheduled_time: info.scheduled_time,
        attempt: info.attempt,
        restarted_time: None,
        is_local: info.is_local,
        traceparent: traceparent.map(Into::into),
    }
}
