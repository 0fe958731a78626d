//! The fields that a frame of the context stack gives to events, and their values. Knows neither what the event
//! has already, nor how fields are encoded.

use super::trim;
use crate::{context::StackFrame, event::EventMetadata};
use serde_json::Value;
use std::sync::Arc;

/// A value that a frame gives.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    Text(&'a Arc<str>),
    Number(u32),
    Flag(bool),
    /// A value in a frame of the application.
    Value(&'a Value),
}

impl Given<'_> {
    pub(super) fn to_value(self) -> Value {
        match self {
            Self::Text(text) => text.as_ref().into(),
            Self::Number(number) => number.into(),
            Self::Flag(flag) => flag.into(),
            Self::Value(value) => value.clone(),
        }
    }
}

/// Calls `take` with the name and value of each field of the frame. A field of an application's frame that breaks
/// a rule is left out and noted in `faults`.
pub(super) fn given<'a>(
    frame: &'a StackFrame,
    faults: &mut Vec<&'static str>,
    mut take: impl FnMut(&'a str, Given<'a>),
) {
    let mut texts = |texts: &[(&'static str, Option<&'a Arc<str>>)]| {
        for (name, text) in texts {
            if let Some(text) = text {
                take(name, Given::Text(text));
            }
        }
    };
    match frame {
        StackFrame::User(user) => {
            for (name, value) in user.fields() {
                // A frame may not set the fields from which ids are derived: who is running, and what the
                // event is.
                let settable = ["application_name", "topic_name", "traceparent"]
                    .into_iter()
                    .find(|settable| settable == name);
                if settable.is_none() && EventMetadata::is_known_field(name) {
                    continue;
                }
                if trim::is_fit(name, value) {
                    take(name, Given::Value(value));
                } else {
                    trim::at_fault(faults, settable.unwrap_or("metadata"));
                }
            }
        }
        StackFrame::Activity(activity) => {
            texts(&[
                ("namespace", Some(&activity.namespace)),
                ("task_queue", activity.task_queue.as_ref()),
                ("workflow_type", activity.workflow_type.as_ref()),
                ("workflow_id", activity.workflow_id.as_ref()),
                ("workflow_run_id", activity.workflow_run_id.as_ref()),
                ("activity_type", Some(&activity.activity_type)),
                ("activity_id", Some(&activity.activity_id)),
                ("traceparent", activity.traceparent.as_ref()),
                ("activity_run_id", activity.activity_run_id.as_ref()),
            ]);
            take("attempt", Given::Number(activity.attempt));
            take("is_local", Given::Flag(activity.is_local));
        }
        StackFrame::Workflow(workflow) => {
            texts(&[
                ("namespace", Some(&workflow.namespace)),
                ("task_queue", workflow.task_queue.as_ref()),
                ("workflow_type", Some(&workflow.workflow_type)),
                ("workflow_id", Some(&workflow.workflow_id)),
                ("workflow_run_id", Some(&workflow.workflow_run_id)),
                (
                    "first_execution_run_id",
                    workflow.first_execution_run_id.as_ref(),
                ),
                (
                    "continued_from_run_id",
                    workflow.continued_from_run_id.as_ref(),
                ),
                ("parent_workflow_id", workflow.parent_workflow_id.as_ref()),
                ("parent_run_id", workflow.parent_run_id.as_ref()),
                ("root_workflow_id", workflow.root_workflow_id.as_ref()),
                ("traceparent", workflow.traceparent.as_ref()),
            ]);
            if let Some(attempt) = workflow.workflow_attempt {
                take("workflow_attempt", Given::Number(attempt));
            }
        }
        StackFrame::Worker(worker) => texts(&[
            ("namespace", worker.namespace.as_ref()),
            ("task_queue", worker.task_queue.as_ref()),
            ("worker_identity", worker.worker_identity.as_ref()),
            ("build_id", worker.build_id.as_ref()),
            ("sdk_version", worker.sdk_version.as_ref()),
        ]),
    }
}
