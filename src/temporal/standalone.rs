//! What the server's description of a standalone activity says of its attempts: the same events, with
//! the same ids, that the interceptors would have made of them. Knows neither where descriptions come
//! from nor which events are stored already.

use super::{
    attempt::{self, AttemptEnd, KnownActivity, MAX_EARLIER_ATTEMPTS},
    failure, payload,
    server::StandaloneDescription,
    time::time,
};
use crate::{context::ActivityFrame, event::ActivityStatus, record::Draft, store::EventStore};
use std::time::SystemTime;
use temporalio_common::protos::temporal::api::{
    activity::v1::ActivityExecutionInfo,
    enums::v1::{ActivityExecutionStatus, TimeoutType},
    failure::v1::{Failure, failure::FailureInfo},
};

/// What a description proves of the attempt that it numbers, and of the one before.
#[derive(Debug, Default, PartialEq)]
struct Proof<'a> {
    /// How the last attempt ended, and with which failure.
    last: Option<(ActivityStatus, Option<&'a Failure>)>,
    /// How the one before failed.
    before: Option<&'a Failure>,
}

/// Whether it goes on.
pub(super) fn is_open(info: &ActivityExecutionInfo) -> bool {
    matches!(
        info.status(),
        ActivityExecutionStatus::Running | ActivityExecutionStatus::Paused
    )
}

/// When the last attempt ended that the description knows to have ended.
pub(super) fn ended_at(info: &ActivityExecutionInfo) -> Option<SystemTime> {
    time(info.last_attempt_complete_time)
}

/// The events of the attempts that ended.
pub(super) fn read(
    store: &EventStore,
    namespace: &str,
    description: StandaloneDescription,
) -> Vec<Draft> {
    let StandaloneDescription { info, failure } = description;
    let proof = prove(&info, failure.as_ref());
    let mut activity = known(namespace, &info);
    let last = activity.frame.attempt;
    let started_at = time(info.last_started_time);
    // What completed last is the attempt before, unless that is known of the last one.
    let before_ended_at = match &proof.last {
        Some(_) if !is_running(&info) => started_at,
        _ => ended_at(&info).or(started_at),
    };
    let first = if is_open(&info) {
        // Those before may still be told apart when their turn comes.
        last.saturating_sub(1).max(1)
    } else {
        last.saturating_sub(MAX_EARLIER_ATTEMPTS).max(1)
    };
    let mut drafts = Vec::new();
    for earlier in first..last {
        let end = match proof.before {
            Some(failure) if earlier + 1 == last => {
                AttemptEnd::failed(store, failure, before_ended_at)
            }
            _ if is_open(&info) => continue,
            _ => AttemptEnd::forgotten(before_ended_at),
        };
        drafts.extend(attempt::earlier(store, &activity, earlier, &end));
    }
    if let Some((status, failure)) = proof.last {
        let end = AttemptEnd {
            status,
            failure: failure.map(|failure| failure::recorded(store, failure)),
            at: time(info.close_time),
        };
        activity.frame.attempt = last;
        drafts.extend(attempt::whole(
            store,
            activity,
            started_at,
            info.last_worker_identity,
            &end,
        ));
    }
    drafts
}

/// Whether the attempt that started last was under way when the activity closed, or is. Its end is
/// noted when it fails, completes or times out, and not when the whole activity is given up.
fn is_running(info: &ActivityExecutionInfo) -> bool {
    match (time(info.last_started_time), ended_at(info)) {
        (Some(started), Some(ended)) => started > ended,
        (started, _) => started.is_some(),
    }
}

fn prove<'a>(info: &'a ActivityExecutionInfo, failure: Option<&'a Failure>) -> Proof<'a> {
    let before = info.last_failure.as_ref();
    let last = |status, failure, before| Proof {
        last: Some((status, failure)),
        before,
    };
    match info.status() {
        ActivityExecutionStatus::Completed => last(ActivityStatus::Completed, None, before),
        // The last failure is its own.
        ActivityExecutionStatus::Failed => last(ActivityStatus::Failed, failure, None),
        ActivityExecutionStatus::TimedOut if is_running(info) => {
            last(ActivityStatus::TimedOut, failure, before)
        }
        ActivityExecutionStatus::TimedOut => match (timeout(failure), timeout(before)) {
            (Some(TimeoutType::StartToClose | TimeoutType::Heartbeat), _) => {
                last(ActivityStatus::TimedOut, failure, None)
            }
            // It timed out, and there was no time for another attempt; or the attempt before did, and no
            // worker took this one in time.
            (Some(TimeoutType::ScheduleToClose), Some(_)) if info.attempt > 1 => Proof::default(),
            (Some(TimeoutType::ScheduleToClose), Some(_)) => {
                last(ActivityStatus::TimedOut, before, None)
            }
            _ => Proof { last: None, before },
        },
        // Only its worker can end an attempt that is under way by a cancellation.
        ActivityExecutionStatus::Canceled if is_running(info) => {
            last(ActivityStatus::Cancelled, None, before)
        }
        ActivityExecutionStatus::Terminated if is_running(info) => {
            last(ActivityStatus::Terminated, failure, before)
        }
        // The last attempt never began, or goes on.
        ActivityExecutionStatus::Canceled
        | ActivityExecutionStatus::Terminated
        | ActivityExecutionStatus::Running
        | ActivityExecutionStatus::Paused => Proof { last: None, before },
        ActivityExecutionStatus::Unspecified => Proof::default(),
    }
}

