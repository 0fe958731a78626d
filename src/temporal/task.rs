//! Which executions of workflow tasks something belongs to, as history names them: the same task may be
//! executed several times, and at most one execution is accepted. Plain data.

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

/// By what history tells whether something was accepted: one of these executions was, and what these local
/// activities came to is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The executions through which it went, without a word of the server in between.
    pub(super) executions: Vec<TaskExecution>,
    /// Workflow code's numbers of the local activities whose outcome it was told just before. A heartbeat of
    /// the same execution may have been accepted without them.
    pub(super) local_outcomes: Vec<u32>,
}

/// As the journal keeps it: `7@TIME,TIME;12@TIME+2,3`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, task) in self.executions.iter().enumerate() {
            let parted = if index == 0 { "" } else { ";" };
            write!(f, "{parted}{}", task.started_event_id)?;
            for (index, time) in task.times.iter().enumerate() {
                let parted = if index == 0 { '@' } else { ',' };
                let time = DateTime::<Utc>::from(*time);
                let time = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
                write!(f, "{parted}{time}")?;
            }
        }
        for (index, seq) in self.local_outcomes.iter().enumerate() {
            let parted = if index == 0 { '+' } else { ',' };
            write!(f, "{parted}{seq}")?;
        }
        Ok(())
    }
}

impl FromStr for Evidence {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (executions, outcomes) = match text.split_once('+') {
            Some((executions, outcomes)) => (executions, Some(outcomes)),
            None => (text, None),
        };
        let execution = |task: &str| {
            let (id, times) = match task.split_once('@') {
                Some((id, times)) => (id, Some(times)),
                None => (task, None),
            };
            Ok(TaskExecution {
                started_event_id: id.parse().map_err(drop)?,
                times: times
                    .into_iter()
                    .flat_map(|times| times.split(','))
                    .map(|time| Ok(DateTime::parse_from_rfc3339(time).map_err(drop)?.into()))
                    .collect::<Result<_, ()>>()?,
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
                .map(|seq| seq.parse().map_err(drop))
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
        for (executions, local_outcomes) in [
            (vec![task(7, &[1_795_419_036])], vec![]),
            (vec![task(7, &[])], vec![4]),
            (
                vec![task(3, &[1, 2]), task(9, &[]), task(12, &[3])],
                vec![2, 3],
            ),
        ] {
            let evidence = Evidence {
                executions,
                local_outcomes,
            };
            assert_eq!(evidence.to_string().parse(), Ok(evidence));
        }
        for text in ["", "what happened", "7@yesterday", "7+", "7+x"] {
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
