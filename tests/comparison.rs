//! The comparison of a store with the server's histories catches each kind of difference.

mod support;

use serde_json::json;
use support::{
    Row,
    compare::{RunHistory, compare},
};
use temporalio_common::protos::temporal::api::{
    enums::v1::WorkflowExecutionStatus,
    history::v1::{
        ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes,
        ActivityTaskStartedEventAttributes, HistoryEvent, history_event::Attributes,
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
    assert!(found.is_empty(), "{found}");
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

    // Of an attempt that was given up with its run nobody knows the number.
    let mut given_up = [run(WorkflowExecutionStatus::Terminated)];
    given_up[0].events.truncate(1);
    let mut rows = right();
    rows[3] = row("4", "workflow_end", "terminated", None);
    let found = compare(&given_up, &rows);
    assert!(found.is_empty(), "{found}");

    let mut wrong_attempt = right();
    wrong_attempt[2] = row("3", "activity_end", "running", Some(("1", 2, "cancelled")));
    assert_eq!(compare(&completed(), &wrong_attempt).wrong_outcome.len(), 1);
}
