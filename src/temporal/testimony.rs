//! Asking the server what became of one execution of a workflow task: its history, read from the end, and
//! what is under way. Knows how to read that, and nothing of what is held.

use super::{
    held::{TaskFate, Testimony},
    history::LOCAL_ACTIVITY_MARKER,
    request_error::RequestError,
    server::{Server, closed_state},
    task::{Evidence, LocalOutcome, TaskExecution},
    time::time,
};
use crate::{
    crash_point::is_left_out,
    event::{Execution, WorkflowState},
};
use std::{cmp::Ordering, time::SystemTime};
use temporalio_client::tonic::{Code, IntoRequest as _};
use temporalio_common::protos::{
    coresdk::common::extract_local_activity_marker_data,
    temporal::api::{
        common::v1::WorkflowExecution,
        enums::v1::WorkflowExecutionStatus,
        history::v1::{HistoryEvent, MarkerRecordedEventAttributes, history_event::Attributes},
        workflowservice::v1::DescribeWorkflowExecutionRequest,
    },
};

/// The task is near the end of the history, most times; the first page is small.
const FIRST_PAGE: u32 = 32;
const NEXT_PAGES: u32 = 500;

impl Server {
    /// Asks what became of the executions that something went through: it was accepted with any of them, or
    /// what is said of the last holds. Cancel safe.
    pub(super) async fn testimony(
        &self,
        run: &Execution,
        evidence: &Evidence,
    ) -> Result<Testimony, RequestError> {
        let mut last = None;
        for task in evidence.executions.iter().rev() {
            let testimony = self.testimony_of(run, task, evidence).await?;
            let is_settled = matches!(
                testimony,
                Testimony::Gone
                    | Testimony::Of {
                        fate: TaskFate::Accepted,
                        ..
                    }
            );
            if is_settled {
                return Ok(testimony);
            }
            last.get_or_insert(testimony);
        }
        Ok(last.unwrap_or(Testimony::Gone))
    }

    async fn testimony_of(
        &self,
        run: &Execution,
        task: &TaskExecution,
        evidence: &Evidence,
    ) -> Result<Testimony, RequestError> {
        let seen = self.read_back(run, task, evidence).await?;
        let Testimony::Of {
            fate: TaskFate::Absent | TaskFate::UnderWay,
            closed: None,
        } = seen
        else {
            return Ok(seen);
        };
        // History does not show the later attempts of a task before they are accepted.
        let Some(begun) = self.task_under_way(run).await? else {
            // It may have been completed between the two questions.
            return self.read_back(run, task, evidence).await;
        };
        // Of a task that began with the end of a local activity, only that is known.
        if task.times.is_empty()
            || begun.is_none_or(|begun| task.times.iter().any(|time| begun <= *time))
        {
            return Ok(Testimony::Of {
                fate: TaskFate::UnderWay,
                closed: None,
            });
        }
        self.read_back(run, task, evidence).await
    }

    async fn read_back(
        &self,
        run: &Execution,
        task: &TaskExecution,
        evidence: &Evidence,
    ) -> Result<Testimony, RequestError> {
        let mut reading = Reading::of(task, evidence);
        let mut next_page_token = Vec::new();
        loop {
            let page_size = if next_page_token.is_empty() {
                FIRST_PAGE
            } else {
                NEXT_PAGES
            };
            let page = self
                .history_page_backwards(
                    &run.namespace,
                    &run.workflow_id,
                    &run.run_id,
                    page_size,
                    std::mem::take(&mut next_page_token),
                )
                .await;
            let page = match page {
                Err(RequestError::Gone) => return Ok(Testimony::Gone),
                page => page?,
            };
            for event in page.events {
                if let Some(fate) = reading.read(&event) {
                    return Ok(reading.testimony(fate));
                }
            }
            next_page_token = page.next_page_token;
            if next_page_token.is_empty() {
                let fate = reading.over();
                return Ok(reading.testimony(fate));
            }
        }
    }

