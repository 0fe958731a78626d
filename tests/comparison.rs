//! The comparison of a store with the server's histories catches each kind of difference.

mod support;

use serde_json::json;
use support::{
    Row,
    compare::{RunHistory, compare},
};
use temporalio_common::protos::{
    constants::LOCAL_ACTIVITY_MARKER_NAME,
    coresdk::{
        common::build_local_activity_marker_details, external_data::LocalActivityMarkerData,
    },
    temporal::api::{
        enums::v1::WorkflowExecutionStatus,
        failure::v1::{ApplicationFailureInfo, Failure, TimeoutFailureInfo, failure::FailureInfo},
        history::v1::{
            ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes,
            ActivityTaskStartedEventAttributes, HistoryEvent, MarkerRecordedEventAttributes,
            history_event::Attributes,
        },
    },
};

fn row(id: &str, name: &str, state: &str, activity: Option<(&str, u32, &str)>) -> Row {
    let status = activity.map_or(state, |(_, _, status)| status);
    Row {
        seq: 0,
        event_id: id.to_owned(),
        event_type: "application_events".to_owned(),
        event_name: name.to_owned(),
        workflow_id: Some("w".to_owned()),
        workflow_run_id: Some("r".to_owned()),
        workflow_state: Some(state.to_owned()),
        activity_type: activity.map(|_| "a".to_owned()),
        activity_id: activity.map(|(id, _, _)| id.to_owned()),
        attempt: activity.map(|(_, attempt, _)| attempt),
        event: json!({ "metadata": { "is_local": false }, "data": { "status": status } }),
    }
}

fn run(status: WorkflowExecutionStatus) -> RunHistory {
    let event = |event_id, attributes| HistoryEvent {
        event_id,
        attributes: Some(attributes),
        ..HistoryEvent::default()
    };
    RunHistory {
        workflow_id: "w".to_owned(),
        run_id: "r".to_owned(),
        status,
        events: vec![
            event(
                5,
                Attributes::ActivityTaskScheduledEventAttributes(
                    ActivityTaskScheduledEventAttributes {
                        activity_id: "1".to_owned(),
                        ..Default::default()
                    },
                ),
            ),
            event(
                6,
                Attributes::ActivityTaskStartedEventAttributes(
                    ActivityTaskStartedEventAttributes {
                        scheduled_event_id: 5,
                        attempt: 2,
                        ..Default::default()
                    },
                ),
            ),
            event(
                7,
                Attributes::ActivityTaskCompletedEventAttributes(
                    ActivityTaskCompletedEventAttributes {
                        scheduled_event_id: 5,
                        ..Default::default()
                    },
                ),
            ),
        ],
    }
}

fn right() -> Vec<Row> {
    vec![
        row("1", "workflow_start", "running", None),
        row("2", "activity_end", "running", Some(("1", 1, "failed"))),
        row("3", "activity_end", "running", Some(("1", 2, "completed"))),
        row("4", "workflow_end", "completed", None),
    ]
}

#[test]
fn what_agrees_has_no_differences() {
    let found = compare(&[run(WorkflowExecutionStatus::Completed)], &right());
    assert!(found.is_exact(), "{found}");
}

#[test]
fn each_kind_of_difference_is_found() {
    let completed = || [run(WorkflowExecutionStatus::Completed)];
    for missing in 0..4 {
        let mut rows = right();
        rows.remove(missing);
        assert_eq!(compare(&completed(), &rows).missing.len(), 1);
    }
    for twice in 0..4 {
        let mut rows = right();
        let mut copy = rows[twice].clone();
        copy.event_id = "other".to_owned();
        rows.push(copy);
        assert_eq!(compare(&completed(), &rows).duplicate.len(), 1);
    }
    let mut same_id = right();
    same_id[1].event_id = "1".to_owned();
    assert_eq!(compare(&completed(), &same_id).duplicate.len(), 1);

    let failed = [run(WorkflowExecutionStatus::Failed)];
    assert_eq!(compare(&failed, &right()).wrong_outcome.len(), 1);
    let running = [run(WorkflowExecutionStatus::Running)];
    assert_eq!(compare(&running, &right()).phantom.len(), 1);

    let mut attempt_too_many = right();
    attempt_too_many.push(row(
        "5",
        "activity_end",
        "running",
        Some(("1", 3, "failed")),
    ));
    assert_eq!(compare(&completed(), &attempt_too_many).phantom.len(), 1);
    assert_eq!(compare(&[], &right()).phantom.len(), 4);

    let mut wrong_attempt = right();
    wrong_attempt[2] = row("3", "activity_end", "running", Some(("1", 2, "cancelled")));
    assert_eq!(compare(&completed(), &wrong_attempt).wrong_outcome.len(), 1);
}

