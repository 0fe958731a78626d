//! The options, the report and the errors of a reconciler. Plain data.

use crate::{
    event::{LifecycleEvent, WorkflowState},
    journal::JournalError,
    record::Draft,
    store::PublishError,
};
use bon::Builder;
use std::{ops::AddAssign, time::Duration};

/// The options of a [`Reconciler`](crate::Reconciler).
///
/// ```
/// use temporal_eventstore::ReconcilerOptions;
///
/// let options = ReconcilerOptions::builder()
///     .task_queue("orders")
///     .requests_per_second(5)
///     .build();
/// assert!(options.activities);
/// ```
#[derive(Clone, Debug, Builder)]
#[builder(state_mod(vis = "pub"), on(String, into))]
#[non_exhaustive]
pub struct ReconcilerOptions {
    /// Looks only at runs and standalone activities of this task queue. The name must not contain a double quote or a
    /// backslash; see [`ReconcileError::TaskQueue`].
    pub task_queue: Option<String>,
    /// Looks only at runs that match this [visibility query](https://docs.temporal.io/visibility), such as
    /// `WorkflowType = 'Order'`.
    pub filter: Option<String>,
    /// Looks only at standalone activities that match this visibility query, such as `ActivityType = 'Charge'`. If
    /// [`filter`](Self::filter) is set and this option is not, the reconciler ignores standalone activities, since a
    /// filter for runs does not apply to them.
    pub standalone_filter: Option<String>,
    /// Whether to look for lost activity attempts, too; `true` by default. This reads the history of every closed run.
    /// If it is `false`, only the histories of runs whose start or end is missing are read, and open runs and
    /// standalone activities are ignored.
    #[builder(default = true)]
    pub activities: bool,
    /// About how many open runs, and how many open standalone activities, each pass asks the server about, to find
    /// attempts that ended without a report from their worker; 100 by default. 0 ignores open ones. Each pass
    /// continues where the last one ended. This costs one request for each, and reads a part of the history of runs in
    /// which an attempt was followed by another.
    #[builder(default = 100)]
    pub open_runs: u32,
    /// How long the reconciler waits after a run has closed before it looks at the run; 10 seconds by default. Until
    /// then the run's worker may still report the end, with more detail than the history has.
    #[builder(default = Duration::from_secs(10))]
    pub grace: Duration,
    /// How far back the first pass looks, when there is no checkpoint yet; one day by default.
    #[builder(default = Duration::from_secs(24 * 60 * 60))]
    pub lookback: Duration,
    /// How far before the checkpoint each pass starts, since visibility shows a closed run with a short delay; two
    /// minutes by default.
    #[builder(default = Duration::from_secs(2 * 60))]
    pub overlap: Duration,
    /// The longest delay with which visibility may show a closed run that is still found; four hours by default. Four
    /// times within this time, the reconciler lists again the runs that closed within this time before the checkpoint,
    /// and looks at those that it had not listed before. Zero switches this off. A value above `lookback` counts as
    /// `lookback`.
    #[builder(default = Duration::from_secs(4 * 60 * 60))]
    pub late: Duration,
    /// The length of the time range that is looked at before the checkpoint moves; one hour by default. A value below
    /// one second counts as one second.
    #[builder(default = Duration::from_secs(60 * 60))]
    pub window: Duration,
    /// The number of runs, or of events of a history, that one request asks for; 100 by default.
    #[builder(default = 100)]
    pub page_size: u32,
    /// The largest number of requests to the server in one second; 20 by default. 0 counts as 1.
    #[builder(default = 20)]
    pub requests_per_second: u32,
}

impl Default for ReconcilerOptions {
    fn default() -> Self {
        Self::builder().build()
    }
}

impl ReconcilerOptions {
    /// The visibility query of task queue and filter.
    pub(super) fn query(&self) -> Option<String> {
        self.query_with(self.filter.as_deref())
    }

    /// The same for standalone activities.
    pub(super) fn standalone_query(&self) -> Option<String> {
        self.query_with(self.standalone_filter.as_deref())
    }

    fn query_with(&self, filter: Option<&str>) -> Option<String> {
        let task_queue = self
            .task_queue
            .as_deref()
            .map(|queue| format!("TaskQueue = '{}'", quoted(queue)));
        let filter = filter.map(|filter| format!("({filter})"));
        match (task_queue, filter) {
            (Some(task_queue), Some(filter)) => Some(format!("{task_queue} AND {filter}")),
            (task_queue, filter) => task_queue.or(filter),
        }
    }

