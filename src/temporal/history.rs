//! What the history of a run says of its lifecycle: the same events, with the same ids, that the
//! interceptors would have made of it. Reads one history event after the other and keeps only what is
//! still open; knows neither where histories come from nor which events are stored already.

use super::{
    attempt::{self, AttemptEnd, KnownActivity, MAX_EARLIER_ATTEMPTS, ended_in, milliseconds, sdk},
    failure, payload, started,
    time::time,
};
use crate::{
    context::{ActivityFrame, Context, WorkflowFrame},
    event::{ActivityStatus, Execution, FailureDetails, WorkflowState, lifecycle},
    record::Draft,
    store::EventStore,
};
use serde_json::{Map, Value};
use std::{collections::HashMap, sync::Arc, time::SystemTime};
use temporalio_common::protos::{
    coresdk::common::extract_local_activity_marker_data,
    temporal::api::{
        enums::v1::WorkflowTaskFailedCause,
        failure::v1::Failure,
        history::v1::{
            ActivityTaskScheduledEventAttributes, ActivityTaskStartedEventAttributes, HistoryEvent,
            MarkerRecordedEventAttributes, WorkflowExecutionStartedEventAttributes,
            history_event::Attributes,
        },
    },
};

/// The marker in which the SDK's core records a local activity.
pub(super) const LOCAL_ACTIVITY_MARKER: &str = "core_local_activity";

/// Turns the history of one run into lifecycle events.
pub(super) struct HistoryReader<'a> {
    store: &'a EventStore,
    execution: Execution,
    started: Option<Started>,
    // Activities that were scheduled and have not ended, by the id of the event that scheduled them.
    open: HashMap<i64, OpenActivity>,
    // What a run that a reset made seems to have done before the reset: its base run did it. Which it
    // is, is only known when the last reset was seen.
    before_reset: Option<Vec<Draft>>,
}

struct Started {
    context: Context,
    at: Option<SystemTime>,
    // What start and end say of how the run was started.
    with: Map<String, Value>,
}

struct OpenActivity {
    activity: KnownActivity,
    // Its last attempt, if it is known.
    attempt: Option<Attempt>,
}

struct Attempt {
    started_at: Option<SystemTime>,
    worker_identity: String,
    last_failure: Option<Failure>,
}

impl<'a> HistoryReader<'a> {
    pub(super) fn new(store: &'a EventStore, execution: Execution) -> Self {
        Self {
            store,
            execution,
            started: None,
            open: HashMap::new(),
            before_reset: None,
        }
    }

    /// Reads the next event; adds to `found` what it proves.
    pub(super) fn read(&mut self, event: HistoryEvent, found: &mut Vec<Draft>) {
        let at = time(event.event_time);
        let Some(attributes) = event.attributes else {
            return;
        };
        if let Some(ended) = ActivityEnded::read(&attributes) {
            self.end_activity(ended, at, found);
            return;
        }
        match attributes {
            Attributes::WorkflowExecutionStartedEventAttributes(start) => {
                self.start(start, at, found);
            }
            Attributes::WorkflowTaskFailedEventAttributes(task)
                if task.cause() == WorkflowTaskFailedCause::ResetWorkflow =>
            {
                if let Some(before) = &mut self.before_reset {
                    before.clear();
                }
            }
            Attributes::ActivityTaskScheduledEventAttributes(activity) => {
                self.schedule(event.event_id, activity, at);
            }
            Attributes::ActivityTaskStartedEventAttributes(start) => self.attempt(start, at),
            Attributes::MarkerRecordedEventAttributes(marker)
                if marker.marker_name == LOCAL_ACTIVITY_MARKER =>
            {
                self.local_activity(&marker, found);
            }
            Attributes::WorkflowExecutionCompletedEventAttributes(_) => {
                self.end(WorkflowState::Completed, None, None, at, found);
            }
            Attributes::WorkflowExecutionFailedEventAttributes(end) => {
                let failure = end.failure.as_ref().map(|failure| self.details(failure));
                self.end(WorkflowState::Failed, failure, None, at, found);
            }
            Attributes::WorkflowExecutionCanceledEventAttributes(_) => {
                self.end(WorkflowState::Cancelled, None, None, at, found);
            }
            Attributes::WorkflowExecutionTerminatedEventAttributes(end) => {
                let reason = Some(end.reason).filter(|reason| !reason.is_empty());
                self.end(WorkflowState::Terminated, None, reason, at, found);
            }
            Attributes::WorkflowExecutionTimedOutEventAttributes(_) => {
                self.end(WorkflowState::TimedOut, None, None, at, found);
            }
            Attributes::WorkflowExecutionContinuedAsNewEventAttributes(_) => {
                self.end(WorkflowState::ContinuedAsNew, None, None, at, found);
            }
            _ => {}
        }
    }

