//! The sample's runs, step by step: each step moves the run's clock on and notes what a worker would have reported.
//! Knows how drafts are made, and not what the sample tells.

use crate::{
    context::{ActivityFrame, Context, Frame, WorkerFrame, WorkflowFrame},
    event::{
        ActivityStatus, Event, FailureDetails, WorkflowState,
        lifecycle::{
            activity_async_end, activity_end, activity_start, workflow_end, workflow_start,
        },
    },
    record::{DETECTED_BY, Draft, Identity, Rules},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use uuid::Uuid;

pub(super) type Time = DateTime<Utc>;

/// Everything that was reported so far, with its time.
pub(super) struct Notes {
    pub(super) rules: Arc<Rules>,
    pub(super) now: Time,
    pub(super) rng: fastrand::Rng,
    drafts: Vec<(Time, Draft)>,
}

impl Notes {
    pub(super) fn new(rules: &Arc<Rules>, now: Time, seed: u64) -> Self {
        Self {
            rules: rules.clone(),
            now,
            rng: fastrand::Rng::with_seed(seed),
            drafts: Vec::new(),
        }
    }

    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Returns what was reported, in the order of time.
    pub(super) fn into_drafts(mut self) -> Vec<Draft> {
        self.drafts.sort_by_key(|(at, _)| *at);
        self.drafts.into_iter().map(|(_, draft)| draft).collect()
    }

    /// Notes what happened, unless it is yet to come.
    fn note(&mut self, at: Time, mut event: Event, context: &Context, is_lifecycle: bool) {
        if at > self.now {
            return;
        }
        event.metadata.created_at = Some(at);
        let context = context.clone();
        let draft = match is_lifecycle {
            true => Draft::lifecycle(&self.rules, event, context),
            false => Draft::published(&self.rules, event, context, Identity::Random),
        };
        self.drafts.push((at, draft));
    }

    pub(super) fn lifecycle(&mut self, at: Time, event: Event, context: &Context) {
        self.note(at, event, context, true);
    }

    pub(super) fn publish(&mut self, at: Time, event: Event, context: &Context) {
        self.note(at, event, context, false);
    }

    /// About so many milliseconds.
    pub(super) fn about(&mut self, ms: f64) -> f64 {
        ms * (0.6 + 0.8 * self.rng.f64())
    }

    fn uuid(&mut self) -> String {
        Uuid::from_u128(self.rng.u128(..)).to_string()
    }
}

/// How an attempt ends: how long it takes, and how.
pub(super) struct Ending {
    pub(super) ms: f64,
    pub(super) status: ActivityStatus,
    pub(super) failure: Option<FailureDetails>,
}

pub(super) fn completed(ms: f64) -> Ending {
    Ending {
        ms,
        status: ActivityStatus::Completed,
        failure: None,
    }
}

pub(super) fn failed(ms: f64, kind: &str, message: &str) -> Ending {
    Ending {
        ms,
        status: ActivityStatus::Failed,
        failure: Some(failure(kind, message, false)),
    }
}

pub(super) fn failure(kind: &str, message: &str, non_retryable: bool) -> FailureDetails {
    FailureDetails {
        error_type: Some(kind.to_owned()),
        message: Some(message.to_owned()),
        non_retryable,
    }
}

/// A run under way.
pub(super) struct RunPlan {
    pub(super) at: Time,
    started: Time,
    context: Context,
    frame: WorkflowFrame,
    activities: u32,
    sequence: u64,
}

/// What a run is started with.
pub(super) struct Start<'a> {
    pub(super) at: Time,
    pub(super) workflow_type: &'a str,
    pub(super) workflow_id: String,
    pub(super) worker: &'a WorkerFrame,
    pub(super) fields: Option<Frame>,
    pub(super) parent: Option<&'a RunPlan>,
    pub(super) continues: Option<&'a RunPlan>,
}

impl RunPlan {
    /// A worker begins with the run.
    pub(super) fn start(notes: &mut Notes, start: Start<'_>) -> Self {
        let run_id = notes.uuid();
        let parent = start.parent.map(|parent| &parent.frame);
        let root = parent.map(|it| {
            it.root_workflow_id
                .clone()
                .unwrap_or(it.workflow_id.clone())
        });
        let before = start.continues.map(|before| &before.frame);
        let first = before.and_then(|it| it.first_execution_run_id.clone());
        let frame = WorkflowFrame {
            namespace: "default".into(),
            task_queue: start.worker.task_queue.clone(),
            workflow_type: start.workflow_type.into(),
            workflow_id: start.workflow_id.into(),
            workflow_run_id: run_id.as_str().into(),
            workflow_attempt: Some(1),
            first_execution_run_id: Some(first.unwrap_or_else(|| run_id.as_str().into())),
            continued_from_run_id: before.map(|it| it.workflow_run_id.clone()),
            parent_workflow_id: parent.map(|it| it.workflow_id.clone()),
            parent_run_id: parent.map(|it| it.workflow_run_id.clone()),
            root_workflow_id: root,
            traceparent: None,
            start_time: Some(start.at.into()),
        };
        let mut context = Context::new().push(start.worker.clone());
        if let Some(fields) = start.fields {
            context = context.push(fields);
        }
        let mut plan = Self {
            at: start.at,
            started: start.at,
            context: context.push(frame.clone()),
            frame,
            activities: 0,
            sequence: 0,
        };
        plan.report(notes, workflow_start());
        plan.pass(notes, 12.0);
        plan
    }

