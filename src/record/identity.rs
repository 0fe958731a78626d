//! How events get their ids: derived from what is known about a run or an attempt, so that everybody who observes
//! the same thing derives the same id. [`crate::event::EventKey`] says what goes into an id.

use crate::{
    context::Context,
    event::{EventId, EventKey, LifecycleEvent},
};
use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use std::time::SystemTime;

/// How an event gets its id.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// Outside of any context: a random id, unless the event has one already.
    Random,
    /// An event of the activity attempt on the stack.
    Attempt {
        /// The lifecycle event's name, or `user`.
        kind: &'static str,
        /// The number of a user event in the attempt, from 1, in the order of the calls; 0 for other events.
        ordinal: u64,
    },
    /// A lifecycle event of the workflow run on the stack.
    Run {
        /// The lifecycle event's name.
        kind: &'static str,
    },
    /// An id that is derived already.
    Known(EventId),
}

impl Identity {
    /// How the lifecycle event of this name gets its id: from the run, or the attempt, that it is about.
    pub(super) fn of_lifecycle(event_name: &str) -> Self {
        let Some(event) = LifecycleEvent::from_name(event_name) else {
            return Self::Random;
        };
        let kind = event.as_str();
        match event {
            LifecycleEvent::WorkflowStart | LifecycleEvent::WorkflowEnd => Self::Run { kind },
            LifecycleEvent::ActivityStart
            | LifecycleEvent::ActivityEnd
            | LifecycleEvent::ActivityAsyncEnd => Self::Attempt { kind, ordinal: 0 },
            LifecycleEvent::WorkerStart
            | LifecycleEvent::WorkerEnd
            | LifecycleEvent::ApplicationStart
            | LifecycleEvent::ApplicationEnd
            | LifecycleEvent::TokenRefresh => Self::Random,
        }
    }
}

/// Returns the id of a lifecycle event of a run. The reconciler derives the same from history.
pub(super) fn run_event_id(context: &Context, kind: &str) -> Option<EventId> {
    let workflow = context.workflow()?;
    Some(EventId::derive(&EventKey {
        namespace: &workflow.namespace,
        workflow_id: &workflow.workflow_id,
        run_id: &workflow.workflow_run_id,
        kind,
        activity_id: "",
        attempt: 0,
        ordinal: 0,
        time: workflow.start_time,
    }))
}

/// Returns the id of an event of an activity attempt. A local activity that is executed again with its workflow
/// task gets the same id.
pub(super) fn attempt_event_id(context: &Context, kind: &str, ordinal: u64) -> Option<EventId> {
    let activity = context.activity()?;
    let run_id = activity
        .workflow_run_id
        .as_deref()
        .or(activity.activity_run_id.as_deref());
    // An activity id may be used again once its activity is over, also within a run; the time at which
    // it was scheduled, which the server keeps and tells each attempt, tells them apart.
    let text = |time| utc(time).map(|time| time.to_rfc3339_opts(SecondsFormat::Nanos, true));
    let scheduled = activity.scheduled_time.and_then(text).unwrap_or_default();
    // A local activity that is executed again with its workflow task has another time, and must keep its
    // id. Without one of the user's, that is its position among the run's activities: when the task is
    // executed again with other inputs, another activity may have it.
    let name = if activity.is_local {
        format!("{}/{}", activity.activity_type, activity.activity_id)
    } else if let Some(began) = activity.restarted_time.and_then(text) {
        // After a reset of the activity, two attempts have one number.
        format!("{}@{scheduled}/{began}", activity.activity_id)
    } else {
        format!("{}@{scheduled}", activity.activity_id)
    };
    Some(EventId::derive(&EventKey {
        namespace: &activity.namespace,
        workflow_id: activity.workflow_id.as_deref().unwrap_or_default(),
        run_id: run_id.unwrap_or_default(),
        kind,
        activity_id: &name,
        attempt: activity.attempt,
        ordinal,
        time: if activity.is_local {
            activity.workflow_start_time
        } else {
            activity.scheduled_time
        },
    }))
}

/// Converts a time to the form that events have; none if no calendar has it, as in a broken history.
pub(crate) fn utc(time: SystemTime) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).ok()?.checked_neg()?;
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanoseconds => (seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds),
            }
        }
    };
    DateTime::from_timestamp(seconds, nanoseconds).filter(|time| (0..=9999).contains(&time.year()))
}

/// Returns the ids of the first events of an attempt: if one of them is stored, the attempt is known.
pub(crate) fn ids_of_attempt(context: &Context) -> Vec<EventId> {
    let kinds = [
        (LifecycleEvent::ActivityStart.as_str(), 0),
        (LifecycleEvent::ActivityEnd.as_str(), 0),
        // The first event of its code.
        ("user", 1),
    ];
    kinds
        .into_iter()
        .filter_map(|(kind, ordinal)| attempt_event_id(context, kind, ordinal))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_that_no_calendar_has_are_none() {
        let epoch = SystemTime::UNIX_EPOCH;
        let text = |time| utc(time).map(|time| time.to_rfc3339());
        let odd = epoch - Duration::from_nanos(1);
        assert_eq!(
            text(odd).as_deref(),
            Some("1969-12-31T23:59:59.999999999+00:00")
        );
        assert_eq!(text(epoch).as_deref(), Some("1970-01-01T00:00:00+00:00"));
        for seconds in [253_402_300_800, i64::MAX.unsigned_abs()] {
            assert_eq!(utc(epoch + Duration::from_secs(seconds)), None);
        }
        assert_eq!(
            utc(epoch - Duration::from_secs(i64::MAX.unsigned_abs())),
            None
        );
    }
}
