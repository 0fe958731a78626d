//! From events to what people look at: runs with their children, activities with their attempts, and the events of
//! applications between them. Pure: reads no store and no clock, and prints nothing.

mod build;
mod statistics;
#[cfg(test)]
mod tests;

pub(super) use build::Builder;
#[cfg(test)]
pub(super) use build::model;
pub(super) use statistics::{Statistics, statistics};

use crate::event::{Event, EventId, LifecycleEvent, StoredEvent};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

pub(super) type Time = DateTime<Utc>;

/// How a run or an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Running,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
    Terminated,
    ContinuedAsNew,
    WillCompleteAsync,
    /// It ended, and nobody knows how.
    Unknown,
}

impl Outcome {
    pub(super) const ALL: [Self; 9] = [
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Terminated,
        Self::ContinuedAsNew,
        Self::WillCompleteAsync,
        Self::Unknown,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Terminated => "terminated",
            Self::ContinuedAsNew => "continued_as_new",
            Self::WillCompleteAsync => "will_complete_async",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn from_name(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == name);
        known.unwrap_or(Self::Unknown)
    }

    /// Whether somebody should look at it.
    pub(super) const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Terminated)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why something failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    pub(super) non_retryable: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, &self.message) {
            (Some(kind), Some(message)) => write!(f, "{kind}: {message}"),
            (Some(text), None) | (None, Some(text)) => f.write_str(text),
            (None, None) => f.write_str("no reason is known"),
        }
    }
}

/// One run of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    pub(super) workflow_id: String,
    pub(super) run_id: String,
    pub(super) workflow_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task_queue: Option<String>,
    pub(super) state: Outcome,
    pub(super) started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workflow_attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_workflow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent_run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) continued_from_run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detected_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_event_id: Option<EventId>,
    /// What applications gave to all of its events, such as a correlation id.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) fields: Map<String, Value>,
    #[serde(skip)]
    pub(super) activities: Vec<Activity>,
    #[serde(skip)]
    pub(super) marks: Vec<Mark>,
    /// Indexes of the runs of its children, in the order of their starts.
    #[serde(skip)]
    pub(super) children: Vec<usize>,
    #[serde(skip)]
    pub(super) parent: Option<usize>,
    // When the first and the last of its events happened.
    #[serde(skip)]
    first: Option<Time>,
    #[serde(skip)]
    pub(super) last: Option<Time>,
}

/// An activity with its attempts, in the order of their starts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Activity {
    pub(super) activity_id: String,
    pub(super) activity_type: String,
    pub(super) is_local: bool,
    pub(super) attempts: Vec<Attempt>,
}

/// One attempt of an activity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Attempt {
    pub(super) attempt: u32,
    pub(super) status: Outcome,
    pub(super) started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration_ms: Option<f64>,
    /// How long nothing ran between the end of the attempt before and this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waited_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) worker_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_event_id: Option<EventId>,
}

/// An event that an application published.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Mark {
    pub(super) at: Time,
    pub(super) position: u64,
    pub(super) event_id: EventId,
    pub(super) event_type: String,
    pub(super) event_name: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) data: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) activity_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u32>,
}

/// A worker, from its start to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Worker {
    pub(super) worker_identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) task_queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_event_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_event_id: Option<EventId>,
}

/// What a number of events tell, in the order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) runs: Vec<Run>,
    /// Activities without a workflow.
    pub(super) standalone: Vec<Activity>,
    pub(super) workers: Vec<Worker>,
    /// Events of applications that belong to no run.
    pub(super) marks: Vec<Mark>,
    pub(super) events: usize,
    pub(super) first: Option<Time>,
    pub(super) last: Option<Time>,
}

impl Run {
    fn new(workflow_id: String, run_id: String) -> Self {
        Self {
            workflow_id,
            run_id,
            workflow_type: String::new(),
            namespace: None,
            task_queue: None,
            state: Outcome::Running,
            started_at: None,
            ended_at: None,
            duration_ms: None,
            error: None,
            workflow_attempt: None,
            parent_workflow_id: None,
            parent_run_id: None,
            continued_from_run_id: None,
            detected_by: None,
            start_event_id: None,
            end_event_id: None,
            fields: Map::new(),
            activities: Vec::new(),
            marks: Vec::new(),
            children: Vec::new(),
            parent: None,
            first: None,
            last: None,
        }
    }

    fn finish(&mut self) {
        // The server started the run; a worker came to it later, and says so with `workflow_start`.
        let by_server = self
            .duration_ms
            .and_then(|ms| before(self.ended_at, Some(ms)));
        self.started_at = match (self.started_at, by_server) {
            (Some(seen), Some(by_server)) if milliseconds(by_server, seen) < 1.0 => Some(seen),
            (seen, by_server) => by_server.or(seen).or(self.first),
        };
        finish_activities(&mut self.activities);
        self.marks.sort_by_key(|mark| (mark.at, mark.position));
    }

