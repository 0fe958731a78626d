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
    /// id, not the times. History has the first as the time of that event; the others are those at which
    /// local activities came to their end, and history has them in their markers. None where history does not
    /// have them: the server's clock went back, and a workflow's time never does.
    pub(super) times: Vec<SystemTime>,
}

impl TaskExecution {
    /// Notes the time of one more activation.
    pub(super) fn goes_on_at(&mut self, time: SystemTime) {
        // Without the first, no time of it is known to history.
        if self.times.is_empty() || self.times.contains(&time) {
            return;
        }
        if self.times.len() >= TIMES_KEPT {
            self.times.remove(1);
        }
        self.times.push(time);
    }

    /// Whether an event or a marker with this time can be one of this execution's.
    pub(super) fn has(&self, time: SystemTime) -> bool {
        self.times.is_empty() || self.times.contains(&time)
    }
}

/// The executions through which something went, without a word of the server in between; what was accepted of
/// any of them holds for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evidence(pub(super) Vec<TaskExecution>);

/// As the journal keeps it: `7@TIME,TIME;12@TIME`.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, task) in self.0.iter().enumerate() {
            let parted = if index == 0 { "" } else { ";" };
            write!(f, "{parted}{}", task.started_event_id)?;
            for (index, time) in task.times.iter().enumerate() {
                let parted = if index == 0 { '@' } else { ',' };
                let time = DateTime::<Utc>::from(*time);
                let time = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
                write!(f, "{parted}{time}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Evidence {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(';')
            .map(|task| {
                let (id, times) = task.split_once('@').unwrap_or((task, ""));
                let times = times
                    .split(',')
                    .filter(|time| !time.is_empty())
                    .map(|time| Ok(DateTime::parse_from_rfc3339(time).map_err(drop)?.into()))
                    .collect::<Result<_, ()>>()?;
                Ok(TaskExecution {
                    started_event_id: id.parse().map_err(drop)?,
                    times,
                })
            })
            .collect::<Result<_, ()>>()
            .map(Self)
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
        for evidence in [
            Evidence(vec![task(7, &[1_795_419_036])]),
            Evidence(vec![task(7, &[])]),
            Evidence(vec![task(3, &[1, 2]), task(9, &[]), task(12, &[3])]),
        ] {
            assert_eq!(evidence.to_string().parse(), Ok(evidence));
        }
        assert_eq!("what happened".parse::<Evidence>(), Err(()));
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
