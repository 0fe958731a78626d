//! What a reconciler can be told, what it reports, and how it fails. Plain data.

use crate::{event::LifecycleEvent, journal::JournalError, store::PublishError};
use bon::Builder;
use std::{ops::AddAssign, time::Duration};

/// How a [`Reconciler`](crate::Reconciler) works.
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
    /// Only runs of this task queue.
    pub task_queue: Option<String>,
    /// Only runs that this [visibility query](https://docs.temporal.io/visibility) finds, such as
    /// `WorkflowType = 'Order'`.
    pub filter: Option<String>,
    /// Only standalone activities that this visibility query finds, such as `ActivityType = 'Charge'`.
    /// If [`filter`](Self::filter) is set and this is not, standalone activities are left alone, since a filter of
    /// runs does not apply to them.
    pub standalone_filter: Option<String>,
    /// Whether lost activity attempts are looked for too; on by default. This costs the history of every
    /// closed run; without it, only histories of runs are read whose start or end is missing.
    #[builder(default = true)]
    pub activities: bool,
    /// About how many open runs, and as many open standalone activities, each pass asks, to find attempts that ended
    /// without a report from their worker. 100 by default; 0 leaves open ones alone. Each pass continues where the
    /// last one ended. Costs one request each, and a part of the history of runs in which an attempt was followed by
    /// another.
    #[builder(default = 100)]
    pub open_runs: u32,
    /// How long after a run closed it is looked at; 10 seconds by default. Until then its worker may
    /// still report it, and say more than history does.
    #[builder(default = Duration::from_secs(10))]
    pub grace: Duration,
    /// How far back the first look goes, when there is no checkpoint yet; one day by default.
    #[builder(default = Duration::from_secs(24 * 60 * 60))]
    pub lookback: Duration,
    /// How far before the checkpoint each pass looks again, since visibility shows a closed run a moment late; two
    /// minutes by default.
    #[builder(default = Duration::from_secs(2 * 60))]
    pub overlap: Duration,
    /// How late visibility may show a run that is still found; four hours by default. Four times within that time,
    /// the runs that closed within it before the checkpoint are listed again, and those that were not listed before
    /// are looked at. Zero switches this off; never more than `lookback`.
    #[builder(default = Duration::from_secs(4 * 60 * 60))]
    pub late: Duration,
    /// How much time is looked at between two checkpoints; one hour by default.
    #[builder(default = Duration::from_secs(60 * 60))]
    pub window: Duration,
    /// How many runs are listed, and how many events of a history read, at once; 100 by default.
    #[builder(default = 100)]
    pub page_size: u32,
    /// How many requests the server gets in a second at most; 20 by default. 0 counts as 1.
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

/// What a reconciler found.
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
    /// `activity_async_end` events that were added.
    pub activity_async_ends: u64,
    /// Held ends that were released, or dropped since the server closed the run otherwise.
    pub settled: u64,
}

impl Reconciled {
    /// How many events were added.
    pub fn added(&self) -> u64 {
        self.workflow_starts
            + self.workflow_ends
            + self.activity_starts
            + self.activity_ends
            + self.activity_async_ends
    }

    pub(super) fn count(&mut self, event: Option<LifecycleEvent>) {
        let Some(event) = event else {
            return;
        };
        match event {
            LifecycleEvent::WorkflowStart => self.workflow_starts += 1,
            LifecycleEvent::WorkflowEnd => self.workflow_ends += 1,
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
        self.runs += other.runs;
        self.standalone_activities += other.standalone_activities;
        self.workflow_starts += other.workflow_starts;
        self.workflow_ends += other.workflow_ends;
        self.activity_starts += other.activity_starts;
        self.activity_ends += other.activity_ends;
        self.activity_async_ends += other.activity_async_ends;
        self.settled += other.settled;
    }
}

/// A reconciler could not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// The server could not be asked, or refused; a wrong [filter](ReconcilerOptions::filter) is
    /// refused with the server's own words.
    #[error("the reconciler could not ask the server: {0}")]
    Server(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The journal could not be asked or written.
    #[error("the reconciler could not use the journal: {0}")]
    Journal(#[from] JournalError),
    /// An event could not be stored.
    #[error("the reconciler could not store an event: {0}")]
    Store(#[source] PublishError),
    /// The server's visibility finds no task queue with a double quote or a backslash in its name,
    /// however it is asked.
    #[error(
        "the reconciler cannot ask for the task queue {task_queue:?}: the server's visibility queries \
         find no name with a double quote or a backslash; use a filter instead"
    )]
    TaskQueue {
        /// The task queue.
        task_queue: String,
    },
    /// The time range of a backfill ends before it begins.
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