    /// Whether the server can be asked for it.
    pub(super) fn check(&self) -> Result<(), ReconcileError> {
        match &self.task_queue {
            Some(task_queue) if task_queue.contains(['"', '\\']) => {
                Err(ReconcileError::TaskQueue {
                    task_queue: task_queue.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn pause_between_requests(&self) -> Duration {
        // A pause of nothing is no interval.
        (Duration::from_secs(1) / self.requests_per_second.max(1)).max(Duration::from_micros(1))
    }
}

/// A text within the quotes of a visibility query.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

/// What a reconciler has found and added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reconciled {
    /// Closed runs that were looked at.
    pub runs: u64,
    /// Closed standalone activities that were looked at.
    pub standalone_activities: u64,
    /// `workflow_start` events that were missing and were added.
    pub workflow_starts: u64,
    /// `workflow_end` events that were missing and were added.
    pub workflow_ends: u64,
    /// `activity_start` events that were missing and were added.
    pub activity_starts: u64,
    /// `activity_end` events that were missing and were added.
    pub activity_ends: u64,
    /// `activity_async_end` events that were missing and were added.
    pub activity_async_ends: u64,
    /// Those of `workflow_ends` that are neither terminations nor timeouts: a worker sent such an end to the server, so that
    /// its event should have been in the store.
    pub unreported_ends: u64,
    /// Holds in the journal that were settled: stored, replaced by the server's outcome, or discarded.
    pub settled: u64,
}

impl Reconciled {
    /// Returns how many events were added.
    pub fn added(&self) -> u64 {
        // Named one by one, so that a new counter is not forgotten.
        let Self {
            runs: _,
            standalone_activities: _,
            settled: _,
            unreported_ends: _,
            workflow_starts,
            workflow_ends,
            activity_starts,
            activity_ends,
            activity_async_ends,
        } = self;
        workflow_starts + workflow_ends + activity_starts + activity_ends + activity_async_ends
    }

    pub(super) fn count(&mut self, draft: &Draft) {
        let Some(event) = draft.lifecycle_event() else {
            return;
        };
        match event {
            LifecycleEvent::WorkflowStart => self.workflow_starts += 1,
            LifecycleEvent::WorkflowEnd => {
                self.workflow_ends += 1;
                let is_of_server = matches!(
                    draft.workflow_state(),
                    WorkflowState::Terminated | WorkflowState::TimedOut
                );
                self.unreported_ends += u64::from(!is_of_server);
            }
            LifecycleEvent::ActivityStart => self.activity_starts += 1,
            LifecycleEvent::ActivityEnd => self.activity_ends += 1,
            LifecycleEvent::ActivityAsyncEnd => self.activity_async_ends += 1,
            // No history has them.
            LifecycleEvent::WorkerStart
            | LifecycleEvent::WorkerEnd
            | LifecycleEvent::ApplicationStart
            | LifecycleEvent::ApplicationEnd
            | LifecycleEvent::TokenRefresh => {}
        }
    }
}

impl AddAssign for Reconciled {
    fn add_assign(&mut self, other: Self) {
        let Self {
            runs,
            standalone_activities,
            workflow_starts,
            workflow_ends,
            activity_starts,
            activity_ends,
            activity_async_ends,
            unreported_ends,
            settled,
        } = other;
        self.runs += runs;
        self.standalone_activities += standalone_activities;
        self.workflow_starts += workflow_starts;
        self.workflow_ends += workflow_ends;
        self.activity_starts += activity_starts;
        self.activity_ends += activity_ends;
        self.activity_async_ends += activity_async_ends;
        self.unreported_ends += unreported_ends;
        self.settled += settled;
    }
}

/// The error when a reconciler could not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// A request to the server failed, or the server refused it. For a wrong [filter](ReconcilerOptions::filter) the
    /// error contains the server's message.
    #[error("the reconciler could not ask the server: {0}")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The journal could not be read or written.
    #[error("the reconciler could not use the journal: {0}")]
    Journal(#[from] JournalError),
    /// An event could not be stored.
    #[error("the reconciler could not store an event: {0}")]
    Store(#[source] PublishError),
    /// The name of the task queue contains a double quote or a backslash. No visibility query of the server finds such
    /// a name. Use a [filter](ReconcilerOptions::filter) instead.
    #[error(
        "the reconciler cannot ask for the task queue {task_queue:?}: the server's visibility queries \
         find no name with a double quote or a backslash; use a filter instead"
    )]
    TaskQueue {
        /// The task queue.
        task_queue: String,
    },
    /// The time range of a backfill does not end after it begins.
    #[error("the time range is empty: it must end after it begins")]
    EmptyRange,
    /// The schedule could not be created or updated.
    #[error("the reconciler's schedule could not be set: {0}")]
    Schedule(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_quotes_the_task_queue_and_keeps_the_filter_whole() {
        let options = ReconcilerOptions::builder()
            .task_queue("o'rders")
            .filter("WorkflowType = 'A' OR WorkflowType = 'B'")
            .build();
        assert_eq!(
            options.query().as_deref(),
            Some("TaskQueue = 'o''rders' AND (WorkflowType = 'A' OR WorkflowType = 'B')")
        );
        assert_eq!(ReconcilerOptions::default().query(), None);
    }
}
