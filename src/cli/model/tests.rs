//! What events tell, in any order.

use super::*;
use crate::event::{
    ActivityStatus, FailureDetails, WorkflowState,
    lifecycle::{activity_async_end, activity_end, activity_start, workflow_end, workflow_start},
};

fn stored(mut event: Event, run: &str, at_ms: i64) -> StoredEvent {
    let metadata = &mut event.metadata;
    metadata.event_id = Some(EventId::new());
    metadata.created_at = DateTime::from_timestamp_millis(at_ms);
    metadata.workflow_id = Some("w".to_owned());
    metadata.workflow_run_id = Some(run.to_owned());
    metadata.workflow_type = Some("Order".to_owned());
    StoredEvent::new(1, &event).unwrap()
}

fn of_attempt(event: Event, attempt: u32) -> Event {
    event
        .metadata("activity_id", "1")
        .metadata("activity_type", "ship")
        .metadata("attempt", attempt)
}

fn failed() -> FailureDetails {
    FailureDetails {
        error_type: Some("OutOfStock".into()),
        message: Some("no more".into()),
        non_retryable: false,
    }
}

#[test]
fn attempts_have_their_gaps_and_a_run_its_end() {
    let failure = failed();
    let events = [
        stored(workflow_start(), "r", 0),
        stored(of_attempt(activity_start(), 1), "r", 10),
        stored(
            of_attempt(activity_end(ActivityStatus::Failed, 5.0, Some(&failure)), 1),
            "r",
            15,
        ),
        stored(of_attempt(activity_start(), 2), "r", 1015),
        stored(
            of_attempt(activity_end(ActivityStatus::Completed, 2.0, None), 2),
            "r",
            1017,
        ),
        stored(Event::new("order.shipped"), "r", 1018),
        stored(
            workflow_end(WorkflowState::Completed, 1020.0, None),
            "r",
            1020,
        ),
    ];
    // The order in which they are stored does not matter.
    for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]] {
        let model = model(order.map(|index| &events[index]));
        let run = &model.runs[0];
        assert_eq!(
            (run.state, run.duration_ms),
            (Outcome::Completed, Some(1020.0))
        );
        assert_eq!(run.marks[0].event_type, "order.shipped");
        let attempts = &run.activities[0].attempts;
        let known: Vec<_> = attempts
            .iter()
            .map(|it| (it.attempt, it.status, it.waited_ms))
            .collect();
        assert_eq!(
            known,
            [
                (1, Outcome::Failed, None),
                (2, Outcome::Completed, Some(1000.0))
            ]
        );
        let error = attempts[0].error.as_ref().unwrap();
        assert_eq!(error.to_string(), "OutOfStock: no more");
    }
}

#[test]
fn an_end_alone_tells_when_it_began() {
    let end = workflow_end(WorkflowState::TimedOut, 500.0, None);
    let model = model(&[stored(end, "r", 2000)]);
    let run = &model.runs[0];
    assert_eq!(run.started_at, DateTime::from_timestamp_millis(1500));
    assert!(run.state.is_failure() && !run.is_open());
}

#[test]
fn a_run_begins_when_the_server_started_it() {
    let end = || workflow_end(WorkflowState::Completed, 500.0, None);
    for (seen, expected) in [(1900, 1500), (1500, 1500), (1501, 1500), (1200, 1200)] {
        let model = model(&[
            stored(workflow_start(), "r", seen),
            stored(end(), "r", 2000),
        ]);
        let expected = DateTime::from_timestamp_millis(expected);
        assert_eq!(model.runs[0].started_at, expected, "{seen}");
    }
}

#[test]
fn a_completion_by_others_ends_its_attempt() {
    let left = activity_end(ActivityStatus::WillCompleteAsync, 1.0, None);
    let ended = activity_async_end(ActivityStatus::Completed, 900.0, None);
    let model = model(&[
        stored(of_attempt(activity_start(), 1), "r", 0),
        stored(of_attempt(left, 1), "r", 1),
        stored(of_attempt(ended, 1), "r", 900),
    ]);
    let attempts = &model.runs[0].activities[0].attempts;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].status, Outcome::Completed);
    assert_eq!(attempts[0].duration_ms, Some(900.0));
}

#[test]
fn attempts_of_one_number_are_told_apart_after_a_reset() {
    let end = || activity_end(ActivityStatus::Failed, 1.0, None);
    let model = model(&[
        stored(of_attempt(activity_start(), 1), "r", 0),
        stored(of_attempt(end(), 1), "r", 1),
        stored(of_attempt(activity_start(), 1), "r", 50),
        stored(of_attempt(end(), 1), "r", 51),
    ]);
    assert_eq!(model.runs[0].activities[0].attempts.len(), 2);
}

#[test]
fn children_stand_with_the_run_that_started_them() {
    let mut child = stored(workflow_start(), "c", 5);
    let mut event = child.event().unwrap();
    event.metadata.workflow_id = Some("w/child".to_owned());
    event.metadata.parent_workflow_id = Some("w".to_owned());
    event.metadata.parent_run_id = Some("r2".to_owned());
    child = StoredEvent::new(1, &event).unwrap();
    let model = model(&[
        stored(workflow_start(), "r1", 0),
        stored(workflow_start(), "r2", 3),
        child,
    ]);
    assert_eq!(model.runs[1].children, [2]);
    assert_eq!(model.runs[2].parent, Some(1));
    assert!(model.runs[0].children.is_empty());
}

#[test]
fn statistics_count_failures_among_what_ended() {
    let model = model(&[
        stored(workflow_start(), "open", 0),
        stored(workflow_end(WorkflowState::Completed, 10.0, None), "a", 1),
        stored(
            workflow_end(WorkflowState::Failed, 30.0, Some(&failed())),
            "b",
            2,
        ),
    ]);
    let (workflows, activities) = statistics(&model);
    let order = &workflows["Order"];
    assert_eq!((order.count, order.running, order.failed), (3, 1, 1));
    assert_eq!(order.failure_rate, Some(0.5));
    assert_eq!((order.p50_ms, order.p95_ms), (Some(10.0), Some(30.0)));
    assert!(activities.is_empty());
}