    fn start(
        &mut self,
        start: WorkflowExecutionStartedEventAttributes,
        at: Option<SystemTime>,
        found: &mut Vec<Draft>,
    ) {
        let fields = start.header.unwrap_or_default().fields;
        let text = |text: String| Some(text).filter(|text| !text.is_empty()).map(Into::into);
        let parent = start.parent_workflow_execution;
        let frame = WorkflowFrame {
            namespace: self.execution.namespace.as_str().into(),
            task_queue: start.task_queue.map(|queue| queue.name.into()),
            workflow_type: start.workflow_type.unwrap_or_default().name.into(),
            workflow_id: self.execution.workflow_id.as_str().into(),
            workflow_run_id: self.execution.run_id.as_str().into(),
            workflow_attempt: u32::try_from(start.attempt).ok(),
            first_execution_run_id: text(start.first_execution_run_id),
            continued_from_run_id: text(start.continued_execution_run_id),
            parent_workflow_id: parent
                .as_ref()
                .map(|parent| parent.workflow_id.as_str().into()),
            parent_run_id: parent.map(|parent| parent.run_id.into()),
            root_workflow_id: start
                .root_workflow_execution
                .map(|root| root.workflow_id.into()),
            traceparent: payload::traceparent(&fields).map(Into::into),
            start_time: at,
        };
        let mut context = Context::new().push(sdk()).push(frame);
        if let Some(user) = payload::frame(&fields) {
            context = context.push(user);
        }
        if start.original_execution_run_id != self.execution.run_id
            && !start.original_execution_run_id.is_empty()
        {
            self.before_reset = Some(Vec::new());
        }
        let mut event = lifecycle::workflow_start();
        event.metadata.sequence = Some(1);
        let mut with = Map::new();
        if self.store.lifecycle().workflow {
            with = started::fields(
                self.store,
                start.search_attributes.as_ref(),
                start.memo.as_ref(),
            );
            event.data.clone_from(&with);
            found.push(attempt::draft(self.store, context.clone(), event, at));
        }
        self.started = Some(Started { context, at, with });
    }

    fn end(
        &mut self,
        state: WorkflowState,
        failure: Option<FailureDetails>,
        reason: Option<String>,
        at: Option<SystemTime>,
        found: &mut Vec<Draft>,
    ) {
        found.append(self.before_reset.as_mut().unwrap_or(&mut Vec::new()));
        let Some(started) = &self.started else {
            return;
        };
        if !self.store.lifecycle().workflow {
            return;
        }
        let duration_ms = milliseconds(started.at, at).unwrap_or_default();
        let mut event = lifecycle::workflow_end(state, duration_ms, failure.as_ref());
        event.data.extend(started.with.clone());
        if let Some(reason) = reason
            && self.store.keeps_error_messages()
        {
            event
                .data
                .insert("reason".to_owned(), failure::shortened(reason).into());
        }
        found.push(attempt::draft(
            self.store,
            started.context.clone(),
            event,
            at,
        ));
    }

    fn schedule(
        &mut self,
        event_id: i64,
        activity: ActivityTaskScheduledEventAttributes,
        at: Option<SystemTime>,
    ) {
        if !self.store.lifecycle().activity {
            return;
        }
        let activity = scheduled(&self.execution, self.workflow_type(), activity, at);
        self.open.insert(
            event_id,
            OpenActivity {
                activity,
                attempt: None,
            },
        );
    }

    fn workflow_type(&self) -> Option<Arc<str>> {
        let workflow = self.started.as_ref()?.context.workflow()?;
        Some(workflow.workflow_type.clone())
    }

    /// The server writes this when the activity ends: it is its last attempt.
    fn attempt(&mut self, start: ActivityTaskStartedEventAttributes, at: Option<SystemTime>) {
        if let Some(activity) = self.open.get_mut(&start.scheduled_event_id) {
            activity.activity.frame.attempt = u32::try_from(start.attempt).unwrap_or_default();
            activity.attempt = Some(Attempt {
                started_at: at,
                worker_identity: start.identity,
                last_failure: start.last_failure,
            });
        }
    }

