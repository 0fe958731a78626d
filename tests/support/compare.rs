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
    failure::v1::failure::FailureInfo,
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

/// How an attempt ended, as far as history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The worker reported it, in this word.
    Reported(&'static str),
    /// It was retried; that it failed stands nowhere but in the number of the next attempt.
    Retried,
    /// The server gave it up: its worker died, or was too slow. What its code came to, and whether it
    /// lived to tell, only the worker knew.
    TimedOut,
}

type Attempts = BTreeMap<(String, u32), Ended>;

/// The attempts that the history of a run knows to be finished.
fn finished_attempts(events: &[HistoryEvent]) -> Attempts {
    let mut scheduled = BTreeMap::new();
    let mut started = BTreeMap::new();
    let mut attempts = Attempts::new();
    for event in events {
        let (schedule, ended) = match event.attributes.as_ref() {
            Some(Attributes::ActivityTaskScheduledEventAttributes(activity)) => {
                scheduled.insert(event.event_id, activity.activity_id.clone());
                continue;
            }
            Some(Attributes::ActivityTaskStartedEventAttributes(start)) => {
                let timed_out = start.last_failure.as_ref().is_some_and(|failure| {
                    matches!(
                        failure.failure_info,
                        Some(FailureInfo::TimeoutFailureInfo(_))
                    )
                });
                let attempt = u32::try_from(start.attempt).unwrap_or_default();
                started.insert(start.scheduled_event_id, (attempt, timed_out));
                continue;
            }
            Some(Attributes::ActivityTaskCompletedEventAttributes(end)) => {
                (end.scheduled_event_id, Ended::Reported("completed"))
            }
            Some(Attributes::ActivityTaskFailedEventAttributes(end)) => {
                (end.scheduled_event_id, Ended::Reported("failed"))
            }
            Some(Attributes::ActivityTaskCanceledEventAttributes(end)) => {
                (end.scheduled_event_id, Ended::Reported("cancelled"))
            }
            Some(Attributes::ActivityTaskTimedOutEventAttributes(end)) => {
                (end.scheduled_event_id, Ended::TimedOut)
            }
            _ => continue,
        };
        let (Some(id), Some((last, last_but_one_timed_out))) =
            (scheduled.get(&schedule), started.get(&schedule))
        else {
            continue;
        };
        for attempt in 1..*last {
            let ended = if attempt + 1 == *last && *last_but_one_timed_out {
                Ended::TimedOut
            } else {
                Ended::Retried
            };
            attempts.insert((id.clone(), attempt), ended);
        }
        attempts.insert((id.clone(), *last), ended);
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
    for ((id, attempt), ended) in &expected {
        let what = format!("activity_end of {name} activity {id} attempt {attempt}");
        match seen.remove(&(id.clone(), *attempt)).as_deref() {
            None | Some([]) if *ended == Ended::TimedOut => {}
            None | Some([]) => differences.missing.push(what),
            Some([end]) => {
                let told = end.data("status").as_str().unwrap_or_default();
                let agrees = match ended {
                    Ended::Reported(status) => told == *status || told == "will_complete_async",
                    Ended::Retried => told == "failed",
                    Ended::TimedOut => true,
                };
                if !agrees {
                    differences
                        .wrong_outcome
                        .push(format!("{what}: {told}, the server has {ended:?}"));
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
