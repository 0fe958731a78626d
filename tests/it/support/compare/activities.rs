//! Activities that any worker may run: for every attempt that finished exactly one end, as far as the
//! server keeps attempts, and nothing else.

use super::{Differences, RunHistory, Source, state_of};
use crate::support::Row;
use std::collections::{BTreeMap, BTreeSet};
use temporalio_common::protos::temporal::api::{
    enums::v1::WorkflowTaskFailedCause, failure::v1::failure::FailureInfo,
    history::v1::history_event::Attributes,
};

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
    /// Attempts that are finished, by activity id and number; an id may be used again once its activity is
    /// over.
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
    let is_reset = run.is_reset();
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

pub(super) fn compare_activities(
    source: Source,
    run: &RunHistory,
    rows: &[&Row],
    name: &str,
    differences: &mut Differences,
) {
    let expected = activities(run);
    let mut seen: BTreeMap<(String, u32), Vec<&Row>> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.event_name == "activity_end" && !row.is_local())
    {
        let id = row.activity_id.clone().unwrap_or_default();
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
        // Each time that its attempts are counted from 1 again, there may be one more of this number, and
        // workers with journals of their own give both one id.
        if run.reset_activities.contains(id) && !told.is_empty() {
            continue;
        }
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
            let is_known = expected.unknown.contains(&id) || run.reset_activities.contains(&id);
            if !is_known {
                differences.phantom.push(format!(
                    "activity_end of {name} activity {id} attempt {attempt}"
                ));
            }
        }
    }
}
