//! The store against the server's own histories: for every run exactly one start, for every closed
//! run exactly one end with the server's outcome, for every finished activity attempt exactly one
//! end, what the accepted executions of a workflow published, and nothing else.

mod activities;
mod locals;
mod witnessed;

use super::Row;
use activities::compare_activities;
use locals::compare_locals;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
use temporalio_common::protos::temporal::api::{
    enums::v1::{EventType, WorkflowExecutionStatus, WorkflowTaskFailedCause},
    history::v1::{HistoryEvent, history_event::Attributes},
};
use witnessed::{Witnessed, compare_published};

/// One run, as the server has it.
pub struct RunHistory {
    pub workflow_id: String,
    pub run_id: String,
    pub status: WorkflowExecutionStatus,
    pub events: Vec<HistoryEvent>,
    /// Activities whose attempts the test had counted from 1 again, which history does not tell.
    pub reset_activities: BTreeSet<String>,
}

impl RunHistory {
    /// Whether a reset made this run out of another one's history.
    fn is_reset(&self) -> bool {
        self.events.first().is_some_and(|event| {
            matches!(
                event.attributes.as_ref(),
                Some(Attributes::WorkflowExecutionStartedEventAttributes(start))
                    if start.original_execution_run_id != self.run_id
            )
        })
    }

    /// What happened in this run and not in the one that was reset.
    fn own_events(&self) -> &[HistoryEvent] {
        if !self.is_reset() {
            return &self.events;
        }
        let is_reset = |event: &HistoryEvent| {
            matches!(
                event.attributes.as_ref(),
                Some(Attributes::WorkflowTaskFailedEventAttributes(task))
                    if task.cause() == WorkflowTaskFailedCause::ResetWorkflow
            )
        };
        let first = self.events.iter().rposition(is_reset).unwrap_or_default();
        &self.events[first..]
    }
}

/// What does not agree, by kind, each line naming the run and the event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    pub missing: Vec<String>,
    pub duplicate: Vec<String>,
    pub phantom: Vec<String>,
    pub wrong_outcome: Vec<String>,
    /// What a store without a file may lose with its process; no difference.
    pub lost: Vec<String>,
    /// The histories of the first runs with a difference, and what the store has of them.
    pub concerned: Vec<String>,
}

impl Differences {
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn count(&self) -> usize {
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
        let at = event.event_time.unwrap_or_default();
        text.push_str(&format!(
            "\n  {} {}.{:09} {:?}",
            event.event_id,
            at.seconds,
            at.nanos,
            event.event_type()
        ));
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

/// Who should have put the events there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The workers alone: an attempt whose worker died, as the server says, may have no end.
    Workers,
    /// Workers and reconciler: everything that the server knows must be there.
    Reconciled,
    /// Both, without journal files: what only the worker knew may be lost with it.
    Lossy,
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
        if let Some(run) = &row.workflow_run_id {
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
    let witnessed = Witnessed::of(run);
    compare_locals(source, run, rows, &witnessed, &name, differences);
    compare_published(source, run, rows, &witnessed, &name, differences);
}
