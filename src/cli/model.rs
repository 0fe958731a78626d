//! From events to what people look at: runs with their children, activities with their attempts, and the events of
//! applications between them. Pure: reads no store and no clock, and prints nothing.

use crate::event::{Event, EventError, EventId, LifecycleEvent, StoredEvent};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

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

/// Puts a model together, event by event, in any order.
#[derive(Debug, Default)]
pub(super) struct Builder {
    model: Model,
    runs: HashMap<(String, String), usize>,
    // The activities of a run, or of none.
    activities: HashMap<(Option<usize>, String), usize>,
    workers: HashMap<String, usize>,
}

impl Builder {
    /// Adds an event.
    pub(super) fn add(&mut self, stored: &StoredEvent) -> Result<(), EventError> {
        let event = stored.event()?;
        let Some(at) = event.metadata.created_at else {
            return Ok(());
        };
        let model = &mut self.model;
        model.events += 1;
        model.first = Some(model.first.map_or(at, |first| first.min(at)));
        model.last = Some(model.last.map_or(at, |last| last.max(at)));
        let kind = LifecycleEvent::from_name(&event.event_name).filter(|_| event.is_lifecycle());
        let run = self.run_of(&event, at);
        match kind {
            Some(LifecycleEvent::WorkflowStart) => self.start_run(run, stored, &event, at),
            Some(LifecycleEvent::WorkflowEnd) => self.end_run(run, stored, &event, at),
            Some(
                kind @ (LifecycleEvent::ActivityStart
                | LifecycleEvent::ActivityEnd
                | LifecycleEvent::ActivityAsyncEnd),
            ) => self.add_to_attempt(kind, run, stored, &event, at),
            Some(kind @ (LifecycleEvent::WorkerStart | LifecycleEvent::WorkerEnd)) => {
                self.add_to_worker(kind, stored, &event, at);
            }
            _ => {
                let mark = Mark {
                    at,
                    position: stored.position,
                    event_id: stored.event_id,
                    event_type: event.event_type,
                    event_name: event.event_name,
                    data: event.data,
                    activity_id: event.metadata.activity_id,
                    attempt: event.metadata.attempt,
                };
                match run.and_then(|run| self.model.runs.get_mut(run)) {
                    Some(run) => run.marks.push(mark),
                    None => self.model.marks.push(mark),
                }
            }
        }
        Ok(())
    }

    /// Returns the run that an event belongs to, with what the event tells about it.
    fn run_of(&mut self, event: &Event, at: Time) -> Option<usize> {
        let metadata = &event.metadata;
        let workflow_id = metadata.workflow_id.clone()?;
        let run_id = metadata.workflow_run_id.clone().unwrap_or_default();
        let runs = &mut self.model.runs;
        let index = *self
            .runs
            .entry((workflow_id.clone(), run_id.clone()))
            .or_insert_with(|| {
                runs.push(Run::new(workflow_id, run_id));
                runs.len() - 1
            });
        let run = runs.get_mut(index)?;
        run.first = Some(run.first.map_or(at, |first| first.min(at)));
        run.last = Some(run.last.map_or(at, |last| last.max(at)));
        if run.workflow_type.is_empty() {
            run.workflow_type = metadata.workflow_type.clone().unwrap_or_default();
        }
        fill(&mut run.namespace, &metadata.namespace);
        fill(&mut run.workflow_attempt, &metadata.workflow_attempt);
        fill(&mut run.parent_workflow_id, &metadata.parent_workflow_id);
        fill(&mut run.parent_run_id, &metadata.parent_run_id);
        fill(
            &mut run.continued_from_run_id,
            &metadata.continued_from_run_id,
        );
        if metadata.activity_id.is_none() {
            fill(&mut run.task_queue, &metadata.task_queue);
        }
        Some(index)
    }