/// Makes the last attempt of the run the `attempt`th, and the one before it failed as `info` says.
fn retried(attempt: i32, info: FailureInfo) -> RunHistory {
    let mut run = run(WorkflowExecutionStatus::Completed);
    for event in &mut run.events {
        if let Some(Attributes::ActivityTaskStartedEventAttributes(started)) = &mut event.attributes
        {
            started.attempt = attempt;
            started.last_failure = Some(Failure {
                failure_info: Some(info.clone()),
                ..Failure::default()
            });
        }
    }
    run
}

#[test]
fn an_attempt_that_timed_out_may_lack_its_end_and_one_that_failed_may_not() {
    let timed_out = || FailureInfo::TimeoutFailureInfo(TimeoutFailureInfo::default());
    let failed = || FailureInfo::ApplicationFailureInfo(ApplicationFailureInfo::default());
    let mut without_the_first = right();
    without_the_first.remove(1);

    let found = compare(&[retried(2, timed_out())], &without_the_first);
    assert_eq!(found.unreported_attempts.len(), 1, "{found}");
    assert!(found.is_empty() && !found.is_exact(), "{found}");
    assert!(
        found
            .to_string()
            .contains("unreported attempts: 1\n  activity_end of w r activity 1 attempt 1"),
        "{found}"
    );
    // It may also have lived to tell, whatever it told.
    let mut late = right();
    late[1] = row("2", "activity_end", "running", Some(("1", 1, "completed")));
    assert!(compare(&[retried(2, timed_out())], &late).is_exact());

    let found = compare(&[retried(2, failed())], &without_the_first);
    assert_eq!(found.missing.len(), 1, "{found}");
    let found = compare(&[retried(2, failed())], &late);
    assert_eq!(found.wrong_outcome.len(), 1, "{found}");

    // Of three attempts, history has the failure of the second alone.
    let third = vec![
        row("1", "workflow_start", "running", None),
        row("3", "activity_end", "running", Some(("1", 3, "completed"))),
        row("4", "workflow_end", "completed", None),
    ];
    let found = compare(&[retried(3, timed_out())], &third);
    assert_eq!(found.unreported_attempts.len(), 2, "{found}");
    let found = compare(&[retried(3, failed())], &third);
    assert_eq!(found.missing.len(), 2, "{found}");
}

/// A run with one local activity, which came to its `attempt`th attempt.
fn local_run(attempt: u32, failure: Option<Failure>) -> [RunHistory; 1] {
    let mut run = run(WorkflowExecutionStatus::Completed);
    let marker = LocalActivityMarkerData {
        attempt,
        activity_id: "1".to_owned(),
        ..LocalActivityMarkerData::default()
    };
    run.events = vec![HistoryEvent {
        event_id: 5,
        attributes: Some(Attributes::MarkerRecordedEventAttributes(
            MarkerRecordedEventAttributes {
                marker_name: LOCAL_ACTIVITY_MARKER_NAME.to_owned(),
                details: build_local_activity_marker_details(marker, None),
                failure,
                ..Default::default()
            },
        )),
        ..HistoryEvent::default()
    }];
    [run]
}

#[test]
fn local_activities_are_compared_by_their_markers() {
    let local = || {
        let mut rows = right();
        for row in &mut rows {
            row.event["metadata"]["is_local"] = json!(true);
        }
        rows
    };
    let found = compare(&local_run(2, None), &local());
    assert!(found.is_exact(), "{found}");

    for missing in [1, 2] {
        let mut rows = local();
        rows.remove(missing);
        let found = compare(&local_run(2, None), &rows);
        assert_eq!(found.missing.len(), 1, "{found}");
    }
    let mut twice = local();
    let mut copy = twice[2].clone();
    copy.event_id = "other".to_owned();
    twice.push(copy);
    let found = compare(&local_run(2, None), &twice);
    assert_eq!(found.duplicate.len(), 1, "{found}");

    let failure = |info| Failure {
        failure_info: Some(info),
        ..Failure::default()
    };
    let failed = failure(FailureInfo::ApplicationFailureInfo(Default::default()));
    let found = compare(&local_run(2, Some(failed)), &local());
    assert_eq!(found.wrong_outcome.len(), 1, "{found}");

    let timed_out = failure(FailureInfo::TimeoutFailureInfo(Default::default()));
    let mut without_the_last = local();
    without_the_last.remove(2);
    let found = compare(&local_run(2, Some(timed_out)), &without_the_last);
    assert_eq!(found.unreported_attempts.len(), 1, "{found}");
    assert!(found.is_empty(), "{found}");

    // The end of an attempt that its workflow task did not live to record.
    let found = compare(&local_run(1, None), &local());
    assert_eq!(found.unrecorded_local_attempts.len(), 1, "{found}");
    assert!(!found.is_exact(), "{found}");

    // A local activity and one that is not, with the same id, are two.
    let found = compare(&local_run(2, None), &right());
    assert_eq!(found.missing.len(), 2, "{found}");
    assert_eq!(found.phantom.len(), 2, "{found}");
}