fn timeout(failure: Option<&Failure>) -> Option<TimeoutType> {
    match &failure?.failure_info {
        Some(FailureInfo::TimeoutFailureInfo(info)) => Some(info.timeout_type()),
        _ => None,
    }
}

/// The activity as the interceptors see it. The SDK (1.1.1) does not tell them its run id, so that ids
/// are made without it.
fn known(namespace: &str, info: &ActivityExecutionInfo) -> KnownActivity {
    let none = Default::default();
    let fields = info.header.as_ref().map_or(&none, |header| &header.fields);
    let activity_type = info.activity_type.as_ref();
    KnownActivity {
        frame: ActivityFrame {
            namespace: namespace.into(),
            task_queue: Some(info.task_queue.as_str().into()),
            activity_type: activity_type.map_or("", |kind| kind.name.as_str()).into(),
            activity_id: info.activity_id.as_str().into(),
            scheduled_time: time(info.schedule_time),
            attempt: u32::try_from(info.attempt).unwrap_or_default(),
            traceparent: payload::traceparent(fields).map(Into::into),
            ..ActivityFrame::default()
        },
        user: payload::frame(fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ActivityExecutionStatus::{Canceled, Completed, Failed, Running, Terminated, TimedOut};
    use std::time::{Duration, UNIX_EPOCH};
    use temporalio_common::protos::temporal::api::failure::v1::TimeoutFailureInfo;

    fn timed_out(kind: TimeoutType) -> Failure {
        Failure {
            failure_info: Some(FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo {
                timeout_type: kind.into(),
                ..TimeoutFailureInfo::default()
            })),
            ..Failure::default()
        }
    }

    /// As a server describes it: times are seconds, 0 for none.
    fn described(
        status: ActivityExecutionStatus,
        attempt: i32,
        (started, ended): (u64, u64),
        last_failure: Option<&Failure>,
    ) -> ActivityExecutionInfo {
        let at = |seconds: u64| {
            (seconds > 0).then(|| (UNIX_EPOCH + Duration::from_secs(seconds)).into())
        };
        ActivityExecutionInfo {
            status: status.into(),
            attempt,
            last_started_time: at(started),
            last_attempt_complete_time: at(ended),
            last_failure: last_failure.cloned(),
            ..ActivityExecutionInfo::default()
        }
    }

    #[test]
    fn only_what_a_description_proves_is_told() {
        let too_slow = timed_out(TimeoutType::StartToClose);
        let too_late = timed_out(TimeoutType::ScheduleToClose);
        let nobody = timed_out(TimeoutType::ScheduleToStart);
        let error = Failure::default();
        let (went_on, over) = ((2, 1), (1, 2));
        let told = |status, attempt, times, before: Option<&Failure>, outcome| {
            let info = described(status, attempt, times, before);
            let proof = prove(&info, outcome);
            (proof.last.map(|(status, _)| status), proof.before.is_some())
        };
        let (none, some) = (None, Some(&error));
        for (told, expected) in [
            (
                told(Completed, 1, over, none, none),
                (Some(ActivityStatus::Completed), false),
            ),
            (
                told(Completed, 2, over, some, none),
                (Some(ActivityStatus::Completed), true),
            ),
            // The last failure is that of the last attempt.
            (
                told(Failed, 2, over, some, some),
                (Some(ActivityStatus::Failed), false),
            ),
            (
                told(TimedOut, 2, over, Some(&too_slow), Some(&too_slow)),
                (Some(ActivityStatus::TimedOut), false),
            ),
            // The whole activity took too long while an attempt was under way.
            (
                told(TimedOut, 2, went_on, some, Some(&too_late)),
                (Some(ActivityStatus::TimedOut), true),
            ),
            // An attempt timed out, and there was no time for another.
            (
                told(TimedOut, 1, over, Some(&too_slow), Some(&too_late)),
                (Some(ActivityStatus::TimedOut), false),
            ),
            // The same, or the second attempt waited for a worker: nobody can tell.
            (
                told(TimedOut, 2, over, Some(&too_slow), Some(&too_late)),
                (None, false),
            ),
            // The second attempt waited for a worker.
            (told(TimedOut, 2, over, some, Some(&too_late)), (None, true)),
            (
                told(TimedOut, 1, (0, 0), none, Some(&nobody)),
                (None, false),
            ),
            (
                told(Canceled, 2, went_on, some, some),
                (Some(ActivityStatus::Cancelled), true),
            ),
            (told(Canceled, 2, over, some, some), (None, true)),
            (told(Canceled, 1, (0, 0), none, some), (None, false)),
            (
                told(Terminated, 1, (1, 0), none, some),
                (Some(ActivityStatus::Terminated), false),
            ),
            (told(Terminated, 2, over, some, some), (None, true)),
            (told(Running, 2, went_on, some, none), (None, true)),
        ] {
            assert_eq!(told, expected);
        }
    }
}
