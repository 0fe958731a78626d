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