    fn report(&mut self, notes: &mut Notes, mut event: Event) {
        self.sequence += 1;
        event.metadata.sequence = Some(self.sequence);
        notes.lifecycle(self.at, event, &self.context);
    }

    /// About so many milliseconds pass.
    pub(super) fn pass(&mut self, notes: &mut Notes, ms: f64) {
        let ms = notes.about(ms);
        self.at = later(self.at, ms);
    }

    /// Workflow code publishes an event.
    pub(super) fn publish(&mut self, notes: &mut Notes, mut event: Event) {
        self.sequence += 1;
        event.metadata.sequence = Some(self.sequence);
        notes.publish(self.at, event, &self.context);
        self.pass(notes, 2.0);
    }

    /// An activity is executed until an attempt is the last one. Returns when it ended; the run's clock stays.
    pub(super) fn begin(
        &mut self,
        notes: &mut Notes,
        activity_type: &str,
        endings: Vec<Ending>,
        is_local: bool,
    ) -> Time {
        self.activities += 1;
        let scheduled = self.at;
        let mut at = later(scheduled, notes.about(8.0));
        let mut pause = 1000.0;
        let last = endings.len();
        for (index, ending) in endings.into_iter().enumerate() {
            let attempt = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let context = self.context.push(ActivityFrame {
                namespace: self.frame.namespace.clone(),
                task_queue: self.frame.task_queue.clone(),
                workflow_type: Some(self.frame.workflow_type.clone()),
                workflow_id: Some(self.frame.workflow_id.clone()),
                workflow_run_id: Some(self.frame.workflow_run_id.clone()),
                workflow_start_time: self.frame.start_time,
                activity_type: activity_type.into(),
                activity_id: self.activities.to_string().into(),
                scheduled_time: Some(scheduled.into()),
                attempt,
                is_local,
                ..ActivityFrame::default()
            });
            notes.lifecycle(at, activity_start(), &context);
            let ms = notes.about(ending.ms);
            at = later(at, ms);
            if ending.status == ActivityStatus::WillCompleteAsync {
                let left = activity_end(ending.status, 1.0, None);
                notes.lifecycle(later(at, 1.0 - ms), left, &context);
                let ended = activity_async_end(ActivityStatus::Completed, ms, None);
                notes.lifecycle(at, ended.metadata(DETECTED_BY, "reconciler"), &context);
            } else {
                let ended = activity_end(ending.status, ms, ending.failure.as_ref());
                notes.lifecycle(at, ended, &context);
            }
            if index + 1 < last {
                at = later(at, pause);
                pause *= 2.0;
            }
        }
        at
    }

    /// An activity is executed, and the workflow waits for it.
    pub(super) fn execute(&mut self, notes: &mut Notes, activity: &str, endings: Vec<Ending>) {
        self.at = self.begin(notes, activity, endings, false);
        self.pass(notes, 10.0);
    }

    /// The worker sees the end of the run.
    pub(super) fn end(
        &mut self,
        notes: &mut Notes,
        state: WorkflowState,
        failure: Option<&FailureDetails>,
    ) {
        let ms = (self.at - self.started).as_seconds_f64() * 1000.0;
        self.report(notes, workflow_end(state, ms, failure));
    }

    /// Only the reconciler sees the end of the run.
    pub(super) fn end_unseen(
        &mut self,
        notes: &mut Notes,
        state: WorkflowState,
        reason: Option<&str>,
    ) {
        let ms = (self.at - self.started).as_seconds_f64() * 1000.0;
        let mut event = workflow_end(state, ms, None).metadata(DETECTED_BY, "reconciler");
        if let Some(reason) = reason {
            event.data.insert("reason".to_owned(), reason.into());
        }
        notes.lifecycle(self.at, event, &self.context);
    }
}

pub(super) fn later(at: Time, ms: f64) -> Time {
    at + TimeDelta::microseconds((ms * 1000.0) as i64)
}