    /// When the workflow task began that a worker has now; none if no worker has one.
    async fn task_under_way(
        &self,
        run: &Execution,
    ) -> Result<Option<Option<SystemTime>>, RequestError> {
        let ask = async {
            let mut service = self.connection().await?.workflow_service();
            let request = DescribeWorkflowExecutionRequest {
                namespace: run.namespace.clone(),
                execution: Some(execution(run)),
            };
            match service
                .describe_workflow_execution(request.into_request())
                .await
            {
                Ok(answer) => Ok(answer.into_inner().pending_workflow_task),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(RequestError::from(status)),
            }
        };
        let pending = self.ask(ask).await?;
        Ok(pending
            .and_then(|task| task.started_time)
            .map(|at| time(Some(at))))
    }
}

fn execution(run: &Execution) -> WorkflowExecution {
    WorkflowExecution {
        workflow_id: run.workflow_id.clone(),
        run_id: run.run_id.clone(),
    }
}

/// A history, read from its end, for what it says of an execution.
struct Reading<'a> {
    task: &'a TaskExecution,
    evidence: &'a Evidence,
    // The local activities whose markers must be there, and were not seen since the task began which was read
    // last.
    missing: Vec<LocalOutcome>,
    // Those whose markers were not seen since the task began that is asked for.
    unseen: Vec<LocalOutcome>,
    // Their markers say whose they are.
    is_known_by_outcomes: bool,
    // Markers are there that only what is asked for can have brought, with this task or a later one.
    is_proven: bool,
    has_begun: bool,
    closed: Option<WorkflowState>,
    // The start of the task that the event completed which was read last but for markers.
    completed: Option<i64>,
    // When local activities came to their end, whose markers came in behind that.
    local_ends: Vec<SystemTime>,
    // The execution was completed; only markers are missing. They may be of an earlier task, whose heartbeat
    // recorded what the workflow was told with this one.
    is_completed: bool,
}

impl<'a> Reading<'a> {
    fn of(task: &'a TaskExecution, evidence: &'a Evidence) -> Self {
        Self {
            task,
            evidence,
            missing: evidence.local_outcomes.clone(),
            unseen: evidence.local_outcomes.clone(),
            is_known_by_outcomes: evidence.is_known_by_outcomes(),
            is_proven: false,
            has_begun: false,
            closed: None,
            completed: None,
            local_ends: Vec::new(),
            is_completed: false,
        }
    }

    /// Reads the event before the last one; gives the fate of the execution when it is clear.
    fn read(&mut self, event: &HistoryEvent) -> Option<TaskFate> {
        let is_last = !self.has_begun;
        if is_last {
            self.has_begun = true;
            self.closed = event.attributes.as_ref().and_then(closes);
        }
        match &event.attributes {
            Some(Attributes::WorkflowTaskCompletedEventAttributes(completed)) => {
                self.completed = Some(completed.started_event_id);
            }
            Some(Attributes::MarkerRecordedEventAttributes(marker)) => self.marker(marker),
            Some(Attributes::WorkflowTaskStartedEventAttributes(_)) if !self.is_completed => {
                let is_it = event.event_id == self.task.started_event_id
                    && (time(event.event_time).is_none_or(|time| self.task.has(time))
                        || self.local_ends.iter().any(|time| self.task.has(*time)));
                if is_it && self.completed != Some(event.event_id) {
                    return Some(if is_last {
                        TaskFate::UnderWay
                    } else {
                        TaskFate::Rejected
                    });
                }
                self.is_completed = is_it;
                if !is_it {
                    self.local_ends.clear();
                    self.missing.clone_from(&self.evidence.local_outcomes);
                }
            }
            _ => {}
        }
        if self.is_proven {
            return Some(TaskFate::Accepted);
        }
        if self.is_completed {
            return self.missing.is_empty().then_some(TaskFate::Accepted);
        }
        match event.event_id.cmp(&self.task.started_event_id) {
            Ordering::Greater => None,
            // Something else has its place, or another execution of the same task.
            Ordering::Equal => Some(TaskFate::Rejected),
            // History is not there yet.
            Ordering::Less => Some(TaskFate::Absent),
        }
    }