    pub(super) const fn is_open(&self) -> bool {
        self.ended_at.is_none()
    }

    /// How long it took, or has taken up to `now`, in milliseconds.
    pub(super) fn took_ms(&self, now: Time) -> Option<f64> {
        let until_now = || Some(milliseconds(self.started_at?, self.ended_at.unwrap_or(now)));
        self.duration_ms.or_else(until_now)
    }
}

fn finish_activities(activities: &mut [Activity]) {
    for activity in activities.iter_mut() {
        activity.finish();
    }
    activities.sort_by_key(|activity| {
        let first = activity.attempts.first();
        first.and_then(|attempt| attempt.started_at)
    });
}

impl Activity {
    fn add(&mut self, kind: LifecycleEvent, stored: &StoredEvent, event: &Event, at: Time) {
        let number = event.metadata.attempt.unwrap_or(1);
        // After a reset, two attempts have one number.
        let known = self.attempts.iter_mut().rev().find(|attempt| {
            attempt.attempt == number
                && match kind {
                    LifecycleEvent::ActivityStart => attempt.start_event_id.is_none(),
                    LifecycleEvent::ActivityEnd => attempt.end_event_id.is_none(),
                    _ => attempt.status == Outcome::WillCompleteAsync,
                }
        });
        let attempt = match known {
            Some(attempt) => attempt,
            None => {
                self.attempts.push(Attempt::new(number));
                let Some(attempt) = self.attempts.last_mut() else {
                    return;
                };
                attempt
            }
        };
        fill(
            &mut attempt.worker_identity,
            &event.metadata.worker_identity,
        );
        if kind == LifecycleEvent::ActivityStart {
            attempt.started_at = Some(at);
            attempt.start_event_id = Some(stored.event_id);
            return;
        }
        attempt.ended_at = Some(at);
        attempt.end_event_id = Some(stored.event_id);
        attempt.status = text(&event.data, "status").map_or(Outcome::Unknown, Outcome::from_name);
        attempt.duration_ms = number_or(&event.data, "duration_ms", attempt.duration_ms);
        attempt.error = failure(&event.data);
    }

    fn finish(&mut self) {
        for attempt in &mut self.attempts {
            if attempt.started_at.is_none() {
                attempt.started_at = before(attempt.ended_at, attempt.duration_ms);
            }
        }
        self.attempts
            .sort_by_key(|attempt| (attempt.started_at, attempt.attempt));
        let mut ended: Option<Time> = None;
        for attempt in &mut self.attempts {
            attempt.waited_ms = match (ended, attempt.started_at) {
                (Some(ended), Some(started)) => Some(milliseconds(ended, started)),
                _ => None,
            };
            ended = attempt.ended_at;
        }
    }

    /// How the activity stands: as its last attempt does.
    pub(super) fn status(&self) -> Outcome {
        let last = self.attempts.last();
        last.map_or(Outcome::Unknown, |attempt| attempt.status)
    }
}

impl Attempt {
    fn new(attempt: u32) -> Self {
        Self {
            attempt,
            status: Outcome::Running,
            started_at: None,
            ended_at: None,
            duration_ms: None,
            waited_ms: None,
            error: None,
            worker_identity: None,
            start_event_id: None,
            end_event_id: None,
        }
    }
}

pub(super) fn milliseconds(from: Time, to: Time) -> f64 {
    (to - from).as_seconds_f64() * 1000.0
}

/// The time so many milliseconds before another.
fn before(time: Option<Time>, duration_ms: Option<f64>) -> Option<Time> {
    let micros = duration_ms.unwrap_or_default() * 1000.0;
    time?.checked_sub_signed(TimeDelta::microseconds(micros as i64))
}

fn fill<T: Clone>(known: &mut Option<T>, found: &Option<T>) {
    if known.is_none() {
        known.clone_from(found);
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn number(fields: &Map<String, Value>, name: &str) -> Option<f64> {
    fields.get(name).and_then(Value::as_f64)
}

fn number_or(fields: &Map<String, Value>, name: &str, otherwise: Option<f64>) -> Option<f64> {
    number(fields, name).or(otherwise)
}

fn failure(data: &Map<String, Value>) -> Option<Failure> {
    let error = data.get("error")?.as_object()?;
    Some(Failure {
        kind: text(error, "type").map(str::to_owned),
        message: text(error, "message").map(str::to_owned),
        non_retryable: error
            .get("non_retryable")
            .and_then(Value::as_bool)
            .unwrap_or_default(),
    })
}
