//! Counts, rates and percentiles of a model.

use super::{Model, Outcome};
use serde::Serialize;
use std::collections::BTreeMap;

/// Numbers of one workflow or activity type.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli) struct Statistics {
    /// Runs, or attempts.
    pub(in crate::cli) count: usize,
    pub(in crate::cli) running: usize,
    pub(in crate::cli) completed: usize,
    pub(in crate::cli) failed: usize,
    /// Failures among those that ended, from 0 to 1; none if none ended.
    pub(in crate::cli) failure_rate: Option<f64>,
    /// Attempts after the first.
    pub(in crate::cli) retries: usize,
    pub(in crate::cli) p50_ms: Option<f64>,
    pub(in crate::cli) p95_ms: Option<f64>,
    pub(in crate::cli) p99_ms: Option<f64>,
    pub(in crate::cli) max_ms: Option<f64>,
    #[serde(skip)]
    durations: Vec<f64>,
}

impl Statistics {
    fn add(&mut self, outcome: Outcome, duration_ms: Option<f64>, is_retry: bool) {
        self.count += 1;
        self.retries += usize::from(is_retry);
        match outcome {
            Outcome::Running | Outcome::WillCompleteAsync => self.running += 1,
            Outcome::Completed | Outcome::ContinuedAsNew => self.completed += 1,
            outcome if outcome.is_failure() => self.failed += 1,
            _ => {}
        }
        if outcome != Outcome::Running {
            self.durations.extend(duration_ms);
        }
    }

    fn finish(&mut self) {
        let ended = self.count - self.running;
        self.failure_rate = (ended > 0).then(|| self.failed as f64 / ended as f64);
        self.durations.sort_by(f64::total_cmp);
        self.p50_ms = percentile(&self.durations, 0.50);
        self.p95_ms = percentile(&self.durations, 0.95);
        self.p99_ms = percentile(&self.durations, 0.99);
        self.max_ms = self.durations.last().copied();
    }
}

/// The value that a share of the sorted values does not exceed (the nearest rank).
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Returns the numbers of each workflow type, and of each activity type.
pub(in crate::cli) fn statistics(
    model: &Model,
) -> (BTreeMap<String, Statistics>, BTreeMap<String, Statistics>) {
    let mut workflows: BTreeMap<String, Statistics> = BTreeMap::new();
    let mut activities: BTreeMap<String, Statistics> = BTreeMap::new();
    for run in &model.runs {
        let is_retry = run.workflow_attempt.is_some_and(|attempt| attempt > 1);
        let statistics = workflows.entry(run.workflow_type.clone()).or_default();
        statistics.add(run.state, run.duration_ms, is_retry);
    }
    let of_runs = model.runs.iter().flat_map(|run| &run.activities);
    for activity in of_runs.chain(&model.standalone) {
        let statistics = activities
            .entry(activity.activity_type.clone())
            .or_default();
        for attempt in &activity.attempts {
            statistics.add(attempt.status, attempt.duration_ms, attempt.attempt > 1);
        }
    }
    for statistics in workflows.values_mut().chain(activities.values_mut()) {
        statistics.finish();
    }
    (workflows, activities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.50), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values[..1], 0.50), Some(1.0));
        assert_eq!(percentile(&[], 0.50), None);
    }
}
