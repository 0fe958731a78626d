//! The comparison of a store with the server's histories catches each kind of difference.

use crate::support::{
    Row,
    compare::{Differences, RunHistory, Source, compare, compare_with},
    witness::{Attempt, BY_HAND, SAID, WITNESS, Witness, failure_message},
};
use serde_json::{Value, json};
use temporalio_common::protos::{
    coresdk::{
        common::build_local_activity_marker_details, external_data::LocalActivityMarkerData,
    },
    temporal::api::{
        common::v1::{Memo, Payload, Payloads},
        enums::v1::WorkflowExecutionStatus,
        failure::v1::{Failure, failure::FailureInfo},
        history::v1::{
            ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes,
            ActivityTaskStartedEventAttributes, HistoryEvent, MarkerRecordedEventAttributes,
            WorkflowExecutionCompletedEventAttributes, WorkflowPropertiesModifiedEventAttributes,
            history_event::Attributes,
        },
    },
};

fn row(id: &str, name: &str, state: &str, activity: Option<(&str, u32, &str)>) -> Row {
    let status = activity.map_or(state, |(_, _, status)| status);
    Row {
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
        reset_activities: Default::default(),
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

fn payload(value: &impl serde::Serialize) -> Payload {
    Payload {
        data: serde_json::to_vec(value).unwrap(),
        ..Payload::default()
    }
}

fn recorded(attributes: Attributes) -> HistoryEvent {
    HistoryEvent {
        attributes: Some(attributes),
        ..HistoryEvent::default()
    }
}

fn witness(said: &str, attempts: Vec<Attempt>) -> HistoryEvent {
    let witness = Witness {
        said: said.to_owned(),
        attempts,
    };
    let memo = Memo {
        fields: [(WITNESS.to_owned(), payload(&witness))].into(),
    };
    recorded(Attributes::WorkflowPropertiesModifiedEventAttributes(
        WorkflowPropertiesModifiedEventAttributes {
            upserted_memo: Some(memo),
            ..Default::default()
        },
    ))
}

fn marker(attempt: u32, goes_on: bool, failure: Option<Failure>) -> HistoryEvent {
    let data = LocalActivityMarkerData {
        attempt,
        activity_id: "5".to_owned(),
        activity_type: "l".to_owned(),
        backoff: goes_on.then(Default::default),
        ..LocalActivityMarkerData::default()
    };
    recorded(Attributes::MarkerRecordedEventAttributes(
        MarkerRecordedEventAttributes {
            marker_name: "core_local_activity".to_owned(),
            details: build_local_activity_marker_details(data, None),
            failure,
            ..Default::default()
        },
    ))
}

fn failed(message: &str) -> Option<Failure> {
    Some(Failure {
        message: message.to_owned(),
        failure_info: Some(FailureInfo::ApplicationFailureInfo(Default::default())),
        ..Failure::default()
    })
}

fn attempt(number: u32, by_hand: &str, status: &str) -> Attempt {
    Attempt {
        activity_id: "5".to_owned(),
        number,
        by_hand: vec![by_hand.to_owned()],
        status: Some(status.to_owned()),
    }
}

/// A run that says something, then has a local activity that fails once, is parted by a timer from its
/// second attempt, and says what came of that.
fn talkative(status: WorkflowExecutionStatus) -> RunHistory {
    let result = Payloads {
        payloads: vec![payload(&["begin", "5 completed"])],
    };
    RunHistory {
        workflow_id: "w".to_owned(),
        run_id: "r".to_owned(),
        status,
        reset_activities: Default::default(),
        events: vec![
            witness("begin", Vec::new()),
            marker(
                1,
                true,
                failed(&failure_message("n", &["first".to_owned()])),
            ),
            marker(2, false, None),
            witness("5 completed", vec![attempt(2, "second", "completed")]),
            recorded(Attributes::WorkflowExecutionCompletedEventAttributes(
                WorkflowExecutionCompletedEventAttributes {
                    result: Some(result),
                    ..Default::default()
                },
            )),
        ],
    }
}

fn local(id: &str, name: &str, attempt: u32, data: Value) -> Row {
    let mut row = row(id, name, "running", Some(("5", attempt, "")));
    row.event_type = match name {
        BY_HAND => BY_HAND.to_owned(),
        _ => row.event_type,
    };
    row.activity_type = Some("l".to_owned());
    row.event = json!({ "metadata": { "is_local": true }, "data": data });
    row
}

fn said(id: &str, text: &str) -> Row {
    let mut row = row(id, SAID, "running", None);
    row.event_type = SAID.to_owned();
    row.event = json!({ "metadata": {}, "data": { "said": text } });
    row
}

/// What the store has of the talkative run.
fn all_of_it() -> Vec<Row> {
    let failed = json!({ "status": "failed", "error": { "message": "n after first" } });
    vec![
        row("1", "workflow_start", "running", None),
        said("2", "begin"),
        local("3", BY_HAND, 1, json!({ "nonce": "first" })),
        local("4", "activity_end", 1, failed),
        local("5", "activity_start", 2, json!({})),
        local("6", BY_HAND, 2, json!({ "nonce": "second" })),
        local("7", "activity_end", 2, json!({ "status": "completed" })),
        said("8", "5 completed"),
        row("9", "workflow_end", "completed", None),
    ]
}

fn of_the_talkative(rows: &[Row]) -> Differences {
    compare(&[talkative(WorkflowExecutionStatus::Completed)], rows)
}

#[test]
fn each_user_event_and_local_attempt_is_there_once() {
    let found = of_the_talkative(&all_of_it());
    assert!(found.is_empty(), "{found}");
    for missing in 0..all_of_it().len() {
        let mut rows = all_of_it();
        rows.remove(missing);
        let found = of_the_talkative(&rows);
        assert_eq!(
            (found.missing.len(), found.count()),
            (1, 1),
            "{missing}: {found}"
        );
    }
    for twice in 0..all_of_it().len() {
        let mut rows = all_of_it();
        let mut copy = rows[twice].clone();
        copy.event_id = "other".to_owned();
        rows.push(copy);
        let found = of_the_talkative(&rows);
        // Two ends of an attempt contradict its marker and its witness.
        assert_eq!(found.duplicate.len(), found.count(), "{twice}: {found}");
        assert!((1..=2).contains(&found.count()), "{twice}: {found}");
    }
}

#[test]
fn what_only_a_rejected_execution_did_is_a_phantom() {
    let phantoms = [
        said("x", "5 failed"),
        local("x", BY_HAND, 2, json!({ "nonce": "third" })),
        local("x", "activity_start", 3, json!({})),
        local("x", "activity_end", 3, json!({ "status": "failed" })),
        local("x", "activity_end", 0, json!({ "status": "cancelled" })),
    ];
    for phantom in phantoms {
        let mut rows = all_of_it();
        rows.push(phantom.clone());
        let found = of_the_talkative(&rows);
        assert_eq!(
            (found.phantom.len(), found.count()),
            (1, 1),
            "{phantom:?}: {found}"
        );
    }
    // A run that was terminated before any of its tasks was accepted did nothing.
    let mut terminated = talkative(WorkflowExecutionStatus::Terminated);
    terminated.events.clear();
    let mut rows = all_of_it();
    rows[8] = row("9", "workflow_end", "terminated", None);
    let found = compare(&[terminated], &rows);
    assert_eq!((found.phantom.len(), found.count()), (7, 7), "{found}");
}

#[test]
fn what_another_execution_came_to_is_wrong() {
    let wrong = |index: usize, row: Row| {
        let mut rows = all_of_it();
        rows[index] = row;
        let found = of_the_talkative(&rows);
        assert!(!found.wrong_outcome.is_empty(), "{found}");
        assert_eq!(found.wrong_outcome.len(), found.count(), "{found}");
    };
    // Another status, another failure, another type, another attempt.
    wrong(
        6,
        local("7", "activity_end", 2, json!({ "status": "failed" })),
    );
    let message = json!({ "status": "failed", "error": { "message": "m after other" } });
    wrong(3, local("4", "activity_end", 1, message));
    let mut other_type = all_of_it()[6].clone();
    other_type.activity_type = Some("m".to_owned());
    wrong(6, other_type);
    wrong(2, local("3", BY_HAND, 2, json!({ "nonce": "first" })));
}

#[test]
fn without_a_file_what_only_the_worker_knew_may_be_lost() {
    let mut rows = all_of_it();
    rows.retain(|row| row.event_name.starts_with("workflow_"));
    let run = || [talkative(WorkflowExecutionStatus::Completed)];
    let found = compare_with(Source::Lossy, &run(), &rows);
    // Both ends are in markers: the reconciler must have found them.
    assert_eq!((found.missing.len(), found.count()), (2, 2), "{found}");
    assert_eq!(found.lost.len(), 5);
    rows.push(said("x", "5 failed"));
    let found = compare_with(Source::Lossy, &run(), &rows);
    assert_eq!(found.phantom.len(), 1, "{found}");
}
