//! The activity interceptor: `activity_start` and `activity_end` for each attempt, and the context
//! stack around activity code. Never delays the start, and waits for the end to be durable before
//! the result goes back to the worker. Knows nothing of workflows' commit protocol.

use super::{failure, payload, run::Run};
use crate::{
    context::{ActivityFrame, Context, WorkerFrame},
    crash_point::crash_point,
    event::{ActivityStatus, Event, FailureDetails, LifecycleEvent, lifecycle},
    store::{
        EventStore, Outlet, Place,
        publish::{Draft, Identity},
    },
};
use futures_util::FutureExt as _;
use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, atomic::AtomicU64},
    time::{Instant, SystemTime},
};
use temporalio_sdk::{
    activities::{ActivityError, ActivityInfo},
    interceptors::{ExecuteActivityInput, ExecuteActivityOutput, ExecuteActivityResult, Next},
};

/// Runs one activity attempt between its two events. A local activity belongs to a workflow task, and
/// has happened only if that is accepted: its events are staged with those of its `run`.
pub(super) fn execute<'a>(
    store: EventStore,
    worker: &WorkerFrame,
    run: Option<Arc<Run>>,
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
    let begun_again = begins_again(info);
    let user = payload::frame(input.headers());
    Box::pin(async move {
        if begun_again.is_some() && store.knows_attempt(&below.push(frame.clone())).await {
            frame.restarted_time = begun_again;
        }
        let mut context = below.push(frame);
        if let Some(user) = user {
            context = context.push(user);
        }
        let scope = context.clone().with_extension(Arc::new(Outlet {
            store: store.clone(),
            place: Place::Attempt(AtomicU64::new(0)),
        }));
        if emits {
            let start = draft(
                &store,
                &context,
                lifecycle::activity_start(),
                LifecycleEvent::ActivityStart,
            );
            match &run {
                Some(run) => run.stage().with_task(start),
                // Not awaited: an activity does not wait for its start to be stored.
                None => drop(store.append(start)),
            }
        }
        let started = Instant::now();
        // `next` runs inside of the scope too: interceptors below may look at the stack at once.
        let attempt = scope.scope(async move { next.run(input).await });
        let outcome = AssertUnwindSafe(attempt).catch_unwind().await;
        crash_point("activity-before-commit");
        if emits {
            let (status, error) = match &outcome {
                Ok(result) => status(&store, result),
                Err(_) => (ActivityStatus::Failed, Some(failure::panicked(&store))),
            };
            let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
            let end = draft(
                &store,
                &context,
                lifecycle::activity_end(status, duration_ms, error.as_ref()),
                LifecycleEvent::ActivityEnd,
            );
            match &run {
                // It is durable before the task's completion is sent, as all that the task did.
                Some(run) => run.stage().with_task(end),
                None => store.commit(vec![end], None).await,
            }
            crash_point("activity-after-commit");
        }
        match outcome {
            Ok(result) => result,
            // The SDK reports a panic as a failure of the attempt; that stays its business.
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// When an attempt began whose number may have been given before: a reset lets an activity count from 1
/// again. The first attempt of one that was neither reset nor paused is scheduled with its activity.
fn begins_again(info: &ActivityInfo) -> Option<SystemTime> {
    let is_first = info.attempt == 1 && info.current_attempt_scheduled_time == info.scheduled_time;
    info.started_time.filter(|_| !is_first && !info.is_local)
}

fn draft(store: &EventStore, context: &Context, event: Event, kind: LifecycleEvent) -> Draft {
    Draft::new(
        store.rules(),
        event,
        context.clone(),
        Identity::Attempt {
            kind: kind.as_str(),
            ordinal: 0,
        },
    )
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
        scheduled_time: info.scheduled_time,
        attempt: info.attempt,
        restarted_time: None,
        is_local: info.is_local,
        traceparent: traceparent.map(Into::into),
    }
}
