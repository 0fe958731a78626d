//! Which execution of a workflow task something belongs to, as history names it: the same task may be
//! executed several times, and at most one execution is accepted. Plain data.

use chrono::{DateTime, SecondsFormat, Utc};
use std::{fmt, str::FromStr, time::SystemTime};

/// One execution of a workflow task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskExecution {
    /// The id of the event with which history says that it began.
    pub(super) started_event_id: i64,
    /// The workflow's time in its first activation: executions of one task that failed or timed out share
    /// the id, not the time. History has it as the time of that event or, where the first thing that the
    /// workflow was told is what a local activity came to, in the marker of that activity. None where it is
    /// not in history: the server's clock went back, and a workflow's time never does.
    pub(super) first_time: Option<SystemTime>,
}

/// As the journal keeps it.
impl fmt::Display for TaskExecution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.started_event_id)?;
        match self.first_time.map(DateTime::<Utc>::from) {
            Some(at) => write!(f, "@{}", at.to_rfc3339_opts(SecondsFormat::Nanos, true)),
            None => Ok(()),
        }
    }
}

impl FromStr for TaskExecution {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, at) = match text.split_once('@') {
            Some((id, at)) => (
                id,
                Some(DateTime::parse_from_rfc3339(at).map_err(drop)?.into()),
            ),
            None => (text, None),
        };
        Ok(Self {
            started_event_id: id.parse().map_err(drop)?,
            first_time: at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn it_survives_the_journal() {
        let at = UNIX_EPOCH + Duration::new(1_795_419_036, 123_456_789);
        for task in [
            TaskExecution {
                started_event_id: 7,
                first_time: Some(at),
            },
            TaskExecution {
                started_event_id: 7,
                first_time: None,
            },
        ] {
            assert_eq!(task.to_string().parse(), Ok(task));
        }
        assert_eq!("what happened".parse::<TaskExecution>(), Err(()));
    }
}
