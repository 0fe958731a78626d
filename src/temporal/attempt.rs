//! What the server says of an activity attempt, wherever it says it, as the events that the
//! interceptors would have made of it, under the same ids. Knows neither histories nor descriptions.

use super::failure;
use crate::{
    context::{ActivityFrame, Context, Frame, WorkerFrame},
    event::{ActivityStatus, Event, FailureDetails, lifecycle},
    record::{DETECTED_BY, Draft, utc},
    store::EventStore,
};
use std::time::SystemTime;
use temporalio_common::protos::temporal::api::failure::v1::{Failure, failure::FailureInfo};

/// Of an activity that was tried more often than this, only so many of the last attempts are given:
/// the server says nothing of the others but their number.
pub(super) const MAX_EARLIER_ATTEMPTS: u32 = 1000;

/// An activity, and the user's frame that it was scheduled with.
#[derive(Clone)]
pub(super) struct KnownActivity {
    pub(super) frame: ActivityFrame,
    pub(super) user: Option<Frame>,
}

/// How an attempt ended.
pub(super) struct AttemptEnd {
    pub(super) status: ActivityStatus,
    pub(super) failure: Option<FailureDetails>,
    pub(super) at: Option<SystemTime>,
}

impl AttemptEnd {
    /// It left this failure.
    pub(super) fn failed(store: &EventStore, failure: &Failure, at: Option<SystemTime>) -> Self {
        Self {
            status: ended_in(failure),
            failure: Some(failure::recorded(store, failure)),
            at,
        }
    }

    /// It was followed by another, and the server does not keep how it ended.
    pub(super) fn forgotten(at: Option<SystemTime>) -> Self {
        Self {
            status: ActivityStatus::Unknown,
            failure: None,
            at,
        }
    }
}

/// The end of an attempt that was followed by another. Nobody knows when it began.
pub(super) fn earlier(
    store: &EventStore,
    activity: &KnownActivity,
    attempt: u32,
    end: &AttemptEnd,
) -> Vec<Draft> {
    let mut activity = activity.clone();
    activity.frame.attempt = attempt;
    ends(store, &context(sdk(), activity), end, None)
}

/// Start and end of an attempt whose start is known.
pub(super) fn whole(
    store: &EventStore,
    activity: KnownActivity,
    started_at: Option<SystemTime>,
    worker_identity: String,
    end: &AttemptEnd,
) -> Vec<Draft> {
    let worker = WorkerFrame {
        worker_identity: Some(worker_identity)
            .filter(|identity| !identity.is_empty())
            .map(Into::into),
        ..sdk()
    };
    let context = context(worker, activity);
    let start = draft(
        store,
        context.clone(),
        lifecycle::activity_start(),
        started_at,
    );
    let duration_ms = milliseconds(started_at, end.at).unwrap_or_default();
    let mut drafts = vec![start];
    drafts.extend(ends(store, &context, end, Some(duration_ms)));
    drafts
        .into_iter()
        .map(|draft| draft.of_attempt_begun_at(started_at))
        .collect()
}

/// What an attempt's end is in the store: its `activity_end`; or, where its code left the completion to
/// others and the store has that as its end, its `activity_async_end`. Which, only the store knows.
fn ends(
    store: &EventStore,
    context: &Context,
    end: &AttemptEnd,
    duration_ms: Option<f64>,
) -> Vec<Draft> {
    let failure = end.failure.as_ref();
    let duration = duration_ms.unwrap_or_default();
    let mut drafts = Vec::new();
    let mut push = |mut event: Event| {
        if duration_ms.is_none() {
            event.data.remove("duration_ms");
        }
        drafts.push(draft(store, context.clone(), event, end.at));
    };
    push(lifecycle::activity_end(end.status, duration, failure));
    if end.status != ActivityStatus::Unknown {
        push(lifecycle::activity_async_end(end.status, duration, failure));
    }
    drafts
}

/// An event that the server's word proves.
pub(super) fn draft(
    store: &EventStore,
    context: Context,
    event: Event,
    at: Option<SystemTime>,
) -> Draft {
    let mut event = event.metadata(DETECTED_BY, "reconciler");
    event.metadata.created_at = at.and_then(utc);
    Draft::lifecycle(store.rules(), event, context)
}

/// What is known of a worker that is not asked.
pub(super) fn sdk() -> WorkerFrame {
    WorkerFrame {
        sdk_version: Some(super::SDK_VERSION.into()),
        ..WorkerFrame::default()
    }
}

pub(super) fn context(worker: WorkerFrame, activity: KnownActivity) -> Context {
    let context = Context::new().push(worker).push(activity.frame);
    match activity.user {
        Some(user) => context.push(user),
        None => context,
    }
}

/// How an attempt ended that left this failure.
pub(super) fn ended_in(failure: &Failure) -> ActivityStatus {
    match &failure::innermost(failure).failure_info {
        Some(FailureInfo::TimeoutFailureInfo(_)) => ActivityStatus::TimedOut,
        Some(FailureInfo::CanceledFailureInfo(_)) => ActivityStatus::Cancelled,
        _ => ActivityStatus::Failed,
    }
}

pub(super) fn milliseconds(from: Option<SystemTime>, to: Option<SystemTime>) -> Option<f64> {
    let duration = to?.duration_since(from?).ok()?;
    Some(duration.as_secs_f64() * 1000.0)
}