    fn end_activity(
        &mut self,
        ended: ActivityEnded,
        at: Option<SystemTime>,
        found: &mut Vec<Draft>,
    ) {
        // An activity that no worker ever took has no attempt, and so no event.
        let Some(OpenActivity {
            activity,
            attempt: Some(attempt),
        }) = self.open.remove(&ended.scheduled_event_id)
        else {
            return;
        };
        let failure = ended.failure.map(|failure| self.details(&failure));
        let found = self.before_reset.as_mut().unwrap_or(found);
        let last = activity.frame.attempt;
        for earlier in last.saturating_sub(MAX_EARLIER_ATTEMPTS).max(1)..last {
            // Nobody knows exactly when it ended.
            let end = match &attempt.last_failure {
                Some(failure) if earlier + 1 == last => {
                    AttemptEnd::failed(self.store, failure, attempt.started_at)
                }
                _ => AttemptEnd::forgotten(attempt.started_at),
            };
            found.extend(attempt::earlier(self.store, &activity, earlier, &end));
        }
        found.extend(attempt::whole(
            self.store,
            activity,
            attempt.started_at,
            attempt.worker_identity,
            &AttemptEnd {
                status: ended.status,
                failure,
                at,
            },
        ));
    }

    fn local_activity(&mut self, marker: &MarkerRecordedEventAttributes, found: &mut Vec<Draft>) {
        if !self.store.lifecycle().local_activity {
            return;
        }
        let Some(recorded) = extract_local_activity_marker_data(&marker.details) else {
            return;
        };
        // It was given up before it was tried, or while it waited to be tried again: no attempt of it is told of.
        if recorded.attempt == 0 {
            return;
        }
        let failure = marker.failure.as_ref();
        let status = failure.map_or(ActivityStatus::Completed, ended_in);
        let details = failure.map(|failure| self.details(failure));
        let mut event = lifecycle::activity_end(
            status,
            0.0,
            details
                .filter(|_| status != ActivityStatus::Cancelled)
                .as_ref(),
        );
        event.data.remove("duration_ms");
        let mut frame = activity_frame(
            &self.execution,
            self.workflow_type(),
            recorded.activity_type,
            recorded.activity_id,
        );
        frame.attempt = recorded.attempt;
        frame.is_local = true;
        frame.workflow_start_time = self.started.as_ref().and_then(|started| started.at);
        let activity = KnownActivity { frame, user: None };
        let draft = attempt::draft(
            self.store,
            attempt::context(sdk(), activity),
            event,
            time(recorded.complete_time),
        );
        self.before_reset.as_mut().unwrap_or(found).push(draft);
    }

    fn details(&self, failure: &Failure) -> FailureDetails {
        failure::recorded(self.store, failure)
    }
}

/// How an activity ended, as history says it.
struct ActivityEnded {
    scheduled_event_id: i64,
    status: ActivityStatus,
    failure: Option<Failure>,
}

impl ActivityEnded {
    /// Reads an event that ends an activity.
    fn read(attributes: &Attributes) -> Option<Self> {
        let (scheduled_event_id, status, failure) = match attributes {
            Attributes::ActivityTaskCompletedEventAttributes(end) => {
                (end.scheduled_event_id, ActivityStatus::Completed, None)
            }
            Attributes::ActivityTaskFailedEventAttributes(end) => (
                end.scheduled_event_id,
                ActivityStatus::Failed,
                end.failure.as_ref(),
            ),
            Attributes::ActivityTaskTimedOutEventAttributes(end) => (
                end.scheduled_event_id,
                ActivityStatus::TimedOut,
                end.failure.as_ref(),
            ),
            Attributes::ActivityTaskCanceledEventAttributes(end) => {
                (end.scheduled_event_id, ActivityStatus::Cancelled, None)
            }
            _ => return None,
        };
        Some(Self {
            scheduled_event_id,
            status,
            failure: failure.cloned(),
        })
    }
}

/// What an activity was scheduled with.
pub(super) fn scheduled(
    execution: &Execution,
    workflow_type: Option<Arc<str>>,
    activity: ActivityTaskScheduledEventAttributes,
    at: Option<SystemTime>,
) -> KnownActivity {
    let fields = activity.header.unwrap_or_default().fields;
    let mut frame = activity_frame(
        execution,
        workflow_type,
        activity.activity_type.unwrap_or_default().name,
        activity.activity_id,
    );
    frame.task_queue = activity.task_queue.map(|queue| queue.name.into());
    frame.scheduled_time = at;
    frame.traceparent = payload::traceparent(&fields).map(Into::into);
    KnownActivity {
        frame,
        user: payload::frame(&fields),
    }
}

fn activity_frame(
    execution: &Execution,
    workflow_type: Option<Arc<str>>,
    activity_type: String,
    activity_id: String,
) -> ActivityFrame {
    ActivityFrame {
        namespace: execution.namespace.as_str().into(),
        workflow_type,
        workflow_id: Some(execution.workflow_id.as_str().into()),
        workflow_run_id: Some(execution.run_id.as_str().into()),
        activity_type: activity_type.into(),
        activity_id: activity_id.into(),
        ..ActivityFrame::default()
    }
}
