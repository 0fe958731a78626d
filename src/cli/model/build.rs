//! Puts a model together from events.

use super::{
    Activity, Failure, Mark, Model, Outcome, Run, Time, Worker, failure, fill, finish_activities,
    number, text,
};
use crate::event::{Event, EventError, LifecycleEvent, StoredEvent};
use serde_json::Value;
use std::collections::HashMap;

/// Puts a model together, event by event, in any order.
#[derive(Debug, Default)]
pub(in crate::cli) struct Builder {
    model: Model,
    runs: HashMap<(String, String), usize>,
    // The activities of a run, or of none.
    activities: HashMap<(Option<usize>, String), usize>,
    workers: HashMap<String, usize>,
}

impl Builder {
    /// Adds an event.
    pub(in crate::cli) fn add(&mut self, stored: &StoredEvent) -> Result<(), EventError> {
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
    pub(in crate::cli) fn finish(self) -> Model {
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
pub(in crate::cli) fn model<'a>(events: impl IntoIterator<Item = &'a StoredEvent>) -> Model {
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
