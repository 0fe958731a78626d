//! Which executions of workflow tasks something belongs to, as history names them: the same task may be
//! executed several times, and at most one execution is accepted. Plain data.

use chrono::{DateTime, SecondsFormat, Utc};
use std::{fmt, str::FromStr, time::SystemTime};

/// One execution of a workflow task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskExecution {
    /// The id of the event with which history says that it began.
    pub(super) started_event_id: i64,
    /// The workflow's time in its first activation: executions of one task that failed or timed out share the
    /// id, not the time. History has it as the time of that event; or, where a heartbeat brought the task and
    /// it first told what a local activity came to, in the marker of that. None where history does not have
    /// it: the server's clock went back, and a workflow's time never does.
    pub(super) time: Option<SystemTime>,
}

impl TaskExecution {
    /// Whether an event or a marker with this time can be the one with which it began.
    pub(super) fn began_at(&self, time: SystemTime) -> bool {
        self.time.is_none_or(|began| began == time)
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

/// As the journal keeps it: `7@TIME;12@TIME+2,3`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, task) in self.executions.iter().enumerate() {
            let parted = if index == 0 { "" } else { ";" };
            write!(f, "{parted}{}", task.started_event_id)?;
            if let Some(time) = task.time {
                let time = DateTime::<Utc>::from(time);
                let time = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
                write!(f, "@{time}")?;
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
            let (id, time) = match task.split_once('@') {
                Some((id, time)) => (id, Some(time)),
                None => (task, None),
            };
            let time = time
                .map(|time| DateTime::parse_from_rfc3339(time).map(SystemTime::from))
                .transpose()
                .map_err(drop)?;
            Ok(TaskExecution {
                started_event_id: id.parse().map_err(drop)?,
                time,
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
        let task = |started_event_id, time: Option<u64>| TaskExecution {
            started_event_id,
            time: time.map(at),
        };
        for (executions, local_outcomes) in [
            (vec![task(7, Some(1_795_419_036))], vec![]),
            (vec![task(7, None)], vec![4]),
            (
                vec![task(3, Some(1)), task(9, None), task(12, Some(3))],
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
}
