//! Fills what an event leaves empty from the context stack.

use super::{identity::utc, trim};
use crate::{
    context::{Context, StackFrame},
    event::{Event, EventMetadata, WorkflowState},
};
use std::time::SystemTime;

/// Fills what the event leaves empty, from the top of the stack to its bottom, then the rest. Gives back
/// what user frames have that breaks a rule: it stays out.
pub(crate) fn enrich(
    event: &mut Event,
    context: &Context,
    created: SystemTime,
    application_name: &str,
) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let metadata = &mut event.metadata;
    for frame in context.frames() {
        fill(metadata, frame, &mut faults);
    }
    if metadata.workflow_state == WorkflowState::Unknown && metadata.workflow_id.is_some() {
        metadata.workflow_state = WorkflowState::Running;
    }
    if metadata.application_name.is_none() {
        metadata.application_name = Some(application_name.to_owned());
    }
    let created_at = *metadata
        .created_at
        .get_or_insert_with(|| utc(created).unwrap_or_default());
    metadata
        .created_timestamp
        .get_or_insert_with(|| created_at.timestamp());
    if metadata.topic_name.is_none() {
        metadata.topic_name = Some(event.event_type.clone());
    }
    if event.event_name.is_empty() {
        event.event_name = event.event_type.clone();
    }
    faults
}

fn set(field: &mut Option<String>, value: Option<&str>) {
    if field.is_none()
        && let Some(value) = value
    {
        *field = Some(value.to_owned());
    }
}

fn fill(metadata: &mut EventMetadata, frame: &StackFrame, faults: &mut Vec<&'static str>) {
    match frame {
        StackFrame::User(user) => {
            for (name, value) in user.fields() {
                // Who is running, and what the event is, is not for a frame to say: ids rest on it.
                let settable = ["application_name", "topic_name", "traceparent"]
                    .into_iter()
                    .find(|settable| settable == name);
                if settable.is_none() && EventMetadata::is_known_field(name) {
                    continue;
                }
                if trim::is_fit(name, value) {
                    metadata.fill_field(name, value);
                } else {
                    trim::at_fault(faults, settable.unwrap_or("metadata"));
                }
            }
        }
        StackFrame::Activity(activity) => {
            set(&mut metadata.namespace, Some(&activity.namespace));
            set(&mut metadata.task_queue, activity.task_queue.as_deref());
            set(
                &mut metadata.workflow_type,
                activity.workflow_type.as_deref(),
            );
            set(&mut metadata.workflow_id, activity.workflow_id.as_deref());
            set(
                &mut metadata.workflow_run_id,
                activity.workflow_run_id.as_deref(),
            );
            set(&mut metadata.activity_type, Some(&activity.activity_type));
            set(&mut metadata.activity_id, Some(&activity.activity_id));
            set(&mut metadata.traceparent, activity.traceparent.as_deref());
            metadata.attempt.get_or_insert(activity.attempt);
            metadata.is_local.get_or_insert(activity.is_local);
            if let Some(run_id) = activity.activity_run_id.as_deref() {
                metadata.fill_field("activity_run_id", &run_id.into());
            }
        }
        StackFrame::Workflow(workflow) => {
            set(&mut metadata.namespace, Some(&workflow.namespace));
            set(&mut metadata.task_queue, workflow.task_queue.as_deref());
            set(&mut metadata.workflow_type, Some(&workflow.workflow_type));
            set(&mut metadata.workflow_id, Some(&workflow.workflow_id));
            set(
                &mut metadata.workflow_run_id,
                Some(&workflow.workflow_run_id),
            );
            set(
                &mut metadata.first_execution_run_id,
                workflow.first_execution_run_id.as_deref(),
            );
            set(
                &mut metadata.continued_from_run_id,
                workflow.continued_from_run_id.as_deref(),
            );
            set(
                &mut metadata.parent_workflow_id,
                workflow.parent_workflow_id.as_deref(),
            );
            set(
                &mut metadata.parent_run_id,
                workflow.parent_run_id.as_deref(),
            );
            set(
                &mut metadata.root_workflow_id,
                workflow.root_workflow_id.as_deref(),
            );
            set(&mut metadata.traceparent, workflow.traceparent.as_deref());
            if metadata.workflow_attempt.is_none() {
                metadata.workflow_attempt = workflow.workflow_attempt;
            }
        }
        StackFrame::Worker(worker) => {
            set(&mut metadata.namespace, worker.namespace.as_deref());
            set(&mut metadata.task_queue, worker.task_queue.as_deref());
            set(
                &mut metadata.worker_identity,
                worker.worker_identity.as_deref(),
            );
            set(&mut metadata.build_id, worker.build_id.as_deref());
            set(&mut metadata.sdk_version, worker.sdk_version.as_deref());
        }
    }
}