    fn start_run(&mut self, run: Option<usize>, stored: &StoredEvent, event: &Event, at: Time) {
        if let Some(run) = run.and_then(|run| self.model.runs.get_mut(run)) {
            run.started_at = Some(at);
            run.start_event_id = Some(stored.event_id);
            run.fields = event.metadata.custom.clone();
            run.fields.remove("detected_by");
        }
    }

    fn end_run(&mut self, run: Option<usize>, stored: &StoredEvent, event: &Event, at: Time) {
        if let Some(run) = run.and_then(|run| self.model.runs.get_mut(run)) {
            run.ended_at = Some(at);
            run.end_event_id = Some(stored.event_id);
            run.state = match text(&event.data, "status") {
                Some(status) => Outcome::from_name(status),
                None => Outcome::from_name(event.metadata.workflow_state.as_str()),
            };
            run.duration_ms = number(&event.data, "duration_ms");
            run.error = failure(&event.data);
            if let (None, Some(reason)) = (&run.error, text(&event.data, "reason")) {
                run.error = Some(Failure {
                    message: Some(reason.to_owned()),
                    ..Failure::default()
                });
            }
            run.detected_by = text(&event.metadata.custom, "detected_by").map(str::to_owned);
        }
    }

    fn add_to_attempt(
        &mut self,
        kind: LifecycleEvent,
        run: Option<usize>,
        stored: &StoredEvent,
        event: &Event,
        at: Time,
    ) {
        let metadata = &event.metadata;
        let activity_id = metadata.activity_id.clone().unwrap_or_default();
        // The executions of a standalone activity may have one id.
        let execution = metadata
            .custom
            .get("activity_run_id")
            .and_then(Value::as_str);
        let key = format!("{activity_id}\0{}", execution.unwrap_or_default());
        let activities = match run {
            Some(run) => self.model.runs.get_mut(run).map(|run| &mut run.activities),
            None => Some(&mut self.model.standalone),
        };
        let Some(activities) = activities else { return };
        let index = *self.activities.entry((run, key)).or_insert_with(|| {
            activities.push(Activity {
                activity_id,
                activity_type: metadata.activity_type.clone().unwrap_or_default(),
                is_local: metadata.is_local.unwrap_or_default(),
                attempts: Vec::new(),
            });
            activities.len() - 1
        });
        if let Some(activity) = activities.get_mut(index) {
            activity.add(kind, stored, event, at);
        }
    }

    fn add_to_worker(
        &mut self,
        kind: LifecycleEvent,
        stored: &StoredEvent,
        event: &Event,
        at: Time,
    ) {
        let identity = event.metadata.worker_identity.clone().unwrap_or_default();
        let workers = &mut self.model.workers;
        let known = self.workers.get(&identity).copied();
        let is_over = |index| {
            workers
                .get(index)
                .is_none_or(|it: &Worker| it.ended_at.is_some())
        };
        let index = match known {
            Some(index) if !is_over(index) => index,
            _ => {
                workers.push(Worker {
                    worker_identity: identity.clone(),
                    task_queue: event.metadata.task_queue.clone(),
                    started_at: None,
                    ended_at: None,
                    start_event_id: None,
                    end_event_id: None,
                });
                self.workers.insert(identity, workers.len() - 1);
                workers.len() - 1
            }
        };
        let Some(worker) = workers.get_mut(index) else {
            return;
        };
        if kind == LifecycleEvent::WorkerStart {
            worker.started_at = Some(at);
            worker.start_event_id = Some(stored.event_id);
        } else {
            worker.ended_at = Some(at);
            worker.end_event_id = Some(stored.event_id);
        }
    }

    /// Returns the model: everything in the order of its start, children with their parents.
    pub(super) fn finish(self) -> Model {
        let mut model = self.model;
        for run in &mut model.runs {
            run.finish();
        }
        model
            .runs
            .sort_by(|a, b| (a.started_at, &a.run_id).cmp(&(b.started_at, &b.run_id)));
        finish_activities(&mut model.standalone);
        model.workers.sort_by_key(|worker| worker.started_at);
        model.marks.sort_by_key(|mark| (mark.at, mark.position));
        link(&mut model.runs);
        model
    }
}

