//! The store against the server's own histories: for every run exactly one start, for every closed
//! run exactly one end with the server's outcome, for every finished activity attempt exactly one
//! end, and nothing else.

use super::Row;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use temporalio_common::protos::coresdk::common::extract_local_activity_marker_data;
use temporalio_common::protos::temporal::api::{
    enums::v1::{EventType, WorkflowExecutionStatus, WorkflowTaskFailedCause},
    failure::v1::failure::FailureInfo,
    history::v1::{HistoryEvent, history_event::Attributes},
};

/// The marker in which the SDK's core records a local activity.
const LOCAL_ACTIVITY_MARKER_NAME: &str = "core_local_activity";

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
    /// The histories of the first runs with a difference, and what the store has of them.
    pub concerned: Vec<String>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn count(&self) -> usize {
        self.missing.len() + self.duplicate.len() + self.phantom.len() + self.wrong_outcome.len()
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
        for history in &self.concerned {
            writeln!(f, "{history}")?;
        }
        Ok(())
    }
}

/// A run as the server and the store have it, one line per event.
fn told(run: &RunHistory, rows: &[&Row]) -> String {
    let mut text = format!(
        "history of {} {} ({:?}):",
        run.workflow_id, run.run_id, run.status
    );
    for event in &run.events {
        text.push_str(&format!("\n  {} {:?}", event.event_id, event.event_type()));
    }
    text.push_str("\nthe store:");
    for row in rows {
        text.push_str(&format!("\n  {}", row.event));
    }
    text
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

/// The status of a run with this history.
pub fn status_of(events: &[HistoryEvent]) -> WorkflowExecutionStatus {
    match events.last().map(HistoryEvent::event_type) {
        Some(EventType::WorkflowExecutionCompleted) => WorkflowExecutionStatus::Completed,
        Some(EventType::WorkflowExecutionFailed) => WorkflowExecutionStatus::Failed,
        Some(EventType::WorkflowExecutionCanceled) => WorkflowExecutionStatus::Canceled,
        Some(EventType::WorkflowExecutionTerminated) => WorkflowExecutionStatus::Terminated,
        Some(EventType::WorkflowExecutionContinuedAsNew) => WorkflowExecutionStatus::ContinuedAsNew,
        Some(EventType::WorkflowExecutionTimedOut) => WorkflowExecutionStatus::TimedOut,
        _ => WorkflowExecutionStatus::Running,
    }
}

/// How an attempt ended, as far as history tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The worker reported it, in this word.
    Reported(&'static str),
    /// It failed and was retried; the server keeps the last such failure.
    Retried,
    /// It ended and was retried, and the server does not keep how: it may have failed, or the server gave
    /// it up like [`Self::TimedOut`].
    Forgotten,
    /// The server gave it up: its worker died, or was too slow. What its code came to, and whether it
    /// lived to tell, only the worker knew.
    TimedOut,
}

impl Ended {
    fn agrees_with(self, told: &str) -> bool {
        match self {
            Self::Reported(status) => told == status || told == "will_complete_async",
            // Others may have failed it, to whom its code left it.
            Self::Retried => told == "failed" || told == "will_complete_async",
            Self::Forgotten | Self::TimedOut => true,
        }
    }
}

/// What the history of a run knows of its activities.
#[derive(Default)]
struct Activities {
    /// Attempts that are finished, by activity id (for a local one with its type in front) and number;
    /// an id may be used again once its activity is over.
    finished: BTreeMap<(String, u32), Vec<Ended>>,
    /// Activities that were scheduled, and of whose attempts the server keeps nothing: they go on, were
    /// given up with their run, or ended before a reset, in another run.
    unknown: BTreeSet<String>,
}

impl Activities {
    fn finish(&mut self, id: String, attempt: u32, ended: Ended) {
        self.finished.entry((id, attempt)).or_default().push(ended);
    }
}

fn activities(run: &RunHistory) -> Activities {
    let mut scheduled = BTreeMap::new();
    let mut started = BTreeMap::new();
    let mut activities = Activities::default();
    let is_reset = is_reset(run);
    for event in &run.events {
        let Some(attributes) = event.attributes.as_ref() else {
            continue;
        };
        let (schedule, ended) = match attributes {
            Attributes::WorkflowTaskFailedEventAttributes(task)
                if is_reset && task.cause() == WorkflowTaskFailedCause::ResetWorkflow =>
            {
                // What came before happened in the run that was reset.
                for ((id, _), _) in std::mem::take(&mut activities.finished) {
                    activities.unknown.insert(id);
                }
                continue;
            }
            Attributes::ActivityTaskScheduledEventAttributes(activity) => {
                scheduled.insert(event.event_id, activity.activity_id.clone());
                continue;
            }
            Attributes::ActivityTaskStartedEventAttributes(start) => {
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
            Attributes::ActivityTaskCompletedEventAttributes(end) => {
                (end.scheduled_event_id, Ended::Reported("completed"))
            }
            Attributes::ActivityTaskFailedEventAttributes(end) => {
                (end.scheduled_event_id, Ended::Reported("failed"))
            }
            Attributes::ActivityTaskCanceledEventAttributes(end) => {
                (end.scheduled_event_id, Ended::Reported("cancelled"))
            }
            Attributes::ActivityTaskTimedOutEventAttributes(end) => {
                (end.scheduled_event_id, Ended::TimedOut)
            }
            Attributes::MarkerRecordedEventAttributes(marker)
                if marker.marker_name == LOCAL_ACTIVITY_MARKER_NAME =>
            {
                let local = extract_local_activity_marker_data(&marker.details).unwrap();
                let ended = match marker.failure.as_ref().map(|failure| &failure.failure_info) {
                    None => Ended::Reported("completed"),
                    Some(Some(FailureInfo::CanceledFailureInfo(_))) => Ended::Reported("cancelled"),
                    Some(Some(FailureInfo::TimeoutFailureInfo(_))) => Ended::TimedOut,
                    Some(_) => Ended::Reported("failed"),
                };
                let id = local_id(&local.activity_type, &local.activity_id);
                activities.finish(id, local.attempt, ended);
                continue;
            }
            _ => continue,
        };
        let Some(id) = scheduled.remove(&schedule) else {
            continue;
        };
        let Some((last, last_but_one_timed_out)) = started.remove(&schedule) else {
            // It waited to be retried when it was given up: nobody knows how often it was tried.
            if ended != Ended::Reported("completed") {
                activities.unknown.insert(id);
            }
            continue;
        };
        for attempt in 1..last {
            let ended = match (attempt + 1 == last, last_but_one_timed_out) {
                (false, _) => Ended::Forgotten,
                (true, true) => Ended::TimedOut,
                (true, false) => Ended::Retried,
            };
            activities.finish(id.clone(), attempt, ended);
        }
        activities.finish(id, last, ended);
    }
    activities.unknown.extend(scheduled.into_values());
    activities
}

fn is_reset(run: &RunHistory) -> bool {
    run.events.first().is_some_and(|event| {
        matches!(
            event.attributes.as_ref(),
            Some(Attributes::WorkflowExecutionStartedEventAttributes(start))
                if start.original_execution_run_id != run.run_id
        )
    })
}

fn local_id(activity_type: &str, id: &str) -> String {
    format!("{activity_type}/{id}")
}

/// Who should have put the events there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The workers alone: an attempt whose worker died, as the server says, may have no end.
    Workers,
    /// Workers and reconciler: everything that the server knows must be there.
    Reconciled,
}

/// Compares the server's runs with the rows of a store that its workers filled.
pub fn compare(runs: &[RunHistory], rows: &[Row]) -> Differences {
    compare_with(Source::Workers, runs, rows)
}

/// Compares the server's runs with the rows of a store.
pub fn compare_with(source: Source, runs: &[RunHistory], rows: &[Row]) -> Differences {
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
        let before = differences.count();
        compare_run(source, run, &rows, &mut differences);
        if differences.count() > before && differences.concerned.len() < 5 {
            differences.concerned.push(told(run, &rows));
        }
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

fn compare_run(source: Source, run: &RunHistory, rows: &[&Row], differences: &mut Differences) {
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
    compare_activities(source, run, rows, &name, differences);
}

fn compare_activities(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    name: &str,
    differences: &mut Differences,
) {
    let expected = activities(run);
    let mut seen: BTreeMap<(String, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.event_name == "activity_end") {
        let id = row.activity_id.clone().unwrap_or_default();
        let id = if row.metadata("is_local").as_bool() == Some(true) {
            local_id(row.activity_type.as_deref().unwrap_or_default(), &id)
        } else {
            id
        };
        let key = (id, row.attempt.unwrap_or_default());
        seen.entry(key).or_default().push(row);
    }
    for ((id, attempt), ended) in &expected.finished {
        let what = format!("activity_end of {name} activity {id} attempt {attempt}");
        let mut told: Vec<&str> = seen
            .remove(&(id.clone(), *attempt))
            .unwrap_or_default()
            .iter()
            .map(|row| row.data("status").as_str().unwrap_or_default())
            .collect();
        let mut contradicted = Vec::new();
        for ended in ended {
            match told.iter().position(|told| ended.agrees_with(told)) {
                Some(index) => drop(told.remove(index)),
                None if *ended == Ended::TimedOut && source == Source::Workers => {}
                None => contradicted.push(*ended),
            }
        }
        for ended in contradicted {
            match told.pop() {
                None => differences.missing.push(what.clone()),
                Some(told) => differences
                    .wrong_outcome
                    .push(format!("{what}: {told}, the server has {ended:?}")),
            }
        }
        for told in told {
            differences.duplicate.push(format!("{what}: {told}"));
        }
    }
    // In a closed run every attempt that finished is in history; in an open one it may be to come.
    if state_of(run.status).is_some() {
        for (id, attempt) in seen.into_keys() {
            let is_local = id.contains('/');
            // A local activity's attempt enters history with its workflow task, which may never have
            // been accepted: the run was closed from outside, or a later attempt stands for it.
            let is_known = expected.unknown.contains(&id)
                || is_local
                    && (closed_from_outside(run)
                        || expected
                            .finished
                            .keys()
                            .any(|(known, last)| *known == id && attempt < *last));
            if !is_known {
                differences.phantom.push(format!(
                    "activity_end of {name} activity {id} attempt {attempt}"
                ));
            }
        }
    }
}

fn closed_from_outside(run: &RunHistory) -> bool {
    matches!(
        run.status,
        WorkflowExecutionStatus::Terminated | WorkflowExecutionStatus::TimedOut
    )
}
