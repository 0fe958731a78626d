//! The executions of workflow tasks, named as history names them. The same task may be executed several times, and the
//! server accepts at most one of the executions. Plain data.

use chrono::{DateTime, SecondsFormat, Utc};
use std::{fmt, str::FromStr, time::SystemTime};

/// How many times of an execution are kept: the first, and the last ones.
const TIMES_KEPT: usize = 5;

/// One execution of a workflow task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskExecution {
    /// The id of the event with which history says that it began.
    pub(super) started_event_id: i64,
    /// The workflow's time in its activations: executions of one task that failed or timed out share the
    /// id, not the times. History has one of them as the time of that event (the last, if the task was given
    /// out again to the worker that had it); the others are those at which local activities came to their
    /// end, and history has them in their markers. None where history does not have them: the server's clock
    /// went back, and a workflow's time never does.
    pub(super) times: Vec<SystemTime>,
}

impl TaskExecution {
    /// Notes the time of one more activation; says whether it was new.
    pub(super) fn goes_on_at(&mut self, time: SystemTime) -> bool {
        // Without the first, no time of it is known to history.
        if self.times.is_empty() || self.times.contains(&time) {
            return false;
        }
        if self.times.len() >= TIMES_KEPT {
            self.times.remove(1);
        }
        self.times.push(time);
        true
    }

    /// Whether an event or a marker with this time can be one of this execution's.
    pub(super) fn has(&self, time: SystemTime) -> bool {
        self.times.is_empty() || self.times.contains(&time)
    }
}

/// The outcome of a local activity that workflow code was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalOutcome {
    /// Workflow code's number of the activity.
    pub(super) seq: u32,
    /// When it was scheduled, by the clock of the worker; its marker says so. None where that does not tell
    /// who executed it: one that goes on after a timer was scheduled before that; and the marker of one that
    /// was cancelled may not say it.
    pub(super) scheduled_at: Option<SystemTime>,
}

/// By what history tells whether something was accepted: one of these executions was, and what these local
/// activities came to is recorded; or a local activity is recorded that only this run in memory scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The executions through which it went, without a word of the server in between.
    pub(super) executions: Vec<TaskExecution>,
    /// The local activities whose outcome workflow code was told just before. A heartbeat of the same
    /// execution may have been accepted without them.
    pub(super) local_outcomes: Vec<LocalOutcome>,
    /// When it scheduled local activities, by the clock of the worker, to the nanosecond: two executions of one
    /// task give them the same numbers, and may begin them at one time of the workflow, but not of that clock.
    pub(super) scheduled_at: Vec<SystemTime>,
}

impl Evidence {
    /// Whether a marker proves it: of a local activity that was scheduled then.
    pub(super) fn is_proven_by(&self, scheduled_at: Option<SystemTime>) -> bool {
        scheduled_at.is_some_and(|time| self.scheduled_at.contains(&time))
    }

    /// Whether all outcomes that it begins with have markers that say who executed them.
    pub(super) fn is_known_by_outcomes(&self) -> bool {
        let is_known = |outcome: &LocalOutcome| outcome.scheduled_at.is_some();
        !self.local_outcomes.is_empty() && self.local_outcomes.iter().all(is_known)
    }
}

impl LocalOutcome {
    /// Whether a marker is the one of this outcome.
    pub(super) fn is_in(&self, seq: u32, scheduled_at: Option<SystemTime>) -> bool {
        self.seq == seq && (self.scheduled_at.is_none() || self.scheduled_at == scheduled_at)
    }
}

/// As the journal keeps it: `7@TIME,TIME;12@TIME+2,3@TIME#TIME`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, task) in self.executions.iter().enumerate() {
            let parted = if index == 0 { "" } else { ";" };
            write!(f, "{parted}{}", task.started_event_id)?;
            for (index, time) in task.times.iter().enumerate() {
                let parted = if index == 0 { '@' } else { ',' };
                write!(f, "{parted}{}", written(*time))?;
            }
        }
        for (index, outcome) in self.local_outcomes.iter().enumerate() {
            let parted = if index == 0 { '+' } else { ',' };
            write!(f, "{parted}{}", outcome.seq)?;
            if let Some(time) = outcome.scheduled_at {
                write!(f, "@{}", written(time))?;
            }
        }
        for (index, time) in self.scheduled_at.iter().enumerate() {
            let parted = if index == 0 { '#' } else { ',' };
            write!(f, "{parted}{}", written(*time))?;
        }
        Ok(())
    }
}

fn written(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

fn read(time: &str) -> Result<SystemTime, ()> {
    Ok(DateTime::parse_from_rfc3339(time).map_err(drop)?.into())
}

/// Two parts of a text, the second one where there is a separator.
fn parted(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

impl FromStr for Evidence {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, scheduled_at) = parted(text, '#');
        let (executions, outcomes) = parted(text, '+');
        let execution = |task: &str| {
            let (id, times) = parted(task, '@');
            Ok(TaskExecution {
                started_event_id: id.parse().map_err(drop)?,
                times: times
                    .into_iter()
                    .flat_map(|times| times.split(','))
                    .map(read)
                    .collect::<Result<_, ()>>()?,
            })
        };
        let outcome = |outcome: &str| {
            let (seq, scheduled_at) = parted(outcome, '@');
            Ok(LocalOutcome {
                seq: seq.parse().map_err(drop)?,
                scheduled_at: scheduled_at.map(read).transpose()?,
            })
        };
        Ok(Self {
            executions: executions
                .split(';')
                .map(execution)
                .collect::<Result<_, ()>>()?,
            local_outcomes: outcomes
                .into_iter()
                .flat_map(|outcomes| outcomes.split(','))
                .map(outcome)
                .collect::<Result<_, ()>>()?,
            scheduled_at: scheduled_at
                .into_iter()
                .flat_map(|times| times.split(','))
                .map(read)
                .collect::<Result<_, ()>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn it_survives_the_journal() {
        let at = |seconds| UNIX_EPOCH + Duration::new(seconds, 123_456_789);
        let task = |started_event_id, times: &[u64]| TaskExecution {
            started_event_id,
            times: times.iter().map(|seconds| at(*seconds)).collect(),
        };
        let outcome = |seq, scheduled_at| LocalOutcome { seq, scheduled_at };
        for (executions, local_outcomes, scheduled_at) in [
            (vec![task(7, &[1_795_419_036])], vec![], vec![]),
            (vec![task(7, &[])], vec![outcome(4, None)], vec![]),
            (vec![task(7, &[])], vec![], vec![at(1), at(2)]),
            (
                vec![task(3, &[1, 2]), task(9, &[]), task(12, &[3])],
                vec![outcome(2, Some(at(5))), outcome(3, None)],
                vec![at(9)],
            ),
        ] {
            let evidence = Evidence {
                executions,
                local_outcomes,
                scheduled_at,
            };
            assert_eq!(evidence.to_string().parse(), Ok(evidence));
        }
        for text in [
            "",
            "what happened",
            "7@yesterday",
            "7+",
            "7+x",
            "7+1@then",
            "7#",
            "7#tomorrow",
        ] {
            assert_eq!(text.parse::<Evidence>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_long_execution_keeps_its_first_time_and_the_last_ones() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut task = TaskExecution {
            started_event_id: 3,
            times: vec![at(0)],
        };
        for seconds in 0..100 {
            task.goes_on_at(at(seconds));
        }
        assert_eq!(task.times, [0, 96, 97, 98, 99].map(at));
    }
}