/// Returns what the events tell.
#[cfg(test)]
pub(super) fn model<'a>(events: impl IntoIterator<Item = &'a StoredEvent>) -> Model {
    let mut builder = Builder::default();
    for event in events {
        builder.add(event).unwrap();
    }
    builder.finish()
}

/// Links children with their parents.
fn link(runs: &mut [Run]) {
    let mut by_run = HashMap::new();
    let mut newest = HashMap::new();
    for (index, run) in runs.iter().enumerate() {
        by_run.insert((run.workflow_id.clone(), run.run_id.clone()), index);
        newest.insert(run.workflow_id.clone(), index);
    }
    for index in 0..runs.len() {
        let Some(run) = runs.get(index) else { continue };
        let Some(parent_id) = &run.parent_workflow_id else {
            continue;
        };
        let parent = match &run.parent_run_id {
            Some(run_id) => by_run.get(&(parent_id.clone(), run_id.clone())),
            None => newest.get(parent_id),
        };
        let Some(parent) = parent.copied().filter(|parent| *parent != index) else {
            continue;
        };
        if let Some(run) = runs.get_mut(index) {
            run.parent = Some(parent);
        }
        if let Some(parent) = runs.get_mut(parent) {
            parent.children.push(index);
        }
    }
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
        if self.started_at.is_none() {
            self.started_at = before(self.ended_at, self.duration_ms).or(self.first);
        }
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

    /// All of its attempts.
    pub(super) fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.activities
            .iter()
            .flat_map(|activity| &activity.attempts)
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

/// Numbers of one workflow or activity type.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Statistics {
    /// Runs, or attempts.
    pub(super) count: usize,
    pub(super) running: usize,
    pub(super) completed: usize,
    pub(super) failed: usize,
    /// Failures among those that ended, from 0 to 1; none if none ended.
    pub(super) failure_rate: Option<f64>,
    /// Attempts after the first.
    pub(super) retries: usize,
    pub(super) p50_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
    pub(super) max_ms: Option<f64>,
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
pub(super) fn statistics(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        ActivityStatus, FailureDetails, WorkflowState,
        lifecycle::{
            activity_async_end, activity_end, activity_start, workflow_end, workflow_start,
        },
    };

    fn stored(mut event: Event, run: &str, at_ms: i64) -> StoredEvent {
        let metadata = &mut event.metadata;
        metadata.event_id = Some(EventId::new());
        metadata.created_at = DateTime::from_timestamp_millis(at_ms);
        metadata.workflow_id = Some("w".to_owned());
        metadata.workflow_run_id = Some(run.to_owned());
        metadata.workflow_type = Some("Order".to_owned());
        StoredEvent::new(1, &event).unwrap()
    }

    fn of_attempt(event: Event, attempt: u32) -> Event {
        event
            .metadata("activity_id", "1")
            .metadata("activity_type", "ship")
            .metadata("attempt", attempt)
    }

    fn failed() -> FailureDetails {
        FailureDetails {
            error_type: Some("OutOfStock".into()),
            message: Some("no more".into()),
            non_retryable: false,
        }
    }

    #[test]
    fn attempts_have_their_gaps_and_a_run_its_end() {
        let failure = failed();
        let events = [
            stored(workflow_start(), "r", 0),
            stored(of_attempt(activity_start(), 1), "r", 10),
            stored(
                of_attempt(activity_end(ActivityStatus::Failed, 5.0, Some(&failure)), 1),
                "r",
                15,
            ),
            stored(of_attempt(activity_start(), 2), "r", 1015),
            stored(
                of_attempt(activity_end(ActivityStatus::Completed, 2.0, None), 2),
                "r",
                1017,
            ),
            stored(Event::new("order.shipped"), "r", 1018),
            stored(
                workflow_end(WorkflowState::Completed, 1020.0, None),
                "r",
                1020,
            ),
        ];
        // The order in which they are stored does not matter.
        for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]] {
            let model = model(order.map(|index| &events[index]));
            let run = &model.runs[0];
            assert_eq!(
                (run.state, run.duration_ms),
                (Outcome::Completed, Some(1020.0))
            );
            assert_eq!(run.marks[0].event_type, "order.shipped");
            let attempts = &run.activities[0].attempts;
            let known: Vec<_> = attempts
                .iter()
                .map(|it| (it.attempt, it.status, it.waited_ms))
                .collect();
            assert_eq!(
                known,
                [
                    (1, Outcome::Failed, None),
                    (2, Outcome::Completed, Some(1000.0))
                ]
            );
            let error = attempts[0].error.as_ref().unwrap();
            assert_eq!(error.to_string(), "OutOfStock: no more");
        }
    }

    #[test]
    fn an_end_alone_tells_when_it_began() {
        let end = workflow_end(WorkflowState::TimedOut, 500.0, None);
        let model = model(&[stored(end, "r", 2000)]);
        let run = &model.runs[0];
        assert_eq!(run.started_at, DateTime::from_timestamp_millis(1500));
        assert!(run.state.is_failure() && !run.is_open());
    }

    #[test]
    fn a_completion_by_others_ends_its_attempt() {
        let left = activity_end(ActivityStatus::WillCompleteAsync, 1.0, None);
        let ended = activity_async_end(ActivityStatus::Completed, 900.0, None);
        let model = model(&[
            stored(of_attempt(activity_start(), 1), "r", 0),
            stored(of_attempt(left, 1), "r", 1),
            stored(of_attempt(ended, 1), "r", 900),
        ]);
        let attempts = &model.runs[0].activities[0].attempts;
        assert_eq!(attempts.len(), 1);
        assert_eq!(attempts[0].status, Outcome::Completed);
        assert_eq!(attempts[0].duration_ms, Some(900.0));
    }

    #[test]
    fn attempts_of_one_number_are_told_apart_after_a_reset() {
        let end = || activity_end(ActivityStatus::Failed, 1.0, None);
        let model = model(&[
            stored(of_attempt(activity_start(), 1), "r", 0),
            stored(of_attempt(end(), 1), "r", 1),
            stored(of_attempt(activity_start(), 1), "r", 50),
            stored(of_attempt(end(), 1), "r", 51),
        ]);
        assert_eq!(model.runs[0].activities[0].attempts.len(), 2);
    }

    #[test]
    fn children_stand_with_the_run_that_started_them() {
        let mut child = stored(workflow_start(), "c", 5);
        let mut event = child.event().unwrap();
        event.metadata.workflow_id = Some("w/child".to_owned());
        event.metadata.parent_workflow_id = Some("w".to_owned());
        event.metadata.parent_run_id = Some("r2".to_owned());
        child = StoredEvent::new(1, &event).unwrap();
        let model = model(&[
            stored(workflow_start(), "r1", 0),
            stored(workflow_start(), "r2", 3),
            child,
        ]);
        assert_eq!(model.runs[1].children, [2]);
        assert_eq!(model.runs[2].parent, Some(1));
        assert!(model.runs[0].children.is_empty());
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.50), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&values[..1], 0.50), Some(1.0));
        assert_eq!(percentile(&[], 0.50), None);
    }

    #[test]
    fn statistics_count_failures_among_what_ended() {
        let model = model(&[
            stored(workflow_start(), "open", 0),
            stored(workflow_end(WorkflowState::Completed, 10.0, None), "a", 1),
            stored(
                workflow_end(WorkflowState::Failed, 30.0, Some(&failed())),
                "b",
                2,
            ),
        ]);
        let (workflows, activities) = statistics(&model);
        let order = &workflows["Order"];
        assert_eq!((order.count, order.running, order.failed), (3, 1, 1));
        assert_eq!(order.failure_rate, Some(0.5));
        assert_eq!((order.p50_ms, order.p95_ms), (Some(10.0), Some(30.0)));
        assert!(activities.is_empty());
    }
}
