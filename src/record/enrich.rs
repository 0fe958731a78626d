//! Fills the empty fields of an event from the context stack.

use super::{given::given, identity::utc};
use crate::{
    context::Context,
    event::{Event, EventMetadata, WorkflowState},
};
use std::time::SystemTime;

/// Fills the empty fields of an event from the context stack, the top frame first, and then from what the store
/// knows. Returns the names of fields of user frames that break a rule: they are left out.
pub(crate) fn enrich(
    event: &mut Event,
    context: &Context,
    created: SystemTime,
    application_name: &str,
) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let metadata = &mut event.metadata;
    for frame in context.frames() {
        given(frame, &mut faults, |name, value| {
            metadata.fill_field(name, || value.to_value());
        });
    }
    if metadata.workflow_state == WorkflowState::Unknown && metadata.workflow_id.is_some() {
        metadata.workflow_state = WorkflowState::Running;
    }
    if metadata.application_name.is_none() {
        metadata.application_name = Some(application_name.to_owned());
    }
    set_time(metadata, created);
    if metadata.topic_name.is_none() {
        metadata.topic_name = Some(event.event_type.clone());
    }
    if event.event_name.is_empty() {
        event.event_name = event.event_type.clone();
    }
    faults
}

/// Sets when the event happened, unless it says so itself.
pub(super) fn set_time(metadata: &mut EventMetadata, created: SystemTime) {
    let created_at = *metadata
        .created_at
        .get_or_insert_with(|| utc(created).unwrap_or_default());
    metadata
        .created_timestamp
        .get_or_insert_with(|| created_at.timestamp());
}