    /// Reads the marker of a local activity.
    fn marker(&mut self, marker: &MarkerRecordedEventAttributes) {
        if marker.marker_name != LOCAL_ACTIVITY_MARKER {
            return;
        }
        let Some(local) = extract_local_activity_marker_data(&marker.details) else {
            return;
        };
        let scheduled_at = time(local.original_schedule_time);
        self.missing
            .retain(|outcome| !outcome.is_in(local.seq, scheduled_at));
        if !self.is_completed && !is_left_out("marker") {
            self.unseen
                .retain(|outcome| !outcome.is_in(local.seq, scheduled_at));
            self.is_proven |= self.evidence.is_proven_by(scheduled_at)
                || (self.is_known_by_outcomes && self.unseen.is_empty());
        }
        self.local_ends.extend(time(local.complete_time));
    }

    /// What its beginning leaves.
    fn over(&self) -> TaskFate {
        if self.is_completed {
            TaskFate::Rejected
        } else {
            TaskFate::Absent
        }
    }

    fn testimony(self, fate: TaskFate) -> Testimony {
        Testimony::Of {
            fate,
            closed: self.closed,
        }
    }
}

/// How an event closes a run, if it does.
fn closes(attributes: &Attributes) -> Option<WorkflowState> {
    closed_state(match attributes {
        Attributes::WorkflowExecutionCompletedEventAttributes(_) => {
            WorkflowExecutionStatus::Completed
        }
        Attributes::WorkflowExecutionFailedEventAttributes(_) => WorkflowExecutionStatus::Failed,
        Attributes::WorkflowExecutionCanceledEventAttributes(_) => {
            WorkflowExecutionStatus::Canceled
        }
        Attributes::WorkflowExecutionTerminatedEventAttributes(_) => {
            WorkflowExecutionStatus::Terminated
        }
        Attributes::WorkflowExecutionContinuedAsNewEventAttributes(_) => {
            WorkflowExecutionStatus::ContinuedAsNew
        }
        Attributes::WorkflowExecutionTimedOutEventAttributes(_) => {
            WorkflowExecutionStatus::TimedOut
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::{Duration, UNIX_EPOCH};
    use temporalio_common::protos::coresdk::{
        common::build_local_activity_marker_details, external_data::LocalActivityMarkerData,
    };
    use temporalio_common::protos::temporal::api::history::v1::{
        MarkerRecordedEventAttributes, WorkflowExecutionSignaledEventAttributes,
        WorkflowExecutionTerminatedEventAttributes, WorkflowTaskCompletedEventAttributes,
        WorkflowTaskFailedEventAttributes, WorkflowTaskScheduledEventAttributes,
        WorkflowTaskStartedEventAttributes, WorkflowTaskTimedOutEventAttributes,
    };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn event(id: i64, seconds: u64, attributes: Attributes) -> HistoryEvent {
        HistoryEvent {
            event_id: id,
            event_time: Some(at(seconds).into()),
            attributes: Some(attributes),
            ..HistoryEvent::default()
        }
    }

    fn scheduled() -> Attributes {
        Attributes::WorkflowTaskScheduledEventAttributes(
            WorkflowTaskScheduledEventAttributes::default(),
        )
    }

    fn started() -> Attributes {
        Attributes::WorkflowTaskStartedEventAttributes(WorkflowTaskStartedEventAttributes::default())
    }

    fn completed(started_event_id: i64) -> Attributes {
        Attributes::WorkflowTaskCompletedEventAttributes(WorkflowTaskCompletedEventAttributes {
            started_event_id,
            ..WorkflowTaskCompletedEventAttributes::default()
        })
    }

    fn signaled() -> Attributes {
        Attributes::WorkflowExecutionSignaledEventAttributes(
            WorkflowExecutionSignaledEventAttributes::default(),
        )
    }

    fn read(history: &[HistoryEvent], id: i64, seconds: u64) -> (TaskFate, Option<WorkflowState>) {
        read_with(history, id, seconds, &[])
    }

    fn read_with(
        history: &[HistoryEvent],
        id: i64,
        seconds: u64,
        local_outcomes: &[u32],
    ) -> (TaskFate, Option<WorkflowState>) {
        let outcome = |seq: &u32| LocalOutcome {
            seq: *seq,
            scheduled_at: None,
        };
        let evidence = Evidence {
            executions: vec![TaskExecution {
                started_event_id: id,
                times: vec![at(seconds)],
            }],
            local_outcomes: local_outcomes.iter().map(outcome).collect(),
            scheduled_at: vec![],
        };
        read_for(history, &evidence)
    }

    fn read_for(
        history: &[HistoryEvent],
        evidence: &Evidence,
    ) -> (TaskFate, Option<WorkflowState>) {
        let mut reading = Reading::of(&evidence.executions[0], evidence);
        for event in history.iter().rev() {
            if let Some(fate) = reading.read(event) {
                return (fate, reading.closed);
            }
        }
        (reading.over(), reading.closed)
    }

    #[test]
    fn a_task_is_accepted_if_history_completes_the_execution_that_began_then() {
        let history = [
            event(2, 1, scheduled()),
            event(3, 2, started()),
            event(4, 3, completed(3)),
            event(5, 4, signaled()),
            event(6, 4, scheduled()),
            event(7, 5, started()),
        ];
        assert_eq!(read(&history, 3, 2), (TaskFate::Accepted, None));
        // An earlier attempt of the same task, which history does not show.
        assert_eq!(read(&history, 3, 1), (TaskFate::Rejected, None));
        assert_eq!(read(&history, 7, 5), (TaskFate::UnderWay, None));
        // Its place is taken by something else.
        assert_eq!(read(&history, 5, 4), (TaskFate::Rejected, None));
        // A later attempt: history does not show it before it is accepted.
        assert_eq!(read(&history, 9, 6), (TaskFate::Absent, None));
    }

    #[test]
    fn a_task_that_failed_is_rejected() {
        let failed = Attributes::WorkflowTaskFailedEventAttributes(
            WorkflowTaskFailedEventAttributes::default(),
        );
        let terminated = Attributes::WorkflowExecutionTerminatedEventAttributes(
            WorkflowExecutionTerminatedEventAttributes::default(),
        );
        let history = [
            event(2, 1, scheduled()),
            event(3, 2, started()),
            event(4, 3, failed),
            event(5, 9, terminated),
        ];
        assert_eq!(
            read(&history, 3, 2),
            (TaskFate::Rejected, Some(WorkflowState::Terminated))
        );
    }

    fn local_activity(seq: u32, ended_at: Option<u64>) -> Attributes {
        local_activity_of(seq, ended_at, None)
    }

    fn local_activity_of(
        seq: u32,
        ended_at: Option<u64>,
        scheduled_at: Option<SystemTime>,
    ) -> Attributes {
        let data = LocalActivityMarkerData {
            seq,
            complete_time: ended_at.map(|ended_at| at(ended_at).into()),
            original_schedule_time: scheduled_at.map(Into::into),
            ..LocalActivityMarkerData::default()
        };
        Attributes::MarkerRecordedEventAttributes(MarkerRecordedEventAttributes {
            marker_name: LOCAL_ACTIVITY_MARKER.to_owned(),
            details: build_local_activity_marker_details(data, None),
            ..MarkerRecordedEventAttributes::default()
        })
    }

    /// A heartbeat brings a new task, of which the workflow hears only when its local activity ends.
    #[test]
    fn a_task_that_began_with_the_end_of_a_local_activity_is_known_by_its_marker() {
        let history = [
            event(3, 2, started()),
            event(4, 10, completed(3)),
            event(6, 10, started()),
            event(7, 14, completed(6)),
            event(8, 14, local_activity(1, Some(13))),
            event(9, 14, local_activity(2, Some(12))),
            event(11, 20, started()),
            event(12, 21, completed(11)),
            event(13, 21, local_activity(3, Some(11))),
        ];
        assert_eq!(read_with(&history, 6, 13, &[1]), (TaskFate::Accepted, None));
        assert_eq!(
            read_with(&history, 6, 12, &[2, 1]),
            (TaskFate::Accepted, None)
        );
        // The same task, executed by somebody else: that activity ended at another time.
        assert_eq!(read_with(&history, 6, 11, &[1]), (TaskFate::Rejected, None));
    }

    fn evidence_of(
        started_event_id: i64,
        seconds: u64,
        local_outcomes: &[(u32, SystemTime)],
        scheduled_at: &[SystemTime],
    ) -> Evidence {
        let outcome = |(seq, scheduled_at): &(u32, SystemTime)| LocalOutcome {
            seq: *seq,
            scheduled_at: Some(*scheduled_at),
        };
        Evidence {
            executions: vec![TaskExecution {
                started_event_id,
                times: vec![at(seconds)],
            }],
            local_outcomes: local_outcomes.iter().map(outcome).collect(),
            scheduled_at: scheduled_at.to_vec(),
        }
    }

    /// The task times out while its local activities are under way, and the SDK's core records them with the
    /// next one, of which workflow code hears nothing.
    #[test]
    fn a_marker_of_what_only_this_run_in_memory_scheduled_proves_what_it_did() {
        let (then, other) = (at(1_000_001), at(1_000_002));
        let timed_out = Attributes::WorkflowTaskTimedOutEventAttributes(
            WorkflowTaskTimedOutEventAttributes::default(),
        );
        let history = [
            event(3, 2, started()),
            event(4, 12, timed_out),
            event(6, 13, started()),
            event(7, 14, completed(6)),
            event(8, 14, local_activity_of(1, Some(2), Some(then))),
        ];
        let fate = |local_outcomes: &[(u32, SystemTime)], scheduled_at: &[SystemTime]| {
            read_for(&history, &evidence_of(3, 2, local_outcomes, scheduled_at)).0
        };
        // What scheduled the local activity, and what it was followed by.
        assert_eq!(fate(&[], &[other, then]), TaskFate::Accepted);
        assert_eq!(fate(&[(1, then)], &[]), TaskFate::Accepted);
        // Another execution of the same task, with the same times of the workflow.
        assert_eq!(fate(&[], &[other]), TaskFate::Rejected);
        assert_eq!(fate(&[(1, other)], &[]), TaskFate::Rejected);
        // This one, after an outcome that was not recorded, or with an activity that was not.
        assert_eq!(fate(&[(1, then), (2, then)], &[]), TaskFate::Rejected);
        assert_eq!(fate(&[], &[]), TaskFate::Rejected);
        // Recorded with a heartbeat before the task began that is asked for.
        let before = [
            event(3, 2, started()),
            event(4, 10, completed(3)),
            event(5, 10, local_activity_of(1, Some(9), Some(then))),
            event(7, 10, started()),
        ];
        let later = evidence_of(7, 10, &[(1, then)], &[]);
        assert_eq!(read_for(&before, &later).0, TaskFate::UnderWay);
    }

    /// Another worker's execution of the task was accepted, with the same local activity.
    #[test]
    fn an_outcome_that_somebody_else_recorded_is_not_this_ones() {
        let (then, other) = (at(1_000_001), at(1_000_002));
        let history = [
            event(3, 2, started()),
            event(4, 3, completed(3)),
            event(5, 3, local_activity_of(1, Some(2), Some(other))),
        ];
        let fate =
            |scheduled_at| read_for(&history, &evidence_of(3, 2, &[(1, scheduled_at)], &[])).0;
        assert_eq!(fate(other), TaskFate::Accepted);
        assert_eq!(fate(then), TaskFate::Rejected);
    }

    /// A heartbeat of a task is accepted, and what the same execution tells the workflow then is not.
    #[test]
    fn what_a_heartbeat_did_not_record_was_not_accepted_with_it() {
        let history = [
            event(3, 2, started()),
            event(4, 10, completed(3)),
            event(5, 10, local_activity(1, Some(9))),
            event(7, 10, started()),
            event(8, 14, completed(7)),
            // Cancelled: without a time.
            event(9, 14, local_activity(2, None)),
        ];
        assert_eq!(read_with(&history, 3, 2, &[]), (TaskFate::Accepted, None));
        assert_eq!(read_with(&history, 3, 2, &[1]), (TaskFate::Accepted, None));
        assert_eq!(read_with(&history, 3, 2, &[2]), (TaskFate::Rejected, None));
        assert_eq!(read_with(&history, 7, 10, &[2]), (TaskFate::Accepted, None));
        // Recorded by a task before.
        assert_eq!(read_with(&history, 7, 10, &[1]), (TaskFate::Accepted, None));
    }
}
