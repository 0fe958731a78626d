//! The store against the server's own histories: for every run exactly one start, for every closed
//! run exactly one end with the server's outcome, for every finished activity attempt exactly one
//! end, and nothing else.

use super::Row;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::WorkflowExecutionStatus,
    history::v1::{HistoryEvent, history_event::Attributes},
};

/// One run, as the server has it.
pub struct RunHistory {
    pub workflow_id: String,
    pub run_id: String,
    pub status: WorkflowExecutionStatus,
    pub events: Vec<HistoryEvent>,
}

/// What does not agree, by kind, each line naming the run and the event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub missing: Vec<String>,
    pub duplicate: Vec<String>,
    pub phantom: Vec<String>,
    pub wrong_outcome: Vec<String>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, lines) in [
            ("missing", &self.missing),
            ("duplicate", &self.duplicate),
            ("phantom", &self.phantom),
            ("wrong outcome", &self.wrong_outcome),
        ] {
            writeln!(f, "{kind}: {}", lines.len())?;
            for line in lines.iter().take(20) {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// The word that events use for the server's status; none while the run is open.
pub fn state_of(status: WorkflowExecutionStatus) -> Option<&'static str> {
    match status {
        WorkflowExecutionStatus::Completed => Some("completed"),
        WorkflowExecutionStatus::Failed => Some("failed"),
        WorkflowExecutionStatus::Canceled => Some("cancelled"),
        WorkflowExecutionStatus::Terminated => Some("terminated"),
        WorkflowExecutionStatus::ContinuedAsNew => Some("continued_as_new"),
        WorkflowExecutionStatus::TimedOut => Some("timed_out"),
        _ => None,
    }
}

/// An attempt and how it ended; the outcome of an attempt that was retried stands nowhere in
/// history but in the number of the next one, and it can only have failed or timed out.
type Attempts = BTreeMap<(String, u32), Option<&'static str>>;

/// The attempts that the history of a run knows to be finished.
fn finished_attempts(events: &[HistoryEvent]) -> Attempts {
    let mut scheduled = BTreeMap::new();
    let mut started = BTreeMap::new();
    let mut attempts = Attempts::new();
    for event in events {
        match event.attributes.as_ref() {
            Some(Attributes::ActivityTaskScheduledEventAttributes(activity)) => {
                scheduled.insert(event.event_id, activity.activity_id.clone());
            }
            Some(Attributes::ActivityTaskStartedEventAttributes(start)) => {
                started.insert(start.scheduled_event_id, start.attempt);
            }
            attributes => {
                let (schedule, status) = match attributes {
                    Some(Attributes::ActivityTaskCompletedEventAttributes(end)) => {
                        (end.scheduled_event_id, "completed")
                    }
                    Some(Attributes::ActivityTaskFailedEventAttributes(end)) => {
                        (end.scheduled_event_id, "failed")
                    }
                    Some(Attributes::ActivityTaskCanceledEventAttributes(end)) => {
                        (end.scheduled_event_id, "cancelled")
                    }
                    _ => continue,
                };
                let (Some(id), Some(last)) = (scheduled.get(&schedule), started.get(&schedule))
                else {
                    continue;
                };
                let last = u32::try_from(*last).unwrap_or_default();
                for attempt in 1..last {
                    attempts.insert((id.clone(), attempt), None);
                }
                attempts.insert((id.clone(), last), Some(status));
            }
        }
    }
    attempts
}

/// Compares the server's runs with the rows of a store.
pub fn compare(runs: &[RunHistory], rows: &[Row]) -> Differences {
    let mut differences = Differences::default();
    let mut by_run: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for row in rows {
        if !ids.insert(&row.event_id) {
            differences
                .duplicate
                .push(format!("event id {}", row.event_id));
        }
        if row.event_type == "application_events"
            && let Some(run) = &row.workflow_run_id
        {
            by_run.entry(run).or_default().push(row);
        }
    }
    for run in runs {
        let rows = by_run.remove(run.run_id.as_str()).unwrap_or_default();
        compare_run(run, &rows, &mut differences);
    }
    for (run, rows) in by_run {
        for row in rows {
            differences.phantom.push(format!(
                "{} of run {run}, which the server does not know",
                row.event_name
            ));
        }
    }
    differences
}

fn compare_run(run: &RunHistory, rows: &[&Row], differences: &mut Differences) {
    let name = format!("{} {}", run.workflow_id, run.run_id);
    let named =
        |event: &str| -> Vec<&&Row> { rows.iter().filter(|row| row.event_name == event).collect() };
    match named("workflow_start").len() {
        0 => differences
            .missing
            .push(format!("workflow_start of {name}")),
        1 => {}
        more => differences
            .duplicate
            .push(format!("{more} workflow_start of {name}")),
    }
    let ends = named("workflow_end");
    match (state_of(run.status), ends.as_slice()) {
        (None, []) => {}
        (None, _) => differences
            .phantom
            .push(format!("workflow_end of {name}, which is open")),
        (Some(_), []) => differences.missing.push(format!("workflow_end of {name}")),
        (Some(state), [end]) => {
            let told = end.workflow_state.as_deref().unwrap_or_default();
            if told != state || end.data("status").as_str() != Some(state) {
                differences.wrong_outcome.push(format!(
                    "workflow_end of {name}: {told}, the server has {state}"
                ));
            }
        }
        (Some(_), more) => differences
            .duplicate
            .push(format!("{} workflow_end of {name}", more.len())),
    }

    let expected = finished_attempts(&run.events);
    let mut seen: BTreeMap<(String, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| {
        row.event_name == "activity_end" && row.metadata("is_local").as_bool() != Some(true)
    }) {
        let key = (
            row.activity_id.clone().unwrap_or_default(),
            row.attempt.unwrap_or_default(),
        );
        seen.entry(key).or_default().push(row);
    }
    for ((id, attempt), status) in &expected {
        let what = format!("activity_end of {name} activity {id} attempt {attempt}");
        match seen.remove(&(id.clone(), *attempt)).as_deref() {
            None | Some([]) => differences.missing.push(what),
            Some([end]) => {
                let told = end.data("status").as_str().unwrap_or_default();
                let agrees = match status {
                    Some("completed") => told == "completed" || told == "will_complete_async",
                    Some(status) => told == *status || told == "will_complete_async",
                    None => told == "failed",
                };
                if !agrees {
                    differences
                        .wrong_outcome
                        .push(format!("{what}: {told}, the server has {status:?}"));
                }
            }
            Some(more) => differences.duplicate.push(format!("{} {what}", more.len())),
        }
    }
    // In a closed run every attempt that finished is in history; in an open one it may be to come.
    if state_of(run.status).is_some() {
        for (id, attempt) in seen.into_keys() {
            differences.phantom.push(format!(
                "activity_end of {name} activity {id} attempt {attempt}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use temporalio_common::protos::temporal::api::history::v1::{
        ActivityTaskCompletedEventAttributes, ActivityTaskScheduledEventAttributes,
        ActivityTaskStartedEventAttributes,
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

        let mut wrong_attempt = right();
        wrong_attempt[2] = row("3", "activity_end", "running", Some(("1", 2, "cancelled")));
        assert_eq!(compare(&completed(), &wrong_attempt).wrong_outcome.len(), 1);
    }
}
